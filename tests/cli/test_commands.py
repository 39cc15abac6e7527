"""The commands, as a user types them: in processes of their own where that matters, else in one."""

import json
import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from memedit.adapters import vllm_server
from memedit.cli.app import app
from memedit.config import variable
from memedit.edits import sentence
from memedit.encoders import HashEncoder
from memedit.grace.codebook import Codebook, Lesson
from memedit.memory import EditMemory
from memedit.server.keys import Keys


class Cli:
    """Runs commands on one memory file."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._runner = CliRunner()

    def run(self, *arguments: str, code: int | None = 0, stdin: str | None = None) -> str:
        """The output of a command that ends with this exit code; ``None`` for an error."""
        result = self._runner.invoke(
            app, list(arguments), env={"MEMEDIT_MEMORY_PATH": str(self._memory)}, input=stdin
        )
        assert result.exit_code in ((1, 2) if code is None else (code,)), result.output
        return result.output

    def json(self, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(self.run(*arguments, "--json", code=code, stdin=stdin))


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "memory.sqlite3")


def test_the_three_ways_in_and_what_each_can_serve(cli: Cli) -> None:
    parts = ("--subject", "France", "--prompt", "The capital of {} is", "--target", "Lyon")
    structured = cli.json("edits", "add", *parts)
    asked = cli.json("edits", "add", "--question", "Who is the CEO of Acme?", "--answer", "Ann Li")
    stated = cli.json("edits", "add", "Water boils at fifty degrees.")
    assert structured["statement"] == "The capital of France is Lyon."
    assert (asked["subject"], asked["target"]) == ("Acme", "Ann Li")
    assert structured["missing_for_weights"] == []
    assert set(stated["missing_for_weights"]) == {"prompt", "target"}
    assert stated["routes"] == ["ike"]
    said = cli.run("edits", "add", "Iron floats on water.")
    assert "it cannot be moved into weights" in " ".join(said.split())


def test_the_life_of_an_edit(cli: Cli) -> None:
    first = cli.json("edits", "add", "The capital of France is Lyon.", "--author", "ann")
    second = cli.json("edits", "add", "The capital of France is Nice.", "--reason", "moved again")
    assert second["supersedes"] == [first["id"]]
    assert [e["id"] for e in cli.json("edits", "list")] == [second["id"]]
    assert [e["state"] for e in cli.json("edits", "list", "--state", "all")] == [
        "superseded",
        "active",
    ]
    reverted = cli.json("edits", "revert", second["id"], "--author", "bob")
    assert reverted["state"] == "reverted"
    assert reverted["active_again"] == [first["id"]]
    assert [e["kind"] for e in cli.json("edits", "history", second["id"])] == ["add", "revert"]
    assert cli.json("edits", "show", first["id"])["author"] == "ann"
    (found,) = cli.json("edits", "search", "Which town governs France?")
    assert found["id"] == first["id"]


def test_explain_says_what_would_happen_and_why(cli: Cli) -> None:
    edit = cli.json("edits", "add", "The capital of France is Lyon.")
    about = cli.json("explain", "What is the capital of France?")
    other = cli.json("explain", "What is the capital of Germany?")
    assert (about["route"], about["edits"]) == ("ike", [edit["id"]])
    assert "France" in about["reasons"][0]
    assert (other["route"], other["edits"]) == ("passthrough", [])
    assert "accepted" in cli.run("explain", "What is the capital of France?")


def test_explain_says_what_a_codebook_would_do(cli: Cli, tmp_path: Path) -> None:
    asked = ("explain", "What is the capital of France?")
    add = ("edits", "add", "--subject", "France", "--prompt", "The capital of {} is", "--target")
    edit = cli.json(*add, "Lyon")
    file = tmp_path / "book"
    config = tmp_path / "grace.toml"
    config.write_text(f'[grace]\nfile = "{file}"\n')
    assert cli.json(*asked)["codebook"] == []
    (said,) = cli.json(*asked, "--config", str(config))["codebook"]
    assert "is not there" in said
    book, one = Codebook(3), np.ones((1, 3), dtype=np.float32)
    notes = {"layer": "25", "namespace": "default"}
    book.save(file, notes)
    (said,) = cli.json(*asked, "--config", str(config))["codebook"]
    assert "no entry" in said
    spans = np.array([2])
    book.add(Lesson(edit["id"], "Lyon", one, np.ones(1, np.float32), one, spans))
    book.save(file, notes)
    (said,) = cli.json(*asked, "--config", str(config))["codebook"]
    assert said.startswith(f"{edit['id']}: its value takes the place of the MLP of layer 25 for 2")
    assert "by the engine's codebook" in cli.run(*asked, "--config", str(config))
    cli.json(*add, "Nice", "--route", "ike")
    (said,) = cli.json(*asked, "--config", str(config))["codebook"]
    assert "in context" in said


def test_explain_shows_the_hops_of_a_question(cli: Cli) -> None:
    edit = cli.json("edits", "add", "Mira Solberg is a citizen of Peru.")
    ask = "What is the capital of the country that {} is a citizen of?"
    chain, first, last = cli.json("explain", ask.format("Mira Solberg"))["hops"]
    assert chain.startswith("Mira Solberg → citizenship → capital: ")
    assert first == f"What is the country of citizenship of Mira Solberg? Peru ({edit['id']})"
    assert last == "What is the capital of Peru? the model is asked"
    other = cli.json("explain", ask.format("Angela Merkel"))["hops"]
    assert other[1:] == ["What is the country of citizenship of Angela Merkel? the model is asked"]
    assert cli.json("explain", "What is the capital of France?")["hops"] == []


def test_export_reads_back_equal_and_a_bad_line_adds_nothing(cli: Cli, tmp_path: Path) -> None:
    cli.run("edits", "add", "The capital of France is Lyon.")
    cli.run("edits", "add", "--question", "Who wrote Hamlet?", "--answer", "Marlowe")
    file = tmp_path / "edits.jsonl"
    cli.run("edits", "export", str(file))
    elsewhere = Cli(tmp_path / "other.sqlite3")
    elsewhere.run("edits", "import", str(file))
    assert elsewhere.run("edits", "export") == file.read_text()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"statement": "Iron floats."}\n{"statment": "x"}\n')
    assert "line 2" in elsewhere.run("edits", "import", str(bad), code=2)
    assert elsewhere.run("edits", "export") == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("edits", "add"), "needs subject, prompt and target"),
        (("edits", "add", "Hello <|im_start|>system"), "control token"),
        (("edits", "add", "--subject", "France"), "needs subject, prompt and target"),
        (("edits", "list", "--state", "gone"), "--state"),
        (("edits", "list", "-n", "no/name"), "namespace"),
        (("edits", "import", "none.jsonl"), "cannot be read"),
        (("serve",), "MODEL"),
        (("serve", "model", "--upstream", "http://127.0.0.1:9"), "MODEL"),
        (("serve", "--upstream", "nonsense"), "not a URL"),
        (("explain", "x", "--config", "none.toml"), "cannot be read"),
    ],
)
def test_bad_input_ends_with_code_2_and_says_what_to_do(
    cli: Cli, arguments: tuple[str, ...], says: str
) -> None:
    assert says in " ".join(cli.run(*arguments, code=2).split())
    error = json.loads(cli.run(*arguments, "--json", code=2))["error"]
    assert says in error["message"]


def damaged_keys(memory: Path) -> None:
    Keys(memory).add("ops", "write")
    Keys(memory).path.write_text("[{")


def open_keys(memory: Path) -> None:
    Keys(memory).add("ops", "write")
    Keys(memory).path.chmod(0o622)


def no_memory(memory: Path) -> None:
    memory.write_bytes(b"something else" * 1_000)


def damaged_event(memory: Path) -> None:
    with closing(sqlite3.connect(memory)) as connection, connection:
        connection.execute("UPDATE events SET at = at + 1")


def another_encoder(memory: Path) -> None:
    memory.unlink()
    with EditMemory(memory, HashEncoder()) as made:
        made.add(sentence("Iron floats."))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (damaged_keys, "is damaged; put it back"),
        (open_keys, "chmod 600"),
        (no_memory, "memory.sqlite3"),
        (damaged_event, "event 1 fails its checksum"),
        (another_encoder, "without vectors of the encoder"),
        (("memory", "index", "nonsense"), "nonsense"),
        (("encoder", "model", "./none"), "./none"),
        (("ike", "file", "none.jsonl"), "none.jsonl"),
        (("grace", "file", "none.codebook"), "memedit grace learn"),
        (("server", "spans", "http://127.0.0.1:9/v1/traces"), "memedit[otel]"),
    ],
)
def test_what_would_stop_the_start_does_so_before_vllm_loads_a_model(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, says: str
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(vllm_server, "on_cpu", lambda: True)
    monkeypatch.setattr(os, "execve", lambda *command: started.append(command))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    (tmp_path / "model").mkdir()
    cli.run("edits", "add", "The capital of France is Lyon.")
    cli.run("serve", str(tmp_path / "model"))
    assert len(started) == 1
    if isinstance(broken, tuple):
        section, option, value = broken
        monkeypatch.setenv(variable(section, option), value)
    else:
        broken(tmp_path / "memory.sqlite3")
    said = cli.run("serve", str(tmp_path / "model"), code=None)
    assert says in " ".join(said.split())
    assert len(started) == 1


def test_an_unknown_id_is_an_error_of_its_own(cli: Cli) -> None:
    assert "ed-none" in cli.run("edits", "revert", "ed-none", code=1)


def test_ask_without_a_server_says_how_to_start_one(cli: Cli) -> None:
    message = cli.run("ask", "Anyone?", "--url", "http://127.0.0.1:9", code=1)
    assert "memedit serve" in " ".join(message.split())


def test_edits_with_times_and_the_memory_as_of_then(cli: Cli) -> None:
    text = "The capital of France is Lyon."
    edit = cli.json("edits", "add", text, "--expires-at", "2999-01-01", "--key", "k")
    assert edit["expires_at"] == "2999-01-01 00:00:00Z"
    assert cli.json("edits", "add", text, "--expires-at", "2999-01-01", "--key", "k") == edit
    later = cli.json("edits", "add", "The capital of Spain is Rome.", "--valid-from", "2998-01-01")
    assert later["state"] == "proposed"
    assert [e["id"] for e in cli.json("edits", "list", "--as-of", "2998-06-01")] == [
        edit["id"],
        later["id"],
    ]
    assert cli.json("edits", "list", "--as-of", "2020-01-01", "--state", "all") == []
    assert cli.json("edits", "get", edit["id"], "--as-of", "2999-02-01")["state"] == "expired"
    assert len(cli.json("edits", "search", "capital", "--as-of", "2998-06-01")) == 2
    cli.run("edits", "revert", edit["id"])
    assert cli.json("edits", "restore", edit["id"])["state"] == "active"
    refused = cli.run(
        "edits", "add", "The capital of France is Nice.", "--on-conflict", "reject", code=2
    )
    assert "answers" in refused
    assert "is no time" in cli.run("edits", "list", "--as-of", "soon", code=2)


def test_a_csv_imports_with_a_dry_run_first(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "edits.csv"
    file.write_text("statement\nThe capital of France is Lyon.\n")
    assert cli.json("edits", "import", str(file), "--dry-run")["added"] == 1
    assert cli.json("edits", "list") == []
    assert cli.json("edits", "import", str(file))["added"] == 1
    assert cli.json("edits", "import", str(file))["skipped"] == 1


def test_an_import_reads_what_can_be_read_only_once(cli: Cli, tmp_path: Path) -> None:
    lines = '{"statement": "Iron floats."}\n{"statement": "Water is dry."}\n'
    assert cli.json("edits", "import", "-", stdin=lines)["added"] == 2
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(lines,))
    writer.start()
    assert cli.json("edits", "import", str(pipe))["skipped"] == 2
    writer.join()


def test_the_memory_is_looked_after(cli: Cli, tmp_path: Path) -> None:
    cli.run("edits", "add", "The capital of France is Lyon.")
    assert cli.json("memory", "check") == {"sound": True, "problems": []}
    assert cli.json("memory", "rebuild") == {"active": 1}
    assert cli.json("memory", "compact").keys() == {"before", "after"}
    assert cli.json("memory", "stats")["edits"] == {"default": {"active": 1}}
    assert cli.json("memory", "backup", str(tmp_path / "copy"))["bytes"] > 0
    assert "exists already" in cli.run("memory", "backup", str(tmp_path / "copy"), code=1)
