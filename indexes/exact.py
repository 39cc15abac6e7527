"""The reference index: every inner product, in numpy."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from memedit.protocols import Ids, Vectors


class ExactIndex:
    """Compares a query with every row. The index that the others are measured against.

    Args:
        dim: length of the vectors, at least 1.
    """

    kind: ClassVar = "exact"

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; it must be at least 1")
        self._dim = dim
        self._ids: Ids = np.empty(0, dtype=np.int64)
        self._rows: Vectors = np.empty((0, dim), dtype=np.float32)
        self._used = 0

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def __len__(self) -> int:
        return self._used

    @property
    def tombstones(self) -> int:
        """0: rows really go."""
        return 0

    def ids(self) -> Ids:
        """Every id in the index, ascending."""
        return np.sort(self._ids[: self._used])

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the index, shape (n,)."""
        return np.isin(ids, self._ids[: self._used])

    def vectors(self, ids: Ids) -> Vectors:
        """The rows of these ids, shape (n, dim).

        Raises:
            KeyError: an id is not in the index.
        """
        ids = np.asarray(ids, dtype=np.int64)
        order = np.argsort(self._ids[: self._used])
        at = np.searchsorted(self._ids[: self._used], ids, sorter=order)
        rows = order[np.minimum(at, self._used - 1)] if self._used else np.empty(0, np.int64)
        if len(rows) != len(ids) or (self._ids[rows] != ids).any():
            raise KeyError("an id is not in the index")
        found: Vectors = self._rows[rows]
        return found

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds rows: ids (n,) int64, vectors (n, dim) float32.

        Raises:
            ValueError: the shapes do not fit, an id occurs twice or is in the index already.
        """
        ids, rows = checked(ids, vectors, self._dim)
        if len(ids) and np.isin(self._ids[: self._used], ids).any():
            raise ValueError("an id is in the index already; remove it first")
        needed = self._used + len(ids)
        if needed > len(self._ids):
            # Doubling keeps a long run of single adds linear.
            room = max(needed, 2 * len(self._ids))
            self._ids = np.concatenate([self._ids, np.zeros(room - len(self._ids), np.int64)])
            more = np.zeros((room - len(self._rows), self._dim), np.float32)
            self._rows = np.concatenate([self._rows, more])
        self._ids[self._used : needed] = ids
        self._rows[self._used : needed] = rows
        self._used = needed

    def remove(self, ids: Ids) -> int:
        """Removes the rows of these ids, ignoring absent ones; returns how many went."""
        kept = ~np.isin(self._ids[: self._used], np.asarray(ids, dtype=np.int64))
        gone = self._used - int(kept.sum())
        if gone:
            self._ids = self._ids[: self._used][kept]
            self._rows = self._rows[: self._used][kept]
            self._used = len(self._ids)
        return gone

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """The best of each query: scores, descending, and ids, both (n, min(k, len(self))).

        Args:
            queries: shape (n, dim), float32.
            k: at least 1.

        Raises:
            ValueError: ``queries`` has another shape, or ``k`` is below 1.
        """
        queries = checked_queries(queries, k, self._dim)
        k = min(k, self._used)
        ids = self._ids[: self._used]
        scores = queries @ self._rows[: self._used].T
        best: NDArray[np.int64] = np.empty((len(queries), k), dtype=np.int64)
        for row, of_query in enumerate(scores if k else ()):
            # All rows that reach the k-th score, so that ties at the cut are decided by id too.
            threshold = np.partition(of_query, -k)[-k]
            reach = np.flatnonzero(of_query >= threshold)
            best[row] = reach[np.lexsort((ids[reach], -of_query[reach]))][:k]
        return np.take_along_axis(scores, best, axis=1), ids[best]

    def parts(self) -> tuple[None, dict[str, NDArray[Any]]]:
        """What :mod:`memedit.indexes.snapshot` writes: nothing of FAISS, and arrays by name."""
        return None, {"ids": self._ids[: self._used], "rows": self._rows[: self._used]}

    @classmethod
    def of_parts(cls, dim: int, structure: None, arrays: dict[str, NDArray[Any]]) -> Self:
        """The index that :meth:`parts` described; ValueError where the parts do not fit."""
        index = cls(dim)
        index.add(arrays["ids"], arrays["rows"])
        return index


def checked(ids: Ids, vectors: Vectors, dim: int) -> tuple[Ids, Vectors]:
    """Ids and rows as contiguous int64 (n,) and float32 (n, dim).

    Raises:
        ValueError: the shapes do not fit, or an id occurs twice.
    """
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if ids.ndim != 1 or rows.shape != (len(ids), dim):
        raise ValueError(f"ids {ids.shape} and vectors {rows.shape}; expected (n,) and (n, {dim})")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("an id occurs twice")
    return ids, rows


def checked_queries(queries: Vectors, k: int, dim: int) -> Vectors:
    """Queries as contiguous float32 (n, dim).

    Raises:
        ValueError: another shape, or ``k`` is below 1.
    """
    rows = np.ascontiguousarray(queries, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"queries have the shape {rows.shape}; expected (n, {dim})")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    return rows
