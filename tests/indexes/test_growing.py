"""Indexes that are replaced in the background: nothing that happens meanwhile is lost."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memedit.indexes import growing
from memedit.indexes.faiss_index import FaissFlatIndex
from memedit.indexes.growing import AutoIndex, HNSWIndex, IVFPQIndex
from memedit.indexes.hnsw import FaissHNSWIndex
from memedit.indexes.ivfpq import LEAST, FaissIVFPQIndex
from memedit.indexes.rows import Rows

DIM = 16


def unit_rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ids_of(*ids: int) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


class Gate(FaissHNSWIndex):
    """Opens after so many chunks, once told to, so that what a test does comes in between."""

    reached: threading.Event
    opened: threading.Event
    after: int

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        super().add(ids, vectors)
        self.after -= 1
        if self.after == 0:
            self.reached.set()
            assert self.opened.wait(30)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "AUTO_FLAT_MOST", 100)
    monkeypatch.setattr(growing, "_DEAD_LEAST", 50)
    monkeypatch.setattr(growing, "_CHUNK", 32)
    monkeypatch.setattr(growing, "_LAST", 4)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, small: None) -> type[Gate]:
    Gate.reached, Gate.opened, Gate.after = threading.Event(), threading.Event(), 2
    monkeypatch.setattr(growing, "FaissHNSWIndex", Gate)
    return Gate


@pytest.mark.usefixtures("small")
def test_auto_becomes_a_graph_when_it_is_large() -> None:
    index = AutoIndex(DIM)
    index.add(np.arange(100), unit_rows(100))
    assert isinstance(index.current, FaissFlatIndex)
    assert not index.is_changing
    index.add(ids_of(100), unit_rows(1, 1))
    assert index.is_changing
    index.wait()
    assert isinstance(index.current, FaissHNSWIndex)
    assert index.ids().tolist() == list(range(101))
    assert index.search(unit_rows(1, 1), 1)[1].tolist() == [[100]]


def test_auto_stays_flat_on_a_gpu(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaissFlatIndex, "is_on_gpu", True)
    index = AutoIndex(DIM)
    index.add(np.arange(500), unit_rows(500))
    assert not index.is_changing


def test_what_happens_meanwhile_is_not_lost(gate: type[Gate]) -> None:
    index = AutoIndex(DIM)
    rows = unit_rows(400)
    index.add(np.arange(200), rows[:200])
    assert gate.reached.wait(30)
    index.add(np.arange(200, 300), rows[200:300])
    assert index.remove(ids_of(3, 199, 250, 999)) == 3  # copied, not yet copied, new, absent
    index.add(ids_of(3), rows[300:301])  # comes back as another row
    assert isinstance(index.current, FaissFlatIndex)
    assert index.search(rows[300:301], 1)[1].tolist() == [[3]]
    gate.opened.set()
    index.wait()
    assert isinstance(index.current, Gate)
    assert index.ids().tolist() == [i for i in range(300) if i not in (199, 250)]
    np.testing.assert_allclose(index.vectors(ids_of(3)), rows[300:301], atol=1e-3)
    assert index.search(rows[300:301], 1)[1].tolist() == [[3]]
    assert index.search(rows[199:200], 1)[1].tolist() != [[199]]


def test_a_graph_is_made_anew_without_its_dead_rows(gate: type[Gate]) -> None:
    gate.after = -1
    index = HNSWIndex(DIM)
    rows = unit_rows(300)
    index.add(np.arange(300), rows)
    index.remove(np.arange(70))
    assert not index.is_changing
    assert index.tombstones == 70
    index.remove(np.arange(70, 80))
    index.wait()
    assert index.tombstones == 0
    assert index.ids().tolist() == list(range(80, 300))
    index.add(np.arange(10), rows[:10])
    assert index.search(rows[5:6], 1)[1].tolist() == [[5]]


def test_a_failure_leaves_the_index_as_it_is(
    small: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(growing.AutoIndex, "_graph", fail)
    index = AutoIndex(DIM)
    index.add(np.arange(150), unit_rows(150))
    with caplog.at_level(logging.WARNING):
        index.wait()
    assert "stays as it is" in caplog.text
    assert isinstance(index.current, FaissFlatIndex)
    index.add(ids_of(150), unit_rows(1, 1))
    assert not index.is_changing
    assert len(index) == 151


def test_closing_gives_up_and_nothing_is_kept_alive(gate: type[Gate]) -> None:
    index = AutoIndex(DIM)
    index.add(np.arange(200), unit_rows(200))
    assert gate.reached.wait(30)
    gate.opened.set()
    index.close()
    assert not index.is_changing
    assert len(index) == 200
    index.add(ids_of(200), unit_rows(1, 1))
    index.wait()
    flat = weakref.ref(index)
    del index
    gc.collect()
    assert flat() is None


def test_a_process_ends_while_a_successor_is_being_made() -> None:
    code = """if True:
        import numpy as np
        from memedit.indexes import make_index
        index = make_index("auto", 64)
        index.add(np.arange(30_000), np.random.default_rng(0).random((30_000, 64), np.float32))
        assert index.is_changing
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_inverted_lists_are_trained_when_there_are_rows_enough() -> None:
    index = IVFPQIndex(DIM)
    rows = unit_rows(LEAST + 100)
    index.add(np.arange(LEAST - 1), rows[: LEAST - 1])
    assert not index.is_changing
    index.add(np.arange(LEAST - 1, LEAST + 100), rows[LEAST - 1 :])
    index.wait()
    assert isinstance(index.current, FaissIVFPQIndex)
    assert index.current.trained_for == LEAST + 100
    assert not index.is_changing
    index.add(ids_of(99_999), unit_rows(1, 1))
    assert index.search(unit_rows(1, 1), 1)[1].tolist() == [[99_999]]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sets(st.integers(0, 40), min_size=1, max_size=15)),
            st.tuples(st.just("remove"), st.sets(st.integers(0, 40), max_size=15)),
            st.tuples(st.just("sort"), st.just(set[int]())),
        ),
        max_size=20,
    )
)
def test_rows_agree_with_a_list(steps: list[tuple[str, set[int]]]) -> None:
    rows, held = Rows(), dict[int, int]()
    total = 0
    for what, ids in steps:
        if what == "add":
            new = sorted(ids - held.keys(), reverse=True)
            rows.add(np.array(new, dtype=np.int64))
            held |= {one: total + i for i, one in enumerate(new)}
            total += len(new)
        elif what == "remove":
            gone = ids & held.keys()
            assert rows.remove(np.array(sorted(ids), dtype=np.int64)) == len(gone)
            for one in gone:
                del held[one]
        else:
            rows = Rows(rows.ids(), rows.live())
        assert rows.find(np.arange(41)).tolist() == [held.get(one, -1) for one in range(41)]
        assert (len(rows), rows.total, rows.dead) == (len(held), total, total - len(held))
        assert np.flatnonzero(rows.live()).tolist() == sorted(held.values())
