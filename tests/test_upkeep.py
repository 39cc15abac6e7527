"""Looking after the memory file: check, rebuild, compact, measure, back up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memedit.edits import Edit, structured
from memedit.encoders import HashEncoder
from memedit.errors import MemoryFileDamaged, MemoryFileError
from memedit.memory import EditMemory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def memory(path: Path) -> Iterator[EditMemory]:
    with EditMemory(path, HashEncoder(), index="exact") as opened:
        yield opened


def capital(target: str, country: str = "France", **rest: object) -> Edit:
    return structured(country, "The capital of {} is", target, **rest)


def tamper(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_sound_file_is_sound(memory: EditMemory) -> None:
    assert memory.check() == []
    memory.add([capital("Lyon"), capital("Nice"), capital("Rome", "Spain")])
    assert memory.check() == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE events SET body = replace(body, 'Lyon', 'Metz')", "event 1 fails its checksum"),
        ("DELETE FROM events WHERE position = 1", "event 1 is missing"),
        ("DELETE FROM events WHERE position = 2", "events from 2 on are missing"),
        ("UPDATE vectors SET vector = zeroblob(1024) WHERE position = 2", "the vector of event 2"),
    ],
)
def test_damage_is_named(memory: EditMemory, path: Path, statement: str, says: str) -> None:
    memory.add([capital("Lyon"), capital("Rome", "Spain")])
    tamper(path, statement)
    assert any(problem.startswith(says) for problem in memory.check())


def test_an_index_that_lost_an_edit_is_found_and_rebuilt(memory: EditMemory) -> None:
    (record, _) = memory.add([capital("Lyon"), capital("Rome", "Spain")])
    space = memory._view.namespaces["default"]
    assert space.index is not None
    space.index.remove(np.array([record.position]))
    assert memory.check() == ["the index of default is not of its edits in force; rebuild it"]
    assert memory.rebuild() == 2
    assert memory.check() == []


def test_compaction_keeps_history_and_what_may_answer(memory: EditMemory, path: Path) -> None:
    countries = [f"Country-{i}" for i in range(300)]
    for target in ("Lyon", "Nice", "Metz"):
        memory.add([capital(target, country, id=f"{target}-{country}") for country in countries])
    memory.add(capital("Oslo", "Country-0", id="while"), expires_at=4e9)
    memory.revert("Metz-Country-1")
    every = ("active", "superseded", "reverted")
    before = memory.records(states=every)
    events = memory.stats()["events"]
    sizes = memory.compact()
    assert sizes["after"] < 0.7 * sizes["before"]
    assert memory.records(states=every) == before
    assert memory.stats()["events"] == events
    assert memory.stats()["vectors"] == 301
    assert memory.check() == []
    # What is set free has its vector again, also for who opens the file later.
    memory.revert("Metz-Country-2")
    memory.revert("Nice-Country-1")
    memory.restore("Metz-Country-1")
    memory.revert("while")
    with EditMemory(path, HashEncoder(), index="exact") as again:
        assert len(again) == 300
        assert again.get("Nice-Country-2").state == "active"
        assert again.check() == []


def test_a_backup_is_a_memory_and_overwrites_nothing(memory: EditMemory, tmp_path: Path) -> None:
    memory.add(capital("Lyon"))
    copy = tmp_path / "copy.db"
    memory.backup(copy)
    memory.add(capital("Nice"))
    with EditMemory(copy, HashEncoder(), index="exact") as other:
        assert [r.edit.target for r in other.records()] == ["Lyon"]
        other.add(capital("Metz"))
    with pytest.raises(MemoryFileError, match="exists already"):
        memory.backup(copy)
    with pytest.raises(MemoryFileError, match="cannot be"):
        memory.backup(tmp_path / "missing" / "copy.db")
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.db"]


def test_a_compaction_without_room_loses_nothing(memory: EditMemory) -> None:
    memory.add([capital("Lyon", f"Country {i}") for i in range(50)])
    writer = memory._view.journal._writer
    assert writer is not None
    # A trigger fails in the middle of what compaction deletes, as a full disk would.
    memory.add(capital("Nice", "Country 3"))
    writer.execute("PRAGMA max_page_count = 1")
    writer.execute(
        "CREATE TEMP TRIGGER full BEFORE DELETE ON vectors BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(MemoryFileError, match="Nothing of this call was written"):
        memory.compact()
    writer.execute("DROP TRIGGER full")
    assert memory.check() == []
    assert memory.stats()["vectors"] == 51


def test_a_damaged_record_stops_the_memory_and_names_the_way_out(
    memory: EditMemory, path: Path
) -> None:
    memory.add(capital("Lyon"))
    tamper(path, "UPDATE events SET body = replace(body, 'Lyon', 'Metz')")
    with pytest.raises(MemoryFileDamaged, match="backup"):
        EditMemory(path, HashEncoder(), index="exact")
