"""Indexes on disk: each comes back as it was, or the answer is to rebuild it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memedit.indexes import KINDS, growing, make_index, snapshot
from memedit.indexes.growing import AutoIndex
from memedit.indexes.hnsw import FaissHNSWIndex
from memedit.indexes.ivfpq import LEAST
from memedit.indexes.snapshot import Loaded, Rebuild, Stamp, differences, load, save
from memedit.lexicon import SubjectLexicon

DIM = 16
STAMP = Stamp("hash@1", 5_000, "a journal")

each_kind = pytest.mark.parametrize("kind", KINDS)


def unit_rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ids_of(*ids: int) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


def filled(kind: str, count: int = 300) -> Any:
    index = make_index(kind, DIM)
    ids = np.random.default_rng(1).permutation(2 * count)[:count].astype(np.int64)
    index.add(ids, unit_rows(count))
    index.remove(ids[::7])
    index.add(ids[:49:7], unit_rows(7, 1))
    return index


@each_kind
@pytest.mark.parametrize("count", [0, 300, LEAST + 3_000])
def test_an_index_comes_back_as_it_was(kind: str, count: int, tmp_path: Path) -> None:
    index = filled(kind, count) if count else make_index(kind, DIM)
    getattr(index, "wait", lambda: None)()
    path = tmp_path / "memory.index"
    save(index, path, STAMP)
    assert [entry.name for entry in tmp_path.iterdir()] == ["memory.index"]
    loaded = load(path, kind, DIM, Stamp("hash@1", 9_999, "a journal"))
    assert isinstance(loaded, Loaded), loaded
    assert loaded.position == 5_000
    again = loaded.index
    assert type(again) is type(index)
    assert len(again) == len(index)
    assert again.tombstones == index.tombstones
    assert again.ids().tolist() == index.ids().tolist()
    queries = unit_rows(5, 2)
    for got, expected in zip(again.search(queries, 8), index.search(queries, 8), strict=True):
        np.testing.assert_array_equal(got, expected)


@each_kind
def test_a_loaded_index_takes_adds_and_removals(kind: str, tmp_path: Path) -> None:
    index = filled(kind)
    save(index, tmp_path / "index", STAMP)
    loaded = load(tmp_path / "index", kind, DIM, STAMP)
    (tmp_path / "index").unlink()
    assert isinstance(loaded, Loaded)
    for one in (index, loaded.index):
        gone = one.ids()[:5]
        assert one.remove(gone) == 5
        one.add(gone, unit_rows(5, 3))
        one.add(ids_of(90_000), unit_rows(1, 4))
        with pytest.raises(ValueError, match="already"):
            one.add(ids_of(90_000), unit_rows(1, 4))
        assert one.search(unit_rows(1, 4), 1)[1].tolist() == [[90_000]]
    assert index.ids().tolist() == loaded.index.ids().tolist()
    save(loaded.index, tmp_path / "index", STAMP)
    assert isinstance(load(tmp_path / "index", kind, DIM, STAMP), Loaded)


@pytest.mark.parametrize("kind", ["exact", "flat", "hnsw", "ivfpq"])
def test_a_file_that_is_damaged_anywhere_is_rebuilt(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    save(filled(kind), path, STAMP)
    whole = path.read_bytes()
    for cut in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert isinstance(load(path, kind, DIM, STAMP), Rebuild), cut
    for at in [*range(0, len(whole), len(whole) // 60), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert isinstance(load(path, kind, DIM, STAMP), Rebuild), at
    path.write_bytes(whole[:100] + whole[200:])
    assert isinstance(load(path, kind, DIM, STAMP), Rebuild)
    path.write_bytes(whole)
    assert isinstance(load(path, kind, DIM, STAMP), Loaded)


@pytest.mark.parametrize(
    ("kind", "dim", "stamp", "reason"),
    [
        ("hnsw", DIM, Stamp("hash@2", 5_000, "a journal"), "its encoder is 'hash@1'"),
        ("hnsw", DIM + 1, STAMP, "its dimension is 16; expected 17"),
        ("flat", DIM, STAMP, "its kind is 'hnsw'; expected 'flat'"),
        ("hnsw", DIM, Stamp("hash@1", 4_999, "a journal"), "saved at position 5,000"),
        ("hnsw", DIM, Stamp("hash@1", 5_000, "another"), "its journal is 'a journal'"),
    ],
)
def test_what_is_of_something_else_is_rebuilt(
    kind: str, dim: int, stamp: Stamp, reason: str, tmp_path: Path
) -> None:
    save(filled("hnsw"), tmp_path / "index", STAMP)
    answer = load(tmp_path / "index", kind, dim, stamp)
    assert isinstance(answer, Rebuild)
    assert reason in answer.reason


def forge(path: Path, **changes: Any) -> None:
    """Changes the description and its checksum: what another version might have written."""
    whole = path.read_bytes()
    tail = snapshot._TAIL
    length, _, magic = tail.unpack(whole[-tail.size :])
    start = len(whole) - tail.size - length
    text = json.dumps(json.loads(whole[start : start + length]) | changes).encode()
    path.write_bytes(whole[:start] + text + tail.pack(len(text), zlib.crc32(text), magic))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "its format is 2"),
        ({"count": 12}, "should hold 12"),
        ({"arrays": []}, "KeyError"),
        ({"structure": 0}, "no graph"),
        ({"checksums": []}, "its checksums"),
    ],
)
def test_a_strange_description_is_rebuilt(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    save(filled("hnsw"), tmp_path / "index", STAMP)
    forge(tmp_path / "index", **changes)
    answer = load(tmp_path / "index", "hnsw", DIM, STAMP)
    assert isinstance(answer, Rebuild)
    assert reason in answer.reason


def test_no_file_a_folder_and_another_file(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path / "none", "flat", DIM, STAMP), Rebuild)
    assert isinstance(load(tmp_path, "flat", DIM, STAMP), Rebuild)
    (tmp_path / "text").write_text("x" * 5_000)
    assert isinstance(load(tmp_path / "text", "flat", DIM, STAMP), Rebuild)


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(filled("hnsw"), tmp_path / "index", STAMP)
    before = (tmp_path / "index").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(filled("hnsw", 400), tmp_path / "index", STAMP)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index").read_bytes() == before
    with pytest.raises(OSError, match=r"none"):
        save(filled("hnsw"), tmp_path / "none" / "index", STAMP)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (tmp_path / f".index.{done.pid}.new").write_bytes(b"half")
    (tmp_path / f".index.{os.getppid()}.new").write_bytes(b"being written")
    save(filled("flat"), tmp_path / "index", STAMP)
    assert sorted(e.name for e in tmp_path.iterdir()) == [f".index.{os.getppid()}.new", "index"]


def test_auto_comes_back_at_the_size_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "AUTO_FLAT_MOST", 100)
    index = filled("auto")
    index.wait()
    save(index, tmp_path / "index", STAMP)
    loaded = load(tmp_path / "index", "auto", DIM, STAMP)
    assert isinstance(loaded, Loaded)
    assert isinstance(loaded.index, AutoIndex)
    assert type(loaded.index.current) is type(index.current)


def test_a_large_flat_one_that_was_saved_goes_on_to_be_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(filled("flat"), tmp_path / "index", STAMP)
    monkeypatch.setattr(growing, "AUTO_FLAT_MOST", 100)
    loaded = load(tmp_path / "index", "auto", DIM, STAMP)
    assert isinstance(loaded, Loaded)
    assert isinstance(loaded.index, AutoIndex)
    loaded.index.wait()
    assert isinstance(loaded.index.current, FaissHNSWIndex)


def test_saving_while_edits_come(tmp_path: Path) -> None:
    """Every snapshot is one state of the index, and the differences bring it up to date."""
    index = make_index("hnsw", DIM)
    rows = unit_rows(2_000)
    stopped = threading.Event()

    def write() -> None:
        for i in range(0, 2_000, 5):
            index.add(np.arange(i, i + 5), rows[i : i + 5])
            if i % 50 == 0:
                index.remove(ids_of(i))
        stopped.set()

    writer = threading.Thread(target=write)
    writer.start()
    active = np.array([i for i in range(2_000) if i % 50], dtype=np.int64)
    while not stopped.is_set():
        save(index, tmp_path / "index", STAMP)
        loaded = load(tmp_path / "index", "hnsw", DIM, STAMP)
        assert isinstance(loaded, Loaded), loaded
        missing, stale = differences(loaded.index, active)
        loaded.index.remove(stale)
        loaded.index.add(missing, rows[missing])
        assert loaded.index.ids().tolist() == active.tolist()
    writer.join()


def test_bytes_beside(tmp_path: Path) -> None:
    lexicon = SubjectLexicon()
    lexicon.add(3, ["France", "République française"])
    beside = {"lexicon": lexicon.to_bytes(), "nothing": b""}
    save(filled("hnsw"), tmp_path / "index", STAMP, beside)
    loaded = load(tmp_path / "index", "hnsw", DIM, STAMP)
    assert isinstance(loaded, Loaded)
    assert loaded.beside == beside
    again = SubjectLexicon.from_bytes(loaded.beside["lexicon"])
    assert again.find("la République française") == lexicon.find("la République française")


def test_differences() -> None:
    index = make_index("flat", DIM)
    index.add(ids_of(5, 1, 3), unit_rows(3))
    missing, stale = differences(index, ids_of(3, 7, 1, 2))
    assert (missing.tolist(), stale.tolist()) == ([2, 7], [5])
    assert [part.tolist() for part in differences(index, ids_of(1, 3, 5))] == [[], []]
