"""What add has returned survives SIGKILL; what it has not returned is there whole or not at all."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memedit.edits import from_mapping
from memedit.encoders import HashEncoder
from memedit.journal import Journal
from memedit.memory import EditMemory

EDITS = 200
DIM = 64
KILLS = 10  # of each kind in the sample

# Adds its edits in batches of up to three, reverts some, and says so once each call has returned.
# The vectors come from hashing: nothing is loaded, so that the kills fall into the writing.
WRITER = """
import sys
from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = EditMemory(path, HashEncoder(int(sys.argv[4])), index="exact")
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < count:
    size = min(1 + done % 3, count - done)
    edits = [
        structured(f"Country {name}-{i}", "The capital of {} is", "Lyon", id=f"{name}-{i}")
        for i in range(done, done + size)
    ]
    shared = structured("Shared", "The capital of {} is", f"City {name}-{done}")
    memory.add([*edits, shared])
    for edit in edits:
        print("added", edit.id, flush=True)
    if done % 7 == 0:
        memory.revert(edits[0].id)
        print("reverted", edits[0].id, flush=True)
    done += size
"""


def start(path: Path, *names: str) -> list[subprocess.Popen[str]]:
    """Writers that begin together, once each of them is ready."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name, str(EDITS), str(DIM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    return writers


def kill_after(writer: subprocess.Popen[str], lines: int, seconds: float) -> str:
    """Kills it so long after it has acknowledged so many calls; what it had said until then."""
    assert writer.stdout is not None
    text = "".join(writer.stdout.readline() for _ in range(lines))
    time.sleep(seconds)
    writer.send_signal(signal.SIGKILL)
    return text


def said(writer: subprocess.Popen[str], before: str = "") -> list[tuple[str, str]]:
    """What the writer acknowledged: ``(kind, edit id)``; a line cut by the kill does not count."""
    assert writer.stdout is not None
    text = before + writer.stdout.read()
    writer.stdout.close()
    writer.wait()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [(kind, edit_id) for kind, _, edit_id in (line.partition(" ") for line in lines)]


def check(path: Path, acknowledged: list[tuple[str, str]], *, is_compacted: bool = False) -> None:
    encoder = HashEncoder(DIM)
    with EditMemory(path, encoder) as memory:
        for kind, edit_id in acknowledged:
            states = ("reverted",) if kind == "reverted" else ("active", "reverted")
            assert memory.get(edit_id).state in states

        # Nothing is half there: an add is a whole call, with its vectors, each of them right.
        journal = Journal(path)
        added = [event for event in journal.read_since(0) if event.kind == "add"]
        stored = journal.vectors(encoder.name, [event.position for event in added])
        journal.close()
        keys = [from_mapping(event.edit or {}).key for event in added]
        if not is_compacted:
            assert stored.keys() == {event.position for event in added}
        for event, row in zip(added, encoder.encode(keys), strict=True):
            if event.position in stored:
                np.testing.assert_array_equal(stored[event.position], row)
        # A call writes its own edits and then the shared one: every call is there whole.
        call: list[str] = []
        for event in added:
            if not event.edit_id.startswith("ed-"):
                call.append(event.edit_id)
                continue
            name, first = call[0].split("-")
            size = min(1 + int(first) % 3, EDITS - int(first))
            assert call == [f"{name}-{i}" for i in range(int(first), int(first) + size)]
            call = []
        assert call == []

        # The index is what the journal says, entry by entry.
        active = memory.records()
        assert len(memory) == len(active)
        found = memory.search("The capital of Shared is", k=len(active) + 10)
        assert {record.position for record, _ in found} == {record.position for record in active}
        assert sum(record.edit.subject == "Shared" for record in active) == 1
        for record in active[:: max(1, len(active) // 20)]:
            ((nearest, cosine),) = memory.search(record.edit.key, k=1)
            assert cosine == pytest.approx(1, abs=1e-5)
            assert nearest.edit.key == record.edit.key


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_writer_loses_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "memory.db"
    (writer,) = start(path, "a")
    # Counted in calls, not in seconds, so that a fast machine is not done before the kill.
    acknowledged = said(writer, kill_after(writer, rng.randrange(120), rng.uniform(0.0, 0.005)))
    assert writer.returncode == -signal.SIGKILL
    check(path, acknowledged)
    # And it goes on from there.
    (again,) = start(path, "b")
    check(path, acknowledged + said(again))
    assert again.returncode == 0


def test_two_writers_of_which_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    writers = start(path, "a", "b")
    killed = said(writers[0], kill_after(writers[0], 60, 0.0))
    finished = said(writers[1])
    assert writers[0].returncode == -signal.SIGKILL
    assert writers[1].returncode == 0
    assert len([1 for kind, _ in finished if kind == "added"]) == EDITS
    check(path, killed + finished)


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    writers = start(path, "a", "b")
    acknowledged = [line for writer in writers for line in said(writer)]
    assert len([1 for kind, _ in acknowledged if kind == "added"]) == 2 * EDITS
    check(path, acknowledged)


# Looks after the file over and over, until it is killed in the middle of it.
KEEPER = """
import sys
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory

memory = EditMemory(sys.argv[1], HashEncoder(int(sys.argv[2])), index="exact")
print("ready", flush=True)
while True:
    memory.compact()
    memory.rebuild()
"""


def start_keeper(path: Path) -> subprocess.Popen[str]:
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, path, str(DIM)], stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == "ready\n"
    return keeper


def kill_in_many_places(path: Path, seed: int, kind: str, kills: int) -> None:
    """Kills that fall into writing, into two writers, or into compaction and rebuild meanwhile.

    All on one file, which goes on growing: what one kill leaves is what the next begins with.
    """
    rng = random.Random(seed)
    acknowledged: list[tuple[str, str]] = []
    for number in range(kills):
        names = [f"{kind}{number}x"] if kind != "two" else [f"a{number}x", f"b{number}x"]
        writers = start(path, *names)
        keeper = start_keeper(path) if kind == "keeper" else None
        if keeper is not None:
            time.sleep(rng.uniform(0.0, 0.1))
            keeper.kill()
            keeper.wait()
            assert keeper.stdout is not None
            keeper.stdout.close()
        texts = [kill_after(w, rng.randrange(1, 60), rng.uniform(0.0, 0.005)) for w in writers]
        for writer, text in zip(writers, texts, strict=True):
            acknowledged += said(writer, text)
            assert writer.returncode in (-signal.SIGKILL, 0)
    check(path, acknowledged, is_compacted=kind == "keeper")
    with EditMemory(path, HashEncoder(DIM), index="exact") as memory:
        assert memory.check() == []


@pytest.mark.parametrize("kind", ["one", "two", "keeper"])
def test_a_sample_of_kills_loses_nothing(tmp_path: Path, kind: str) -> None:
    kill_in_many_places(tmp_path / "memory.db", 1, kind, KILLS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "two", "keeper"])
def test_three_hundred_kills_lose_nothing(tmp_path: Path, kind: str) -> None:
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        kill_in_many_places(folder / "memory.db", 100 + seed, kind, KILLS)
