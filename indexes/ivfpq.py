"""IVFPQ: inverted lists of compressed rows, whose best are compared anew in half precision.

Source: Jegou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, IEEE TPAMI
33(1), 2011, section IV (IVFADC), with the re-ranking of Jegou et al., ICASSP 2011; as in FAISS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.indexes.approximate import ApproximateIndex
from memedit.protocols import Ids, Vectors

LEAST = 9_984
"""Rows that a codebook is trained on at the least: 39 for each of its 256 entries."""

_CODE_BITS = 8
_SAMPLE_A_LIST = 64
_ROUNDS = 10
_SCAN_ROWS = 65_536


class FaissIVFPQIndex(ApproximateIndex):
    """``IndexIVFPQ`` beside half-precision rows: adds cost a tenth of a graph's, more is missed.

    Measured (benchmarks/results/index.json) the graph is the better choice wherever edits are
    asked for more often than they are added.

    It is trained once, on a sample that it is made with; until then a search compares with every
    row. A row takes ``2 * dim + dim / 4 + 8`` bytes.

    Args:
        dim: length of the vectors, at least 1.
        sample: rows to train on, shape (n, dim), :data:`LEAST` at the least; ``None`` or fewer
            leave it untrained.
        expected: how many rows it is meant for; decides the number of lists.
        probes: lists that a search looks into; more find more and take longer. By default an
            eighth of them, and at least 64.
        reranked: how many times ``k`` rows are compared anew.

    Raises:
        MissingDependency: FAISS is not installed.
    """

    kind = "ivfpq"

    def __init__(
        self,
        dim: int,
        sample: Vectors | None = None,
        expected: int = 0,
        *,
        probes: int | None = None,
        reranked: int = 64,
    ) -> None:
        super().__init__(dim)
        self.probes = probes
        self.reranked = reranked
        self._half: NDArray[np.float16] = np.empty((0, dim), np.float16)
        self._lists: Any = None
        self.trained_for = 0
        if sample is not None and len(sample) >= LEAST:
            self._train(sample, max(expected, len(sample)))

    def _train(self, sample: Vectors, expected: int) -> None:
        faiss = self._faiss
        lists = min(int(4 * expected**0.5), len(sample) // 39)
        pieces = next(m for m in range(max(self._dim // 4, 1), 0, -1) if self._dim % m == 0)
        coarse = faiss.IndexFlatIP(self._dim)
        self._lists = faiss.IndexIVFPQ(
            coarse, self._dim, lists, pieces, _CODE_BITS, faiss.METRIC_INNER_PRODUCT
        )
        self._lists.cp.niter = _ROUNDS
        self._lists.cp.max_points_per_centroid = _SAMPLE_A_LIST
        self._lists.pq.cp.max_points_per_centroid = _SAMPLE_A_LIST
        self._lists.train(sample)
        self.trained_for = expected

    def _clear(self) -> None:
        self._half = np.empty((0, self._dim), np.float16)
        if self._lists is not None:
            self._lists.reset()

    def _append(self, rows: Vectors) -> None:
        used, needed = self._rows.total, self._rows.total + len(rows)
        if needed > len(self._half):
            room = max(needed, used + used // 4)
            more = np.empty((room, self._dim), np.float16)
            more[:used] = self._half[:used]
            self._half = more
        self._half[used:needed] = rows
        if self._lists is not None:
            self._lists.add(rows)

    def _stored(self, rows: Ids) -> Vectors:
        return self._half[rows].astype(np.float32)

    def _approach(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        if self._lists is None:
            return self._scan(queries, k, alive)
        probes = min(self.probes or max(64, self._lists.nlist // 8), self._lists.nlist)
        asked = self._faiss.SearchParametersIVF(nprobe=probes, sel=alive)
        _, rows = self._lists.search(queries, min(self.reranked * k, len(self)), params=asked)
        scores = np.full(rows.shape, -np.inf, np.float32)
        for query, its_rows, its_scores in zip(queries, rows, scores, strict=True):
            there = its_rows >= 0
            its_scores[there] = self._stored(its_rows[there]) @ query
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _scan(self, queries: Vectors, k: int, alive: Any) -> tuple[Vectors, Ids]:
        best_scores = np.full((len(queries), 0), -np.inf, np.float32)
        best = np.empty((len(queries), 0), np.int64)
        live = None if alive is None else self._rows.live()
        for start in range(0, self._rows.total, _SCAN_ROWS):
            rows = np.arange(start, min(start + _SCAN_ROWS, self._rows.total))
            if live is not None:
                rows = rows[live[rows]]
            scores = np.hstack([best_scores, queries @ self._stored(rows).T])
            rows = np.hstack([best, np.broadcast_to(rows, (len(queries), len(rows)))])
            keep = min(k, scores.shape[1])
            order = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
            best_scores = np.take_along_axis(scores, order, axis=1)
            best = np.take_along_axis(rows, order, axis=1)
        return best_scores, best

    def _structure(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        half = self._half[: self._rows.total]
        return self._lists, {"half": half, "trained_for": np.array([self.trained_for])}

    def _restore(self, structure: Any, arrays: dict[str, NDArray[Any]]) -> None:
        self._half = arrays["half"]
        self.trained_for = int(arrays["trained_for"][0])
        if self._half.shape != (self._rows.total, self._dim):
            raise ValueError("the rows and their ids do not fit")
        if structure is None:
            return
        if not isinstance(structure, self._faiss.IndexIVFPQ):
            raise ValueError(f"a {type(structure).__name__} has no inverted lists")
        if structure.d != self._dim or structure.ntotal != self._rows.total:
            raise ValueError("the inverted lists and their ids do not fit")
        self._lists = structure
