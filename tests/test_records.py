"""Edits without an object: every answer is the same as with one, whatever happens to them."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from memedit import snapshots, timeline, view
from memedit.edits import Edit, question, sentence, structured
from memedit.encoders import HashEncoder
from memedit.errors import InvalidInput, MemoryFileDamaged
from memedit.memory import EditMemory
from memedit.records import COLUMNS, Plain

ENCODER = HashEncoder()
STATES = ("proposed", "active", "consolidated", "superseded", "reverted", "expired")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are let go at once, and snapshots written of any size."""
    for module in (snapshots, view):
        monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(timeline, "FOLD", 0)


def mayor(number: int, name: str, edit_id: str | None = None) -> Edit:
    return structured(f"Town {number}", "The mayor of {} is", name, id=edit_id)


def fill(memory: EditMemory, count: int) -> None:
    memory.add([mayor(i, f"Mayor {i}", f"edit-{i}") for i in range(count)])


def held(memory: EditMemory) -> set[str]:
    return {record.edit.id for record in memory._view.timeline.records.held()}


def edits_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.index") / "edits"


def shown(memory: EditMemory) -> list[object]:
    """All that callers can see."""
    queries = [f"Who is the mayor of Town {i}?" for i in range(8)]
    return [
        [memory.records(namespace, STATES) for namespace in ("default", "other", None)],
        [memory.records(None, (state,)) for state in STATES],
        memory.candidates(queries, k=5),
        memory.search("the mayor of Town 3", k=4),
        {name: of for name, of in memory.stats()["edits"].items() if of},
        memory.namespaces(),
        len(memory),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_memory_without_objects_shows_what_one_with_objects_shows(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    now = 1_000_000.0

    def clock() -> float:
        return now

    with monkeypatch.context() as patched:
        patched.setattr(timeline, "FOLD", 10_000)
        plain = EditMemory(tmp_path / "objects.db", ENCODER, clock=clock)
    lean = EditMemory(tmp_path / "lean.db", ENCODER, clock=clock)
    ids: list[str] = []
    spared = False
    for step in range(60):
        now += 1.0
        number, name, edit_id = rng.randrange(30), f"Name {rng.randrange(6)}", f"edit-{step}"
        made = rng.choice(
            [
                mayor(number, name, edit_id),
                mayor(number, name, edit_id),
                question(f"Who is the mayor of Town {number}?", name, id=edit_id),
                sentence(f"it is said that {name} lives near here {number}", id=edit_id),
            ]
        )
        on_conflict = rng.choice(["supersede", "supersede", "keep-both", "reject"])
        ends = now + rng.randrange(1, 40) if rng.random() < 0.15 else None
        begins = now + rng.randrange(1, 20) if rng.random() < 0.1 and ends is None else None
        namespace = rng.choice(["default"] * 3 + ["other"])
        kind = rng.choice(["add"] * 6 + ["revert", "restore", "consolidate", "reopen"])
        of = rng.choice(ids) if ids else ""
        came_to = []
        for memory in (plain, lean):
            try:
                if kind == "add":
                    came_to.append(
                        memory.add(
                            made,
                            namespace=namespace,
                            on_conflict=on_conflict,  # type: ignore[arg-type]
                            valid_from=begins,
                            expires_at=ends,
                        )
                    )
                elif kind == "revert" and of:
                    came_to.append(memory.revert(of))
                elif kind == "restore" and of:
                    came_to.append(memory.restore(of))
                elif kind == "consolidate" and of:
                    came_to.append(memory.consolidate([of], "v1" if step % 3 else ""))
            except InvalidInput as error:
                came_to.append(str(error).replace("lean.db", "objects.db"))
        if kind == "reopen":
            lean.close()
            lean = EditMemory(tmp_path / "lean.db", ENCODER, clock=clock)
        if kind == "add" and isinstance(came_to[0], list):
            ids.append(came_to[0][0].edit.id)
        assert came_to[:1] == came_to[1:]
        spared |= held(lean) < held(plain)
        if step % 10 == 9:
            assert shown(lean) == shown(plain)
            assert lean.check() == plain.check() == []
            assert [lean.get(i) for i in ids] == [plain.get(i) for i in ids]
            before = now - 20.0
            assert lean.records(None, STATES, as_of=before) == plain.records(
                None, STATES, as_of=before
            )
    assert spared
    plain.close()
    lean.close()


def test_edits_that_stand_alone_have_no_object_until_something_happens_to_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "memory.db"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 30)
        assert held(memory) == set()
        memory.add(mayor(7, "Somebody", "new"))
        assert memory.get("edit-7").superseded_by == "new"
        memory.revert("edit-9")
        assert held(memory) == {"edit-7", "new", "edit-9"}
        assert memory.get("edit-3").edit == mayor(3, "Mayor 3", "edit-3")
    with EditMemory(path, ENCODER) as memory:
        assert held(memory) == {"edit-7", "new", "edit-9"}
        memory.restore("edit-9")
        memory.revert("new")
        assert memory.records() == [memory.get(f"edit-{i}") for i in range(30)]
        assert memory.add(mayor(3, "Mayor 3"))[0].edit.id == "edit-3"
        assert memory.check() == []


def test_what_another_process_writes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 30)
    with EditMemory(path, ENCODER) as memory, EditMemory(path, ENCODER) as other:
        other.add(mayor(4, "Somebody", "new"))
        assert memory.get("edit-4").state == "superseded"
        memory.revert("new")
        assert other.get("edit-4").state == "active"
        assert shown(memory) == shown(other)


@pytest.mark.parametrize(
    "doubt", ["cut", "flipped", "emptied", "of another journal", "of other code", "gone ahead"]
)
def test_states_in_doubt_are_made_anew(
    tmp_path: Path, doubt: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.db"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 30)
        memory.add(mayor(7, "Somebody", "new"))
        expected = shown(memory)
    file = edits_file(path)
    data = bytearray(file.read_bytes())
    if doubt == "cut":
        data = data[:-40]
    elif doubt == "flipped":
        data[-100] ^= 1
    elif doubt == "emptied":
        data = bytearray()
    elif doubt == "of another journal":
        with EditMemory(tmp_path / "other.db", ENCODER) as memory:
            fill(memory, 30)
        data = bytearray(edits_file(tmp_path / "other.db").read_bytes())
    elif doubt == "of other code":
        monkeypatch.setattr(snapshots, "_code", lambda: "another")
    else:
        # The same beginning, and another way from there: a backup that was put back.
        copy = tmp_path / "copy.db"
        with EditMemory(path, ENCODER) as memory:
            memory.backup(copy)
            memory.add([mayor(i, "X", f"later-{i}") for i in range(40, 60)])
        shutil.copytree(file.parent, copy.with_name(f"{copy.name}.index"))
        path = copy
        with EditMemory(path, ENCODER) as memory:
            memory.add([mayor(i, "Y", f"instead-{i}") for i in range(20, 60)])
            expected = shown(memory)
        shutil.rmtree(copy.with_name(f"{copy.name}.index"))
        shutil.copytree(file.parent, copy.with_name(f"{copy.name}.index"))
    if doubt != "gone ahead":
        file.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING), EditMemory(path, ENCODER) as memory:
        assert shown(memory) == expected
        assert memory.check() == []
    assert "states of edits are made anew" in caplog.text


def test_a_missing_event_is_found_although_there_is_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 30)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE position = 5")
    with pytest.raises(MemoryFileDamaged, match="event 5 is missing"):
        EditMemory(path, ENCODER)


def test_a_damaged_event_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 30)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = '{}' WHERE position = 5")
    with EditMemory(path, ENCODER) as memory:
        assert memory.get("edit-3").state == "active"
        with pytest.raises(MemoryFileDamaged, match="event 5 fails its checksum"):
            memory.get("edit-4")
        assert memory.check() == ["event 5 fails its checksum"]


def test_columns() -> None:
    plain = Plain()
    plain.add([(5, "a", 11, 0), (2, "b", 12, 21), (9, "a", 11, 21)])
    assert plain.positions().tolist() == [2, 5, 9]
    assert plain.positions("a").tolist() == [5, 9]
    assert plain.positions("c").tolist() == []
    assert (plain.stating(11), plain.answering(21), plain.stating(1)) == ([5, 9], [2, 9], [])
    plain.remove(5)
    plain.remove(5)
    assert [position for position in range(12) if plain.holds(position)] == [2, 9]
    assert (len(plain), plain.stating(11)) == (2, [9])
    same = Plain(plain.namespaces, plain.columns())
    assert same == plain
    assert plain.columns().keys() == COLUMNS.keys()
    plain.add([(4, "c", 13, 0)])
    assert plain.positions().tolist() == [2, 4, 9]
    assert same != plain
