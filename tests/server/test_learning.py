"""Learning in the background: when its command runs, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from memedit.cli.app import app
from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.server.learning import Learning, learner
from tests.server.tap import waited_for

FRANCE = structured("France", "The capital of {} is", "Lyon", id="france", route="grace")
ITALY = structured("Italy", "The capital of {} is", "Oslo", id="italy")

NOTES = "import os, sys; print(os.getpriority(os.PRIO_PROCESS, 0), file=open(sys.argv[1], 'a'))"


def runs(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def test_it_learns_after_what_happens_to_edits_that_ask_for_it(tmp_path: Path) -> None:
    path, file = tmp_path / "memory.sqlite3", tmp_path / "runs"
    # It waits until it has been put at its priority.
    slow = [sys.executable, "-c", f"import time; time.sleep(0.5); {NOTES}", str(file)]
    with EditMemory(path, HashEncoder()) as memory:
        memory.add([FRANCE, ITALY])
        learning = Learning(path, "default", slow, every=0.05)
        try:
            waited_for(lambda: len(runs(file)) == 1)
            memory.revert("italy")
            memory.add(replace(FRANCE, id="elsewhere"), namespace="elsewhere")
            memory.revert("france")
            waited_for(lambda: len(runs(file)) == 2)
            memory.add(replace(ITALY, id="another", target="Bari", route="grace"))
            waited_for(lambda: len(runs(file)) == 3)
            memory.add(replace(ITALY, id="peru", subject="Peru", route="ike"))
            time.sleep(0.7)
        finally:
            learning.close()
    assert runs(file) == ["19"] * 3


def test_it_ends_what_is_running_when_it_ends(tmp_path: Path) -> None:
    path, file = tmp_path / "memory.sqlite3", tmp_path / "pid"
    code = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w')); time.sleep(60)"
    with EditMemory(path, HashEncoder()) as memory:
        memory.add(FRANCE)
        learning = Learning(path, "default", [sys.executable, "-c", code, str(file)], every=0.05)
        waited_for(lambda: bool(runs(file)))
        started = time.monotonic()
        learning.close()
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(runs(file)[0]), 0)


def test_a_command_that_fails_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, HashEncoder()) as memory, caplog.at_level(logging.ERROR):
        memory.add(FRANCE)
        learning = Learning(path, "default", [sys.executable, "-c", "raise SystemExit('no')"])
        waited_for(lambda: "failed: no" in caplog.text)
        learning.close()


def test_its_command_is_one_that_there_is(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    command = learner(str(tmp_path / "none"), tmp_path / "book", tmp_path / "memory", "default")
    assert command[:3] == [sys.executable, "-m", "memedit"]
    done = CliRunner().invoke(app, command[3:])
    assert done.exit_code == 2
    assert "cannot load none" in done.output
