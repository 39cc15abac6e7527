"""HNSW: a graph of near neighbours over half-precision rows, on the CPU.

Source: Malkov and Yashunin, Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs, IEEE TPAMI 42(4), 2020, algorithms 1 to 5; as in FAISS.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from memedit.indexes.approximate import ApproximateIndex
from memedit.protocols import Ids, Vectors

NARROWEST = 1_000
"""Least breadth of a search: at 100,000 as at 1,000,000 edits fewer miss more than one in 100."""


class FaissHNSWIndex(ApproximateIndex):
    """``IndexHNSWSQ`` with tombstones: a search takes a millisecond among a million rows.

    A row takes ``2 * dim`` bytes and its links about ``9 * links`` bytes.

    Args:
        dim: length of the vectors, at least 1.
        links: neighbours of a row per layer (the paper's M), at least 2; the lowest layer has
            twice as many.
        build_breadth: rows kept in view while a row is added (efConstruction).
        breadth: rows kept in view by a search (ef); more find more and take longer. By default
            :data:`NARROWEST`, and beyond a million rows the square root of their number.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    kind = "hnsw"

    def __init__(
        self, dim: int, *, links: int = 16, build_breadth: int = 100, breadth: int | None = None
    ) -> None:
        super().__init__(dim)
        self._links = links
        self._build_breadth = build_breadth
        self.breadth = breadth
        self._clear()

    def _clear(self) -> None:
        faiss = self._faiss
        self._graph = faiss.IndexHNSWSQ(
            self._dim, faiss.ScalarQuantizer.QT_fp16, self._links, faiss.METRIC_INNER_PRODUCT
        )
        self._graph.hnsw.efConstruction = self._build_breadth

    def _append(self, rows: Vectors) -> None:
        self._graph.add(rows)

    def _stored(self, rows: Ids) -> Vectors:
        stored: Vectors = self._graph.reconstruct_batch(rows)
        return stored

    def _approach(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        breadth = self.breadth or max(NARROWEST, int(len(self) ** 0.5))
        breadth = self._over(max(breadth, 2 * k))
        asked = self._faiss.SearchParametersHNSW(efSearch=breadth, sel=alive)
        scores, rows = self._graph.search(queries, k, params=asked)
        return scores, rows

    def _scan(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        storage = self._faiss.downcast_index(self._graph.storage)
        asked = self._faiss.SearchParameters(sel=alive) if alive is not None else None
        scores, rows = storage.search(queries, k, params=asked)
        return scores, rows

    def _structure(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        return self._graph, {}

    def _restore(self, structure: Any, arrays: dict[str, NDArray[Any]]) -> None:
        if not isinstance(structure, self._faiss.IndexHNSWSQ):
            raise ValueError(f"a {type(structure).__name__} is no graph")
        if structure.d != self._dim or structure.ntotal != self._rows.total:
            raise ValueError("the graph and its ids do not fit")
        structure.hnsw.efConstruction = self._build_breadth
        self._graph = structure
