"""FAISS: the flat index, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from memedit.errors import MissingDependency
from memedit.indexes.exact import checked, checked_queries
from memedit.protocols import Ids, Vectors

_GPU_MOST_K = 2_048
_MANY_QUERIES = 128


class FaissFlatIndex:
    """Exact search by ``IndexIDMap2(IndexFlatIP)``; a GPU searches where there is one.

    The rows always stay in main memory, where removing is possible; a GPU holds a copy, which is
    extended as rows come and made anew at the next search after rows have gone.

    Args:
        dim: length of the vectors, at least 1.
        gpu: search on the first GPU; by default where FAISS was built for one and finds one.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    kind: ClassVar = "flat"

    def __init__(self, dim: int, *, gpu: bool | None = None) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; it must be at least 1")
        self._faiss: Any = import_faiss("flat")
        self._dim = dim
        self._flat = self._faiss.IndexFlatIP(dim)
        self._index = self._faiss.IndexIDMap2(self._flat)
        self._largest = -1
        built_for_gpu = hasattr(self._faiss, "StandardGpuResources")
        if gpu is None:
            gpu = built_for_gpu and self._faiss.get_num_gpus() > 0
        elif gpu and not built_for_gpu:
            raise MissingDependency(
                "this FAISS was built without GPU support; install memedit[gpu]"
            )
        self._resources = self._faiss.StandardGpuResources() if gpu else None
        self._on_gpu: Any = None

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU searches."""
        return self._resources is not None

    @property
    def tombstones(self) -> int:
        """0: rows really go."""
        return 0

    def ids(self) -> Ids:
        """Every id in the index, ascending."""
        return np.sort(self._stored_ids())

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the index, shape (n,)."""
        there = np.ones(len(ids), np.bool_)
        row = np.empty(self._dim, np.float32)
        for i, one in enumerate(ids.tolist()):
            try:
                self._index.reconstruct(one, row)
            except RuntimeError:
                there[i] = False
        return there

    def vectors(self, ids: Ids) -> Vectors:
        """The rows of these ids, shape (n, dim).

        Raises:
            KeyError: an id is not in the index.
        """
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        rows = np.empty((len(ids), self._dim), dtype=np.float32)
        try:
            for row, one in zip(rows, ids.tolist(), strict=True):
                self._index.reconstruct(one, row)
        except RuntimeError as error:
            raise KeyError("an id is not in the index") from error
        return rows

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds rows: ids (n,) int64, vectors (n, dim) float32.

        Raises:
            ValueError: the shapes do not fit, an id occurs twice or is in the index already.
        """
        ids, rows = checked(ids, vectors, self._dim)
        if not len(ids):
            return
        # Positions only grow, so this is nearly always settled without looking at the ids.
        if ids.min() <= self._largest and np.isin(self._stored_ids(), ids).any():
            raise ValueError("an id is in the index already; remove it first")
        self._index.add_with_ids(rows, ids)
        self._largest = max(self._largest, int(ids.max()))
        if self._on_gpu is not None:
            self._on_gpu.add(rows)

    def remove(self, ids: Ids) -> int:
        """Removes the rows of these ids, ignoring absent ones; returns how many went."""
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        gone = int(self._index.remove_ids(ids)) if len(ids) and len(self) else 0
        if gone:
            self._on_gpu = None
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
        k = min(k, len(self))
        if not k or not len(queries):
            return (
                np.empty((len(queries), k), dtype=np.float32),
                np.empty((len(queries), k), dtype=np.int64),
            )
        # FAISS orders equal scores by chance. Looking one row further shows whether a tie is cut;
        # if so, the search goes on until the whole tie is seen.
        depth = min(k + 1, len(self))
        scores, ids = self._search(queries, depth)
        while depth < len(self) and bool((scores[:, -1] == scores[:, k - 1]).any()):
            depth = min(2 * depth, len(self))
            scores, ids = self._search(queries, depth)
        order = np.lexsort((ids, -scores))[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def parts(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        """What :mod:`memedit.indexes.snapshot` writes: an object of FAISS, and no arrays."""
        return self._index, {}

    @classmethod
    def of_parts(cls, dim: int, structure: Any, arrays: dict[str, NDArray[Any]]) -> Self:
        """The index that :meth:`parts` described; ValueError where the parts do not fit."""
        index = cls(dim)
        if not isinstance(structure, index._faiss.IndexIDMap2) or structure.d != dim:
            raise ValueError(f"a {type(structure).__name__} is no flat index of dimension {dim}")
        index._index = structure
        index._flat = index._faiss.downcast_index(structure.index)
        if len(index):
            index._largest = int(index._stored_ids().max())
        return index

    def _search(self, queries: Vectors, depth: int) -> tuple[Vectors, Ids]:
        if self._resources is None or depth > _GPU_MOST_K:
            return self._search_on_cpu(queries, depth)
        if self._on_gpu is None:
            self._on_gpu = self._faiss.index_cpu_to_gpu(self._resources, 0, self._flat)
        scores, rows = self._on_gpu.search(queries, depth)
        return scores, self._stored_ids()[rows]

    def _search_on_cpu(self, queries: Vectors, depth: int) -> tuple[Vectors, Ids]:
        with single_threaded(self._faiss, len(queries)):
            scores, ids = self._index.search(queries, depth)
        return scores, ids

    def _stored_ids(self) -> Ids:
        ids: Ids = self._faiss.vector_to_array(self._index.id_map)
        return ids


@contextmanager
def single_threaded(faiss: Any, queries: int) -> Iterator[None]:
    """Within it a search of few queries runs on the calling thread alone.

    OpenMP's threads wait for each other by spinning. Beside another busy process that costs one
    query 30 times what the search takes, and the second core gains a few nothing. The setting is
    the calling thread's own.
    """
    threads = faiss.omp_get_max_threads()
    if queries < _MANY_QUERIES:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def use_threads(count: int) -> None:
    """Has FAISS use so many threads for what the calling thread asks of it."""
    import_faiss("flat").omp_set_num_threads(count)


def import_faiss(kind: str) -> Any:
    """The module faiss.

    Raises:
        MissingDependency: it is not installed, and an index of this kind needs it.
    """
    try:
        return import_module("faiss")
    except ImportError as error:
        raise MissingDependency(
            f"the index {kind!r} needs FAISS, which is not installed: install memedit[cpu] or "
            "memedit[gpu], or use the index 'exact'"
        ) from error
