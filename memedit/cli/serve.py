"""``memedit serve``: vLLM's server with memedit in it, or memedit in front of any server."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from memedit.cli.options import ConfigOption, JsonOption, MemoryOption, NamespaceOption
from memedit.cli.output import print_json
from memedit.config import Config, load
from memedit.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Adds the command; options that it does not know are vLLM's."""
    passing = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("serve", context_settings=passing)(serve)


def serve(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL] [VLLM OPTIONS]...",
            help="A model folder, a hub name, or the packaged smollm2-135m-instruct; "
            "every further option is vLLM's.",
        ),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Stand in front of this server instead.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    show_config: Annotated[
        bool,
        typer.Option(
            "--show-config", help="Print what is set, as a configuration file; no server."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a model on vLLM, or stand in front of an OpenAI-compatible server, with edits live."""
    flags: dict[str, dict[str, Any]] = {
        "memory": {"path": memory, "namespace": namespace},
        "server": {"host": host, "port": port},
    }
    configured = load(flags, file=config)
    if show_config:
        if as_json:
            print_json(tomllib.loads(configured.to_toml()))
        else:
            print(configured.to_toml())
        return
    if model is not None and model.startswith("-"):
        raise InvalidInput(
            f"unknown option {model!r}: with --upstream no vLLM starts"
            if upstream is not None
            else f"serve needs a MODEL in front of vLLM's options; the first word is {model!r}"
        )
    if (model is None) == (upstream is None):
        raise InvalidInput(
            "serve needs either a MODEL for vLLM or --upstream URL, as in "
            "`memedit serve smollm2-135m-instruct` or `memedit serve --upstream http://127.0.0.1:8000`"
        )
    server = configured.server
    if upstream is not None:
        if ctx.args:
            raise InvalidInput(f"unknown option {ctx.args[0]!r}: with --upstream no vLLM starts")
        _proxy(upstream, configured, as_json)
        return
    assert model is not None
    listening = ["--host", server.host, "--port", str(server.port)]
    _vllm(model, [*listening, *ctx.args], configured, as_json)


def _vllm(model: str, options: list[str], config: Config, as_json: bool) -> None:
    from memedit.models import PACKAGED, packaged

    _check_model(model, list(PACKAGED))
    # By name: nothing in memedit imports what an adapter imports.
    adapter = import_module("memedit.adapters.vllm_server")
    adapter.check(config)
    if model in PACKAGED:
        if "--served-model-name" not in options:
            options = [*options, "--served-model-name", model]
        model = str(packaged(model))
    if as_json:
        print_json(
            {"command": adapter.command(model, options, cpu=adapter.on_cpu(), config=config)}
        )
    adapter.serve(model, options, config)


def _check_model(model: str, packaged: list[str]) -> None:
    """Says at once what vLLM would say after a minute, or after a look at a hub."""
    if model in packaged or Path(model).expanduser().exists():
        return
    if model.startswith((".", "/", "~")):
        raise InvalidInput(f"there is no model folder {model}")
    if "/" not in model and (close := get_close_matches(model, packaged, 1)):
        raise InvalidInput(f"there is no packaged model {model!r}; did you mean {close[0]}?")


def _proxy(upstream: str, config: Config, as_json: bool) -> None:
    from memedit.server.app import ProxyApp
    from memedit.server.listen import server

    app, options = ProxyApp(upstream, config), config.server
    if as_json:
        print_json({"upstream": upstream, "host": options.host, "port": options.port})
    server(app, options).run()
