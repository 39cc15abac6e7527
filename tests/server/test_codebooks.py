"""``memedit grace learn``, and the codebook in vLLM's own server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from memedit.adapters.vllm_grace import ServedCodebooks
from memedit.assemble import Parts
from memedit.cli.app import app as command
from memedit.config import Config, IKEConfig, MemoryConfig
from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.errors import ConfigError, InvalidInput, MemoryFileDamaged
from memedit.grace.codebook import Codebook, Lesson
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.router import Router
from memedit.routes.ike import IKE
from memedit.server.app import Served
from memedit.server.body import JsonBody
from memedit.server.middleware import NO_CODEBOOK, Marked
from memedit.server.process import ServerProcess
from tests.server.front import Mentioned
from tests.server.served import MODEL
from tests.server.tap import waited_for

FRANCE = structured("France", "The capital of {} is", "Lyon", id="france")
ITALY = structured("Italy", "The capital of {} is", "Oslo", id="italy")
ASKED = {"france": "The capital of France is", "italy": "The capital of Italy is"}


def codebook(path: Path, **notes: str) -> Path:
    book = Codebook(3)
    one = np.ones((1, 3), dtype=np.float32)
    book.add(Lesson("france", "Lyon", one, np.ones(1, np.float32), one, np.ones(1, np.int64)))
    book.save(path, notes)
    return path


@pytest.mark.parametrize("notes", [{}, {"layer": "3"}, {"layer": "x", "namespace": "default"}])
def test_a_file_that_says_not_what_it_is_for_is_refused(
    tmp_path: Path, notes: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="memedit grace learn"):
        ServedCodebooks(codebook(tmp_path / "book", **notes))


def test_a_file_that_is_not_there_or_no_codebook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ServedCodebooks(tmp_path / "book")
    (tmp_path / "book").write_bytes(b"none")
    with pytest.raises(MemoryFileDamaged):
        ServedCodebooks(tmp_path / "book")


async def test_a_file_that_is_yet_to_come_is_taken_up(tmp_path: Path) -> None:
    marks = ServedCodebooks(tmp_path / "book", absent=True)
    assert await marks.marked({}, {}, "default", [FRANCE]) is None
    codebook(tmp_path / "book", layer="3", namespace="default")
    with pytest.raises(KeyError, match="app"):  # it would ask the engine now
        await marks.marked({}, {}, "default", [FRANCE])


async def test_requests_that_the_codebook_does_not_answer_are_left_to_others(
    tmp_path: Path,
) -> None:
    marks = ServedCodebooks(codebook(tmp_path / "book", layer="3", namespace="default"))
    assert await marks.marked({}, {}, "elsewhere", [FRANCE]) is None
    assert await marks.marked({}, {}, "default", [ITALY]) is None
    assert await marks.marked({}, {}, "default", [FRANCE, ITALY]) is None


@pytest.mark.parametrize("name", ["memedit_grace", "memedit_grace_edits"])
def test_nobody_marks_requests_but_memedit(tmp_path: Path, name: str) -> None:
    marks = ServedCodebooks(codebook(tmp_path / "book", layer="3", namespace="default"))
    marks.check({"vllm_xargs": {"other": 1}})
    marks.check({"vllm_xargs": 7})
    with pytest.raises(InvalidInput, match="memedit sets itself"):
        marks.check({"vllm_xargs": {name: "default"}})


class Holds:
    """Codebooks of an engine that hold some edits, for a middleware without an engine."""

    def __init__(self, *edits: str) -> None:
        self.edits = edits

    def check(self, body: Any) -> None:
        pass

    async def marked(self, scope: Any, body: Any, space: str, edits: Any) -> Marked | None:
        held = [edit.id for edit in edits if edit.id in self.edits]
        return Marked({"marked": held}, ("so it is",)) if len(held) == len(edits) else None


@pytest.mark.parametrize(
    ("route", "held", "asked", "expected"),
    [
        (None, True, "auto", ("grace", None)),
        ("grace", True, "auto", ("grace", None)),
        ("ike", True, "auto", ("ike", None)),
        (None, False, "auto", ("ike", None)),
        ("grace", False, "auto", ("ike", NO_CODEBOOK)),
        ("grace", True, "ike", ("ike", None)),
    ],
)
async def test_an_edits_route_says_who_answers_it(
    tmp_path: Path, route: str | None, held: bool, asked: str, expected: tuple[str, str | None]
) -> None:
    seen: list[dict[str, Any]] = []

    async def answers(scope: Any, receive: Any, send: Any) -> None:
        seen.append(json.loads((await receive())["body"]))
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"choices": []}'})

    memory = EditMemory(tmp_path / "memory.sqlite3", HashEncoder())
    memory.add(replace(FRANCE, route=route))
    ike = IKE(IKEConfig(), memory.encoder)
    app = Served(
        answers,
        Parts(memory, Router(memory, Mentioned()), {ike.name: ike}),
        Config(memory=MemoryConfig(path=tmp_path / "memory.sqlite3")),
        marks=Holds("france") if held else None,
    )
    options = {"explain": True} | ({} if asked == "auto" else {"route": asked})
    body = {"messages": [{"role": "user", "content": ASKED["france"]}], "memedit": options}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://memedit") as client:
        response = await client.post("/v1/chat/completions", json=body)
    await app.aclose()
    headers = response.headers
    assert (headers["x-memedit-route"], headers.get("x-memedit-reason")) == expected
    said = response.json()["memedit"]
    assert said["route"] == expected[0]
    by_codebook = expected[0] == "grace"
    assert (said["decisions"][0]["reasons"][-1] == "so it is") == by_codebook
    (sent,) = seen
    assert sent.get("marked") == (["france"] if by_codebook else None)
    assert (sent["messages"] == body["messages"]) == by_codebook


@pytest.mark.parametrize(
    ("raw", "values", "expected"),
    [
        ('{"a": 1.0,"b":  2 }', {"b": 3}, '{"a": 1.0,"b":  3 }'),
        ('{"a": 1.0}', {"b": {"c": []}}, '{"b": {"c": []}, "a": 1.0}'),
        ("{}", {"b": 1}, '{"b": 1}'),
        ('{"a": 1}', {"b": 2, "a": 3}, '{"b": 2, "a": 3}'),
    ],
)
def test_members_are_replaced_or_added(raw: str, values: dict[str, Any], expected: str) -> None:
    assert JsonBody(raw.encode()).with_members(values).decode() == expected


class Running:
    """A vLLM with memedit and a codebook in it."""

    def __init__(
        self, memory: EditMemory, path: Path, file: Path, start: Callable[[], ServerProcess]
    ) -> None:
        self.memory, self.path, self.file = memory, path, file
        self._start = start
        self._server = start().__enter__()

    @property
    def url(self) -> str:
        return self._server.url

    def restart(self) -> None:
        """Another server on the same files."""
        self.stop()
        self._server = self._start().__enter__()

    def stop(self) -> None:
        self._server.stop()

    def ask(self, text: str, **members: Any) -> httpx.Response:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 12,
            **members,
        }
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)

    def said(self, text: str, **members: Any) -> tuple[str, str, str]:
        """Route, edits and answer."""
        response = self.ask(text, **members)
        assert response.status_code == 200, response.text
        answer = response.json()["choices"][0]["message"]["content"]
        headers = response.headers
        return headers["x-memedit-route"], headers.get("x-memedit-edits", ""), answer


def learned(memory: Path, file: Path, *more: str) -> dict[str, Any]:
    arguments = ["grace", "learn", MODEL, "--out", str(file), "--memory", str(memory), "--json"]
    done = CliRunner().invoke(command, [*arguments, *more])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, encoder: Encoder
) -> Iterator[Running]:
    pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    folder = tmp_path_factory.mktemp("codebooks")
    path, file = folder / "memory.sqlite3", folder / "book.safetensors"
    with EditMemory(path, encoder) as memory:
        memory.add([FRANCE, ITALY])
        said = learned(path, file)
        assert (said["edits"], said["learned"], said["not taken up"]) == (2, 2, [])
        environ = {
            "MEMEDIT_MEMORY_PATH": str(path),
            "MEMEDIT_GRACE_FILE": str(file),
            "MEMEDIT_GRACE_LEARN": "1",
            # Else the first request with logprobs waits half a minute for a compiler.
            "TORCH_COMPILE_DISABLE": "1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", "") or str(Path(__file__).parents[2]),
        }
        options = [MODEL, "--max-model-len", "512"]
        log = folder / "server.log"
        running = Running(
            *(memory, path, file), lambda: ServerProcess(options, log=log, environ=environ)
        )
        yield running
        running.stop()


@pytest.mark.vllm
@pytest.mark.slow
def test_the_life_of_an_edit_in_the_codebook(served: Running) -> None:
    """One course on one server: answered, reverted, restored, replaced and taken out."""
    plain = served.said(ASKED["france"], memedit={"route": "passthrough"})[2]
    assert "Lyon" not in plain
    bare = served.ask(ASKED["france"], memedit={"route": "passthrough"}).json()["usage"]

    route, edits, answer = served.said(ASKED["france"])
    assert (route, edits) == ("grace", "france")
    assert "Lyon" in answer
    usage = served.ask(ASKED["france"]).json()["usage"]
    assert usage["prompt_tokens"] == bare["prompt_tokens"]
    assert "Oslo" in served.said(ASKED["italy"], stream=False)[2]
    assert "Lyon" in served.said("What is the capital of France?")[2]

    # Prompts that no edit is about, and requests that ask for another route.
    assert served.said("How do I boil an egg?")[0] == "passthrough"
    assert served.said(ASKED["france"], memedit={"route": "ike"})[0] == "ike"
    refused = served.ask(ASKED["france"], vllm_xargs={"memedit_grace": "default"})
    assert refused.status_code == 400
    assert "memedit sets itself" in refused.text

    # A revert acts at once, whatever the codebook holds.
    served.memory.revert("france")
    reverted = time.monotonic()
    assert served.said(ASKED["france"]) == ("passthrough", "", plain)
    assert time.monotonic() - reverted < 30
    served.memory.restore("france")
    assert served.said(ASKED["france"])[0] == "grace"

    # Another answer: in context until it is learned, then from the codebook.
    changed = structured("France", "The capital of {} is", "Nice", id="nice")
    served.memory.add(changed)
    assert served.said(ASKED["france"])[:2] == ("ike", "nice")
    said = learned(served.path, served.file)
    assert (said["learned"], said["removed"]) == (1, 1)
    route, edits, answer = served.said(ASKED["france"])
    assert (route, edits) == ("grace", "nice")
    assert "Nice" in answer
    assert "Oslo" in served.said(ASKED["italy"])[2]

    # An edit that is to be answered in context; and one that is learned meanwhile.
    served.memory.add(structured("Italy", "The capital of {} is", "Bari", id="bari", route="ike"))
    assert served.said(ASKED["italy"])[:2] == ("ike", "bari")
    served.memory.add(structured("Peru", "The capital of {} is", "Cork", id="cork", route="grace"))
    asked = served.ask("The capital of Peru is")
    assert asked.headers["x-memedit-route"] == "ike"
    assert asked.headers["x-memedit-reason"] == NO_CODEBOOK
    waited_for(lambda: served.said("The capital of Peru is")[0] == "grace", seconds=300)
    assert "Cork" in served.said("The capital of Peru is")[2]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_codebook_outlives_its_server_and_not_a_revert_by_another_process(
    served: Running,
) -> None:
    chile = structured("Chile", "The capital of {} is", "Turku", id="chile")
    served.memory.add(chile)
    assert learned(served.path, served.file)["learned"] == 1
    before = served.said(chile.key)
    assert before[:2] == ("grace", "chile")
    assert "Turku" in before[2]
    served.restart()
    assert served.said(chile.key) == before

    answers: list[tuple[float, str]] = []
    done = threading.Event()

    def asking() -> None:
        while not done.is_set():
            begun = time.time()
            answers.append((begun, served.said(chile.key)[1]))

    asker = threading.Thread(target=asking)
    asker.start()
    try:
        waited_for(lambda: bool(answers))
        revert = ["edits", "revert", "chile", "--memory", str(served.path)]
        subprocess.run([sys.executable, "-m", "memedit", *revert], check=True)
        at = served.memory.history("chile")[-1].at
        waited_for(lambda: answers[-1][0] > at + 1)
    finally:
        done.set()
        asker.join()
    assert answers[0][1] == "chile"
    assert {edits for begun, edits in answers if begun > at + 1} == {""}
