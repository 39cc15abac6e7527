"""What the approximate indexes share: half-precision rows, tombstones and a search that fills up.

An approximate index may miss a row, and promises all the rest: never a removed id, always
``min(k, len(index))`` of them, best first, each with the inner product of the query and its
stored row. Rows are stored in half precision, so a score of unit vectors is right within
:data:`TOLERANCE`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from memedit.indexes.exact import checked, checked_queries
from memedit.indexes.faiss_index import import_faiss, single_threaded
from memedit.indexes.rows import Rows
from memedit.protocols import Ids, Vectors

TOLERANCE = 1e-3
"""Most that half precision moves the inner product of two unit vectors (rounding is 2**-11)."""

_SCAN_SHARE = 16
# Where a sixteenth of all rows is asked for, comparing with each of them is the quicker way.


class ApproximateIndex(ABC):
    """Rows that are never taken out, only marked dead, behind a structure that finds them.

    A subclass says how the structure is made, extended and searched; all of them by row number.

    Args:
        dim: length of the vectors, at least 1.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    kind: ClassVar[str]

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; it must be at least 1")
        self._faiss: Any = import_faiss(self.kind)
        self._dim = dim
        self._rows = Rows()

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def tombstones(self) -> int:
        """How many rows are dead and still take room and time."""
        return self._rows.dead

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> Ids:
        """Every id in the index, ascending."""
        return np.sort(self._rows.ids()[self._rows.live()])

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the index, shape (n,)."""
        return self._rows.find(np.asarray(ids, dtype=np.int64)) >= 0

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows of these ids, shape (n, dim), rounded to half precision.

        Raises:
            KeyError: an id is not in the index.
        """
        rows = self._rows.find(np.asarray(ids, dtype=np.int64))
        if (rows < 0).any():
            raise KeyError("an id is not in the index")
        return self._stored(rows)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds rows: ids (n,) int64, vectors (n, dim) float32.

        Raises:
            ValueError: the shapes do not fit, an id occurs twice or is in the index already.
        """
        ids, rows = checked(ids, vectors, self._dim)
        if not len(ids):
            return
        if (self._rows.find(ids) >= 0).any():
            raise ValueError("an id is in the index already; remove it first")
        self._append(rows)
        self._rows.add(ids)

    def remove(self, ids: Ids) -> int:
        """Marks the rows of these ids dead, ignoring absent ones; returns how many went."""
        gone = self._rows.remove(np.ascontiguousarray(ids, dtype=np.int64))
        if gone and not len(self._rows):
            self._rows = Rows()
            self._clear()
        return gone

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Nearly the best of each query: scores, descending, and ids, both (n, min(k, len(self))).

        Args:
            queries: shape (n, dim), float32.
            k: at least 1.

        Raises:
            ValueError: ``queries`` has another shape, or ``k`` is below 1.
        """
        queries = checked_queries(queries, k, self._dim)
        k = min(k, len(self))
        scores = np.empty((len(queries), k), dtype=np.float32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        if not k or not len(queries):
            return scores, rows
        with single_threaded(self._faiss, len(queries)):
            dead = self._rows.dead > 0
            # The bitmap must live as long as the selector that points to it: it is in the frame.
            bits = self._rows.bits
            alive = self._faiss.IDSelectorBitmap(bits) if dead else None
            if k * _SCAN_SHARE > len(self):
                scores, rows = self._scan(queries, k, alive)
            else:
                scores, rows = self._approach(queries, k, alive)
                short = (rows < 0).any(axis=1)
                if short.any():
                    scores[short], rows[short] = self._scan(queries[short], k, alive)
        ids = self._rows.ids()[rows]
        order = np.lexsort((ids, -scores))
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def _over(self, depth: int) -> int:
        """A search depth, deeper by as much as dead rows take up of what is looked at."""
        return int(depth * self._rows.total / len(self)) + 1

    # saving, see memedit.indexes.snapshot

    def parts(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        """What a snapshot is made of: an object of FAISS, and arrays by name."""
        structure, arrays = self._structure()
        return structure, {"ids": self._rows.ids(), "live": self._rows.bits, **arrays}

    @classmethod
    def of_parts(cls, dim: int, structure: Any, arrays: dict[str, NDArray[Any]]) -> Self:
        """The index that :meth:`parts` described.

        Raises:
            ValueError: the parts do not fit together.
        """
        index = cls(dim)
        ids = arrays["ids"]
        bits = np.unpackbits(arrays["live"], count=len(ids), bitorder="little")
        index._rows = Rows(ids, bits.astype(np.bool_))
        index._restore(structure, arrays)
        return index

    @abstractmethod
    def _append(self, rows: Vectors) -> None:
        """Adds rows under the next row numbers."""

    @abstractmethod
    def _clear(self) -> None:
        """Drops all rows."""

    @abstractmethod
    def _stored(self, rows: Ids) -> Vectors:
        """The stored vectors of these rows."""

    @abstractmethod
    def _approach(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        """Scores and rows (n, k), the row -1 where no more was found; dead ones left out."""

    @abstractmethod
    def _scan(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        """The same by comparing with every live row."""

    @abstractmethod
    def _structure(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        """The FAISS object to save, and arrays beside it."""

    @abstractmethod
    def _restore(self, structure: Any, arrays: dict[str, NDArray[Any]]) -> None:
        """Takes up what :meth:`_structure` gave."""
