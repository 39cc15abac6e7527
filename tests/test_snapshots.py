"""A large memory opens from what was saved beside it, and never trusts it over the journal."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from memedit import snapshots
from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.view import View

ENCODER = HashEncoder()
KINDS = ("exact", "flat", "hnsw", "auto")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots from 20 edits on: what they hold is the same for ten thousand."""
    monkeypatch.setattr(snapshots, "LEAST", 20)
    monkeypatch.setattr("memedit.view.LEAST", 20)


def fill(memory: EditMemory, start: int, stop: int, namespace: str = "default") -> None:
    memory.add(
        [
            structured(f"Town {i}", "The mayor of {} is", f"Mayor {i}", id=f"{namespace}-{i}")
            for i in range(start, stop)
        ],
        namespace=namespace,
    )


def folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def seen(memory: EditMemory, namespace: str = "default") -> list[object]:
    """Everything that queries can tell."""
    queries = [f"Who is the mayor of Town {i}?" for i in range(0, 60, 3)]
    return [
        [(c.edit.id, c.mention, c.likeness) for c in candidates]
        + [(r.edit.id, round(cosine, 3)) for r, cosine in memory.search(query, 5, namespace)]
        for query, candidates in zip(queries, memory.candidates(queries, namespace, 5), strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_opened_from_a_snapshot_is_the_one_that_was_closed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, ENCODER, index=kind) as memory:
        fill(memory, 0, 40)
        fill(memory, 0, 30, "other")
        before = seen(memory), seen(memory, "other")
    assert {file.name for file in folder(path).glob("*.index")} == {"default.index", "other.index"}
    read: list[int] = []
    vectors = View.vectors

    def counted(self, records, *rest, **named):  # type: ignore[no-untyped-def]
        read.append(len(records))
        return vectors(self, records, *rest, **named)

    monkeypatch.setattr(View, "vectors", counted)
    with EditMemory(path, ENCODER, index=kind) as memory:
        assert sum(read) == 2, "one row a namespace, for its length"
        assert (seen(memory), seen(memory, "other")) == before
        assert memory.check() == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_happened_since_is_taken_in(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, ENCODER, index=kind) as memory:
        fill(memory, 0, 40)
    saved = (folder(path) / "default.index").read_bytes()
    with EditMemory(path, ENCODER, index=kind) as memory:
        fill(memory, 40, 50)
        memory.revert("default-3")
        memory.add(structured("Town 6", "The mayor of {} is", "Mayor Six", id="new-6"))
    (folder(path) / "default.index").write_bytes(saved)  # as after a kill before the close
    with EditMemory(path, ENCODER, index=kind) as memory:
        assert memory.check() == []
        found = seen(memory)
    (folder(path) / "default.index").unlink()
    with EditMemory(path, ENCODER, index=kind) as anew:
        assert seen(anew) == found


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "of another journal"])
def test_a_snapshot_in_doubt_is_left_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 0, 40)
        expected = seen(memory)
    file = folder(path) / "default.index"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[100] ^= 1
    elif damage == "emptied":
        data = bytearray()
    else:
        other = tmp_path / "other.sqlite3"
        with EditMemory(other, ENCODER) as memory:
            fill(memory, 0, 45)
        data = bytearray((folder(other) / "default.index").read_bytes())
    file.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING), EditMemory(path, ENCODER) as memory:
        assert seen(memory) == expected
        assert memory.check() == []
    assert "made anew" in caplog.text


def test_another_encoder_does_not_meet_the_rows_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 0, 40)
    other = HashEncoder(dim=2 * ENCODER.dim)
    with EditMemory(path, other, reencode=True) as memory:
        (candidates,) = memory.candidates(["the mayor of Town 7"], "default", 3)
        assert candidates[0].edit.id == "default-7"
        assert memory.check() == []


def test_a_small_memory_has_no_snapshot_and_a_folder_that_cannot_be_made_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = tmp_path / "small.sqlite3"
    with EditMemory(small, ENCODER) as memory:
        fill(memory, 0, 19)
    assert not folder(small).exists()
    path = tmp_path / "memory.sqlite3"
    folder(path).write_text("in the way")
    with caplog.at_level(logging.WARNING), EditMemory(path, ENCODER) as memory:
        fill(memory, 0, 40)
    assert "not saved" in caplog.text
    with EditMemory(path, ENCODER) as memory:
        assert memory.count() == 40


def test_rebuild_writes_snapshots_anew(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    with EditMemory(path, ENCODER) as memory:
        fill(memory, 0, 40)
    file = folder(path) / "default.index"
    good = file.read_bytes()
    file.write_bytes(b"nothing")
    with EditMemory(path, ENCODER) as memory:
        memory.rebuild()
        assert len(file.read_bytes()) == len(good)
        rows = memory.search("the mayor of Town 5", k=1)
        assert rows[0][0].edit.id == "default-5"
