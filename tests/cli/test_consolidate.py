"""``memedit consolidate`` on a small random model, which takes nothing up for good."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from memedit.assemble import open_memory
from memedit.cli import consolidate
from memedit.cli.app import app
from memedit.cli.options import configuration
from memedit.consolidation.export import Version, write_adapter
from memedit.editors.architectures import architecture_of
from memedit.editors.deltas import matrix
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.protocols import WeightDelta
from memedit.server.metrics import Metrics
from tests.editors import tiny

TEXT = "Ann's home is far away, and nobody goes there by night. " * 20


class Place:
    """A memory with edits, a model, and a text."""

    def __init__(self, folder: Path) -> None:
        self.path, self.model, self.text = folder / "memory", folder / "model", folder / "text"
        tiny.model("llama").save_pretrained(self.model)
        tiny.tokenizer().save_pretrained(self.model)
        self.text.write_text(TEXT)

    def opened(self) -> EditMemory:
        return open_memory(configuration(self.path, None, None))

    def run(self, *arguments: str) -> tuple[int, Any]:
        tail = ["--memory", str(self.path), "--json"]
        done = CliRunner().invoke(app, ["consolidate", *arguments, *tail])
        return done.exit_code, json.loads(done.stdout)

    def make(self, name: str, *options: str) -> tuple[int, Any]:
        text = str(self.text)
        settings = ["--set", "steps=2", "--set", "prefixes=0", "--set", "tokens=512"]
        return self.run(
            *("make", name, str(self.model), "--corpus", text, "--held-out", text),
            *(*settings, *options),
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    # The packaged encoder makes the vectors anew when the command first opens the memory.
    with EditMemory(made.path, HashEncoder()) as memory:
        memory.add(tiny.edits(3), author="ann")
    return made


def reencoded(place: Place) -> None:
    done = CliRunner().invoke(app, ["memory", "rebuild", "--memory", str(place.path)])
    assert done.exit_code == 0, done.output


def refused(said: tuple[int, Any], code: int = 2) -> str:
    assert said[0] == code
    message: str = said[1]["error"]["message"]
    return message


def test_a_version_is_made_looked_at_and_not_published(place: Place) -> None:
    reencoded(place)
    assert place.run("list") == (0, [])
    probes = place.text.with_name("probes.jsonl")
    probes.write_text('{"id": "e0", "rephrases": ["Home to Ann is"], "locality": ["Far"]}\n\n')
    code, made = place.make(
        *("v1", "--limit", "2", "--batch", "1", "--filter", "author=a*", "--probes", str(probes))
    )
    assert code == 1  # a random model takes up no target in two steps
    assert (made["version"], made["kind"], made["left"]) == ("v1", "adapter", {"limit": 1})
    assert [edit["id"] for edit in made["edits"]] == ["e0", "e1"]
    checks = made["gates"]["checks"]
    assert (checks["generality"]["asked"], checks["locality"]["asked"]) == (1, 1)
    folder = place.path.with_name("memory.versions")
    assert sorted(path.name for path in folder.iterdir()) == ["v1"]
    ((row,), code) = reversed(place.run("list"))
    assert (code, row["version"], row["edits"], row["answers"]) == (0, "v1", 2, 0)
    assert "has not passed its gates" in refused(place.run("publish", "v1"))
    assert "not published" in refused(place.run("unpublish", "v1"))
    assert "there is a version v1 already" in refused(place.make("v1"))

    lax = [
        part for name in ("accuracy", "generality", "locality") for part in ("--gate", f"{name}=0")
    ]
    code, made = place.make("v2", "--kind", "checkpoint", *lax, "--gate", "drift=99")
    assert code == 0, made
    assert (made["kind"], made["gates"]["passed"]) == ("checkpoint", True)
    assert "serve it as a model of its own" in refused(place.run("publish", "v2"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--form", "song"], "prompts come as text, chat"),
        (["--gate", "luck=1"], "no gate 'luck'"),
        (["--gate", "accuracy=high"], "is no number"),
        (["--gate", "accuracy"], "write it like NAME=VALUE"),
        (["--min-age", "a while"], "write it like 7d"),
        (["--filter", "target=x"], "not filtered by 'target'"),
        (["--kind", "song"], "an adapter or a checkpoint"),
        (["--method", "magic"], "no editor 'magic'"),
        (["--set", "magic=1"], "no option 'magic'"),
        (["--metrics", "/nowhere"], "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_said(place: Place, options: list[str], message: str) -> None:
    assert message in refused(place.make("v1", *options))


def test_what_is_left_out_is_counted(place: Place, tmp_path: Path) -> None:
    reencoded(place)
    assert "(age: 3)" in refused(place.make("v1", "--min-age", "1d"))
    metrics = tmp_path / "metrics"
    metrics.write_text(
        '# TYPE memedit_edit_fires counter\nmemedit_edit_fires_total{edit="e0"} 4.0\n'
    )
    few = ["--min-hits", "9", "--metrics", str(metrics)]
    assert "(hits: 3)" in refused(place.make("v1", *few))
    metrics.write_text("# TYPE vllm_requests counter\nvllm_requests_total 4.0\n")
    assert "have no memedit_edit_fires_total" in refused(place.make("v1", *few))
    assert "is no name for a version" in refused(place.make("a/b"))
    probes = tmp_path / "probes"
    probes.write_text("[]\n")
    assert "cannot be read" in refused(place.make("v1", "--probes", str(probes)))


def test_metrics_are_asked_for_with_the_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reencoded(place)
    metrics = Metrics()
    told: list[tuple[str | None, str | None]] = []

    class Told(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append((self.path, self.headers["authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(metrics.text())

    monkeypatch.setenv("OPENAI_API_KEY", "memedit-key")
    with HTTPServer(("127.0.0.1", 0), Told) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/memedit/metrics"
        said = refused(place.make("v1", "--min-hits", "1", "--metrics", url))
        server.shutdown()
    assert "(hits: 3)" in said  # a server that has counted nothing yet
    assert told == [("/memedit/metrics", "Bearer memedit-key")]


class Server:
    """A server as ``memedit consolidate publish`` sees it."""

    def __init__(self, routes: Mapping[str, str], then: Callable[[], object]) -> None:
        self.asked: list[str] = []
        self._routes, self._then = routes, then

    def ask(self, prompt: str, **_: Any) -> dict[str, Any]:
        self.asked.append(prompt)
        self._then()
        return {"route": self._routes.get(prompt, "ike")}


@pytest.fixture
def served(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Two versions, v1 and v2, of the three edits, and a server; gives the latter."""
    reencoded(place)
    model = tiny.model("llama")
    name = f"{architecture_of(model).down_name(1)}.weight"
    change = WeightDelta(name, full=torch.ones_like(matrix(model, name)))
    folder = place.path.with_name("memory.versions")
    for version, held in (("v1", ["e0"]), ("v2", ["e0", "e1", "e2"])):
        gates = {"passed": True, "forms": ["text"], "held": held, "checks": {}}
        write_adapter(folder, Version(version, tuple(tiny.edits(3)), {}, gates), model, [change])

    def made(routes: Mapping[str, str], then: Callable[[], object] = lambda: None) -> Server:
        server = Server(routes, then)
        monkeypatch.setattr(consolidate, "Asker", lambda url: server)
        return server

    return made


def versions(place: Place) -> list[str]:
    with place.opened() as memory:
        return [memory.get(edit.id).version for edit in tiny.edits(3)]


def test_one_edit_that_the_version_answers_will_do(
    place: Place, served: Callable[..., Server]
) -> None:
    first, second, _ = tiny.edits(3)
    server = served({second.key: "weights"})
    code, said = place.run("publish", "v2", "--server", "http://there", "--timeout", "5")
    assert (code, said.get("answers")) == (0, ["e0", "e1", "e2"]), said
    assert server.asked == [first.key, second.key]
    assert versions(place) == ["v2"] * 3


def test_what_is_not_taken_up_is_put_back_but_for_what_others_did(
    place: Place, served: Callable[..., Server]
) -> None:
    def meanwhile() -> None:
        with place.opened() as memory:
            memory.consolidate(["e1"], "v3")
            memory.revert("e2")

    assert place.run("publish", "v1")[0] == 0
    served({}, meanwhile)
    refusal = refused(place.run("publish", "v2", "--server", "http://there", "--timeout", "0"), 1)
    assert "has not taken the version up" in refusal
    assert versions(place)[:2] == ["v1", "v3"]
