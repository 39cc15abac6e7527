"""One suite over every kind of index, each compared with the plain reference.

The approximate kinds may miss a row. What they promise is exact, and checked: never a removed id,
min(k, len) of them, best first, each with the inner product that its row has.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from memedit.errors import ConfigError
from memedit.indexes import KINDS, make_index
from memedit.indexes.approximate import TOLERANCE
from memedit.protocols import Index

DIM = 4

# Rows whose inner products are sums of multiples of 1/4: exact in float32 in whatever order they
# are added up, so that ties are ties in every implementation.
ROWS = st.tuples(*[st.sampled_from([-0.5, 0.5])] * DIM)

EXACT_KINDS = ("exact", "flat", "auto")  # auto is flat at the sizes of this file
APPROXIMATE_KINDS = ("hnsw", "ivfpq")

each_kind = pytest.mark.parametrize("kind", KINDS)
each_exact_kind = pytest.mark.parametrize("kind", EXACT_KINDS)
each_approximate_kind = pytest.mark.parametrize("kind", APPROXIMATE_KINDS)


def rows_of(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32).reshape(-1, DIM)


def ids_of(*ids: int) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


def reference(
    held: dict[int, tuple[float, ...]], query: tuple[float, ...], k: int
) -> list[tuple[float, int]]:
    """Scores and ids of the best k, by a sort that leaves no doubt."""
    pairs = [(float(np.dot(row, query)), i) for i, row in held.items()]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:k]


def found(index: Index, queries: NDArray[np.float32], k: int) -> list[list[tuple[float, int]]]:
    scores, ids = index.search(queries, k)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    assert scores.shape == ids.shape == (len(queries), min(k, len(index)))
    return [
        list(zip(of_query.tolist(), its_ids.tolist(), strict=True))
        for of_query, its_ids in zip(scores, ids, strict=True)
    ]


def near_each_other(rng: np.random.Generator, count: int, dim: int = 32) -> NDArray[np.float32]:
    """Unit rows in clusters, as the questions about one relation are."""
    centres = rng.standard_normal((40, dim))
    rows = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keeps_its_promise(
    index: Index, held: dict[int, tuple[float, ...]], query: tuple[float, ...], k: int
) -> None:
    """Whatever the kind: live ids, each once, min(k, len) of them, true scores, best first."""
    (pairs,) = found(index, rows_of(query), k)
    ids = [i for _, i in pairs]
    assert len(set(ids)) == len(ids) == min(k, len(held))
    assert set(ids) <= held.keys()
    for score, i in pairs:
        assert score == pytest.approx(float(np.dot(held[i], query)), abs=TOLERANCE)
    assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


@each_kind
def test_an_empty_index_finds_nothing(kind: str) -> None:
    index = make_index(kind, DIM)
    assert len(index) == 0
    assert index.dim == DIM
    assert found(index, rows_of((1, 0, 0, 0), (0, 1, 0, 0)), 3) == [[], []]
    assert found(index, rows_of(), 3) == []
    assert index.remove(ids_of(1)) == 0
    index.add(ids_of(), rows_of())
    assert len(index) == 0


@each_kind
def test_search_after_adds_and_removals(kind: str) -> None:
    index = make_index(kind, DIM)
    index.add(ids_of(7, 3), rows_of((1, 0, 0, 0), (0, 1, 0, 0)))
    index.add(ids_of(5), rows_of((0.6, 0.8, 0, 0)))
    query = rows_of((1, 0, 0, 0))
    assert [i for _, i in found(index, query, 8)[0]] == [7, 5, 3]
    assert index.remove(ids_of(7, 99)) == 1
    assert len(index) == 2
    assert [i for _, i in found(index, query, 8)[0]] == [5, 3]
    index.add(ids_of(7), rows_of((-1, 0, 0, 0)))
    assert [i for _, i in found(index, query, 8)[0]] == [5, 3, 7]
    assert [i for _, i in found(index, query, 1)[0]] == [5]


@each_exact_kind
def test_equal_scores_come_by_id_also_at_the_cut(kind: str) -> None:
    index = make_index(kind, DIM)
    ids = np.random.default_rng(0).permutation(200).astype(np.int64)
    index.add(ids, np.tile(rows_of((0.5, 0.5, 0.5, 0.5)), (200, 1)))
    assert [i for _, i in found(index, rows_of((1, 0, 0, 0)), 5)[0]] == [0, 1, 2, 3, 4]
    index.remove(ids_of(0, 2))
    assert [i for _, i in found(index, rows_of((1, 0, 0, 0)), 5)[0]] == [1, 3, 4, 5, 6]


@each_kind
@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (ids_of(2), rows_of((1, 0, 0, 0)), "in the index already"),
        (ids_of(1), rows_of((1, 0, 0, 0)), "in the index already"),
        (ids_of(3, 3), rows_of((1, 0, 0, 0), (1, 0, 0, 0)), "occurs twice"),
        (ids_of(3), rows_of((1, 0, 0, 0), (1, 0, 0, 0)), "expected"),
        (ids_of(3), np.ones((1, DIM + 1), np.float32), "expected"),
    ],
)
def test_bad_rows_are_refused_and_change_nothing(
    kind: str, ids: NDArray[np.int64], rows: NDArray[np.float32], message: str
) -> None:
    index = make_index(kind, DIM)
    index.add(ids_of(1, 2, 4), rows_of((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)))
    with pytest.raises(ValueError, match=message):
        index.add(ids, rows)
    assert len(index) == 3


@each_kind
def test_bad_queries_are_refused(kind: str) -> None:
    index = make_index(kind, DIM)
    with pytest.raises(ValueError, match="expected"):
        index.search(np.ones((1, DIM + 1), np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(np.ones((1, DIM), np.float32), 0)
    with pytest.raises(ValueError, match="at least 1"):
        make_index(kind, 0)


@each_exact_kind
@pytest.mark.parametrize("count", [1, 30])
def test_real_valued_rows_agree_with_exact(kind: str, count: int) -> None:
    """FAISS takes another way from 20 queries on; scores then differ in their last digits."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3_000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = rng.permutation(10_000)[:3_000].astype(np.int64)
    queries = rows[:count] + 0.05 * rng.standard_normal((count, 384)).astype(np.float32)
    index, plain = make_index(kind, 384), make_index("exact", 384)
    for one in (index, plain):
        one.add(ids, rows)
        one.remove(ids[::3])
    scores, its_ids = index.search(queries, 8)
    plain_scores, plain_ids = plain.search(queries, 8)
    np.testing.assert_allclose(scores, plain_scores, atol=1e-5)
    clear = np.abs(np.diff(plain_scores, axis=1)) > 1e-5
    clear = np.pad(clear, ((0, 0), (1, 1)), constant_values=True)
    settled = clear[:, :-1] & clear[:, 1:]
    assert settled.mean() > 0.9
    assert (its_ids == plain_ids)[settled].all()


@each_exact_kind
@settings(deadline=None)
@given(
    rows=st.dictionaries(st.integers(0, 2**62), ROWS, max_size=40),
    queries=st.lists(ROWS, min_size=1, max_size=25),
    k=st.integers(1, 50),
)
def test_agrees_with_a_sort(
    kind: str, rows: dict[int, tuple[float, ...]], queries: list[tuple[float, ...]], k: int
) -> None:
    index = make_index(kind, DIM)
    index.add(ids_of(*rows), rows_of(*rows.values()))
    assert found(index, rows_of(*queries), k) == [reference(rows, query, k) for query in queries]


@each_kind
def test_any_history_agrees_with_a_dictionary(kind: str) -> None:
    class Life(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.index = make_index(kind, DIM)
            self.held: dict[int, tuple[float, ...]] = {}

        @rule(rows=st.dictionaries(st.integers(0, 30), ROWS, max_size=6))
        def add(self, rows: dict[int, tuple[float, ...]]) -> None:
            if rows.keys() & self.held.keys():
                with pytest.raises(ValueError, match="already"):
                    self.index.add(ids_of(*rows), rows_of(*rows.values()))
            else:
                self.index.add(ids_of(*rows), rows_of(*rows.values()))
                self.held |= rows

        @rule(ids=st.sets(st.integers(0, 30), max_size=8))
        def remove(self, ids: set[int]) -> None:
            gone = ids & self.held.keys()
            assert self.index.remove(ids_of(*ids)) == len(gone)
            for i in gone:
                del self.held[i]

        @rule(query=ROWS, k=st.integers(1, 12))
        def search(self, query: tuple[float, ...], k: int) -> None:
            keeps_its_promise(self.index, self.held, query, k)
            if kind in EXACT_KINDS:
                assert found(self.index, rows_of(query), k) == [reference(self.held, query, k)]

        @invariant()
        def counts(self) -> None:
            if hasattr(self, "index"):
                assert len(self.index) == len(self.held)
                assert self.index.ids().tolist() == sorted(self.held)
                asked = ids_of(*range(31))
                assert self.index.holds(asked).tolist() == [i in self.held for i in range(31)]
                stored = self.index.vectors(ids_of(*self.held))
                np.testing.assert_allclose(stored, rows_of(*self.held.values()), atol=TOLERANCE)

    run_state_machine_as_test(Life, settings=settings(max_examples=30, deadline=None))


@each_approximate_kind
@pytest.mark.parametrize("count", [1, 30, 200])
def test_most_of_the_best_are_found(kind: str, count: int) -> None:
    rng = np.random.default_rng(2)
    rows = near_each_other(rng, 13_000)
    ids = rng.permutation(20_000)[: len(rows)].astype(np.int64)
    index, plain = make_index(kind, rows.shape[1]), make_index("exact", rows.shape[1])
    for one in (index, plain):
        one.add(ids, rows)
        one.remove(ids[::5])
    index.wait()
    queries = rows[:count]
    scores, its_ids = index.search(queries, 8)
    plain_scores, plain_ids = plain.search(queries, 8)
    assert not np.isin(its_ids, ids[::5]).any()
    assert (np.diff(scores, axis=1) <= 0).all()
    shared = [len(set(a) & set(b)) for a, b in zip(its_ids, plain_ids, strict=True)]
    assert np.mean(shared) / 8 >= 0.95
    true = np.einsum("qkd,qd->qk", plain.vectors(its_ids.ravel()).reshape(count, 8, -1), queries)
    np.testing.assert_allclose(scores, true, atol=TOLERANCE)
    assert (plain_scores[:, 0] >= true[:, 0] - TOLERANCE).all()


@each_approximate_kind
@pytest.mark.parametrize("kept", [1, 3, 20, 400])
def test_a_search_fills_up_however_few_are_left(kind: str, kept: int) -> None:
    """The rows that are left are far from the query and hidden behind dead ones."""
    rng = np.random.default_rng(3)
    rows = near_each_other(rng, 6_000)
    ids = np.arange(len(rows), dtype=np.int64)
    index = make_index(kind, rows.shape[1])
    index.add(ids, rows)
    far = np.argsort(rows @ rows[0])[:kept]
    index.remove(np.setdiff1d(ids, far))
    for k in (1, 8, 50):
        scores, its_ids = index.search(rows[:2], k)
        assert its_ids.shape == (2, min(k, kept))
        assert np.isin(its_ids, far).all()
        assert all(len(set(of_query)) == len(of_query) for of_query in its_ids.tolist())
        assert np.isfinite(scores).all()
    index.wait()
    assert sorted(index.search(rows[:1], kept)[1][0].tolist()) == sorted(far.tolist())


@each_kind
def test_identical_rows_are_all_found(kind: str) -> None:
    index = make_index(kind, DIM)
    index.add(ids_of(*range(500)), np.tile(rows_of((0.5, 0.5, 0.5, 0.5)), (500, 1)))
    index.add(ids_of(900), rows_of((0.5, 0.5, 0.5, -0.5)))
    assert found(index, rows_of((0.5, 0.5, 0.5, -0.5)), 1) == [[(1.0, 900)]]
    assert sorted(i for _, i in found(index, rows_of((1, 0, 0, 0)), 501)[0]) == [*range(500), 900]


@each_kind
def test_the_registry(kind: str) -> None:
    module, _, name = KINDS[kind].partition(":")
    assert isinstance(make_index(kind, DIM), getattr(importlib.import_module(module), name))
    with pytest.raises(ConfigError, match="the kinds are exact, flat, hnsw"):
        make_index("hnws", DIM)
