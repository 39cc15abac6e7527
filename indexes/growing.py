"""Indexes that become other ones as they grow, made in the background.

While a successor is being made its predecessor answers, takes adds and lets go of removed rows;
the successor catches up with all of that before it takes over. Nothing waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from memedit.indexes.faiss_index import FaissFlatIndex, use_threads
from memedit.indexes.hnsw import FaissHNSWIndex
from memedit.indexes.ivfpq import LEAST, FaissIVFPQIndex
from memedit.protocols import Ids, Index, Vectors

AUTO_FLAT_MOST = 20_000
"""Rows up to which ``auto`` compares a query with each: exact, and as quick as a graph (3 ms)."""

DEAD_SHARE = 0.25
"""Share of dead rows from which an index is made anew without them."""

_DEAD_LEAST = 1_000
_CHUNK = 512
_LAST = 64
_SAMPLE = 100_000
_PATIENCE_S = 5.0

log = logging.getLogger(__name__)


class HeldIndex(Index, Protocol):
    """An index whose rows can be read back."""

    @property
    def tombstones(self) -> int:
        """How many rows are dead and still take room and time."""

    def ids(self) -> Ids:
        """Every id in the index, ascending."""

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the index, shape (n,)."""

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows of these ids, shape (n, dim); KeyError where one is absent."""


Reader = Callable[[Ids], Vectors]
Maker = Callable[[int, Ids, Reader], HeldIndex]
"""Makes an empty index for vectors of this length, given the ids of the rows to come and what
reads rows by id, leaving out those that went meanwhile."""


class Successor:
    """An index being made in the background out of the rows of another.

    Whoever changes the source does it within :attr:`guard` and says so by :meth:`touch`.

    Args:
        source: where the rows come from.
        make: makes the empty index.
        guard: held while the source is read here, and while it is changed elsewhere.
    """

    def __init__(
        self,
        source: HeldIndex,
        make: Maker,
        guard: threading.RLock,
    ) -> None:
        self._source = source
        self._make = make
        self._guard = guard
        self._touched: dict[int, None] = {}
        self._stopped = threading.Event()
        self._made: HeldIndex | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="memedit-index", daemon=True)

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.thread.is_alive()

    def touch(self, ids: Ids) -> None:
        """Says that rows of these ids came or went. By whoever holds the guard."""
        self._touched.update(dict.fromkeys(ids.tolist()))

    def stop(self) -> None:
        """Gives up; waits for the rows that are being added now, but not for a long training."""
        self._stopped.set()
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join(_PATIENCE_S)

    def finished(self) -> HeldIndex | None:
        """The index with all that came meanwhile, or ``None`` where it could not be made."""
        if self._made is not None:
            self._take(self._made, self._changes())
        return self._made

    def _run(self) -> None:
        try:
            use_threads(max(1, (os.cpu_count() or 1) // 2))
            with self._guard:
                ids = self._source.ids()
                self._touched.clear()
            made = self._make(self._source.dim, ids, self._read)
            while not self._stopped.is_set():
                for start in range(0, len(ids), _CHUNK):
                    if self._stopped.is_set():
                        return
                    self._take(made, ids[start : start + _CHUNK])
                with self._guard:
                    if len(self._touched) <= _LAST:
                        self._made = made
                        return
                    ids = self._changes()
        except Exception as error:  # noqa: BLE001 - whoever asked for it goes on without
            self.error = error

    def _changes(self) -> Ids:
        changed = np.fromiter(self._touched, np.int64, len(self._touched))
        self._touched = {}
        return changed

    def _read(self, ids: Ids) -> Vectors:
        with self._guard:
            return self._source.vectors(ids[self._source.holds(ids)])

    def _take(self, made: HeldIndex, ids: Ids) -> None:
        """Makes ``made`` hold of these ids what the source holds."""
        made.remove(ids)
        with self._guard:
            ids = ids[self._source.holds(ids)]
            rows = self._source.vectors(ids)
        made.add(ids, rows)


class GrowingIndex(ABC):
    """An index that is replaced by another in the background when that will serve better.

    Args:
        dim: length of the vectors, at least 1.
        current: what to begin with; an empty one by default.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of index that may be its current one."""

    def __init__(self, dim: int, current: HeldIndex | None = None) -> None:
        self._current = self._first(dim) if current is None else current
        self._guard = threading.RLock()
        self._successor: Successor | None = None
        self._not_before = 0
        if current is not None:
            self._grow()

    @abstractmethod
    def _first(self, dim: int) -> HeldIndex:
        """The empty index to begin with."""

    @abstractmethod
    def _better(self) -> Maker | None:
        """What makes the index that should take over from the current one, or ``None``."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._current.dim

    @property
    def current(self) -> HeldIndex:
        """The index that answers now."""
        return self._current

    @property
    def tombstones(self) -> int:
        """How many rows are dead and still take room and time."""
        return self._current.tombstones

    @property
    def is_changing(self) -> bool:
        """Whether a successor is being made."""
        return self._successor is not None

    def __len__(self) -> int:
        return len(self._current)

    def ids(self) -> Ids:
        """Every id in the index, ascending."""
        return self._current.ids()

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the index, shape (n,)."""
        return self._current.holds(ids)

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows of these ids, shape (n, dim); KeyError where one is absent."""
        return self._current.vectors(ids)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds rows: ids (n,) int64, vectors (n, dim) float32.

        Raises:
            ValueError: the shapes do not fit, an id occurs twice or is in the index already.
        """
        self._settle()
        with self._guard:
            self._current.add(ids, vectors)
            if self._successor is not None:
                self._successor.touch(np.asarray(ids))
        self._grow()

    def remove(self, ids: Ids) -> int:
        """Removes the rows of these ids, ignoring absent ones; returns how many went."""
        self._settle()
        with self._guard:
            gone = self._current.remove(ids)
            if self._successor is not None:
                self._successor.touch(np.asarray(ids))
        self._grow()
        return gone

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """The min(k, len(self)) best of each query: scores, descending, and ids, both (n, k').

        Raises:
            ValueError: ``queries`` has another shape, or ``k`` is below 1.
        """
        self._settle()
        return self._current.search(queries, k)

    def wait(self) -> None:
        """Waits until no successor is being made, for tests and bulk loads."""
        while self._successor is not None:
            self._successor.thread.join()
            self._settle()
            self._grow()

    def close(self) -> None:
        """Gives up the successor that is being made, if any; the index goes on as it is."""
        if self._successor is not None:
            self._successor.stop()
            self._forget()

    @contextmanager
    def still(self) -> Iterator[HeldIndex]:
        """The index that answers now; until the block ends, adds and removals wait."""
        with self._guard:
            yield self._current

    def _settle(self) -> None:
        """Lets the successor take over where it is done."""
        successor = self._successor
        if successor is None or not successor.done:
            return
        with self._guard:
            made = successor.finished()
            self._forget()
            if made is not None:
                self._current = made
        if successor.error is not None:
            # The same would fail again and again; the index has to change much before that.
            self._not_before = 2 * len(self) + 1
            log.warning(
                "the index could not be made anew and stays as it is", exc_info=successor.error
            )

    def _forget(self) -> None:
        # The finalizer too: it would keep the rows of both indexes alive.
        self._successor = None
        self._last_words.detach()

    def _grow(self) -> None:
        """Begins a successor where one will serve better."""
        if self._successor is not None or len(self) < self._not_before:
            return
        make = self._better()
        if make is not None:
            self._successor = Successor(self._current, make, self._guard)
            self._last_words = weakref.finalize(self, self._successor.stop)
            self._successor.thread.start()


class HNSWIndex(GrowingIndex):
    """A graph from the first row on; made anew without its dead rows when they are many."""

    kinds: ClassVar[tuple[str, ...]] = ("hnsw",)

    def _first(self, dim: int) -> HeldIndex:
        return FaissHNSWIndex(dim)

    def _better(self) -> Maker | None:
        return self._graph if _mostly_dead(self._current) else None

    def _graph(self, dim: int, ids: Ids, read: Reader) -> HeldIndex:
        return FaissHNSWIndex(dim)


class IVFPQIndex(GrowingIndex):
    """Inverted lists, trained when there are rows enough and anew when there are 8 times as many.

    Until the first training a search compares with every row.
    """

    kinds: ClassVar[tuple[str, ...]] = ("ivfpq",)

    def _first(self, dim: int) -> HeldIndex:
        return FaissIVFPQIndex(dim)

    def _better(self) -> Maker | None:
        current = self._current
        assert isinstance(current, FaissIVFPQIndex)
        outgrown = len(current) >= max(LEAST, 8 * current.trained_for)
        return self._trained if outgrown or _mostly_dead(current) else None

    def _trained(self, dim: int, ids: Ids, read: Reader) -> HeldIndex:
        few = np.random.default_rng(0).permutation(ids)[:_SAMPLE]
        rows = [read(few[start : start + _CHUNK]) for start in range(0, len(few), _CHUNK)]
        return FaissIVFPQIndex(dim, np.concatenate(rows), len(ids))


class AutoIndex(HNSWIndex):
    """Flat while that is quick, a graph beyond; with a GPU flat at every size, exact and quick.

    While the graph is being made both are held: at a million rows of 384 that is 2.5 GB.
    """

    kinds: ClassVar[tuple[str, ...]] = ("flat", "hnsw")

    def _first(self, dim: int) -> HeldIndex:
        return FaissFlatIndex(dim)

    def _better(self) -> Maker | None:
        current = self._current
        if isinstance(current, FaissFlatIndex):
            large = len(current) > AUTO_FLAT_MOST and not current.is_on_gpu
            return self._graph if large else None
        return super()._better()


def _mostly_dead(index: HeldIndex) -> bool:
    dead = index.tombstones
    return dead >= _DEAD_LEAST and dead > DEAD_SHARE * (len(index) + dead)
