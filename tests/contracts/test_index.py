"""One suite over every kind of index, each compared with the plain reference."""

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
from memedit.protocols import Index

DIM = 4

# Rows whose inner products are sums of multiples of 1/4: exact in float32 in whatever order they
# are added up, so that ties are ties in every implementation.
ROWS = st.tuples(*[st.sampled_from([-0.5, 0.5])] * DIM)

pytestmark = pytest.mark.parametrize("kind", KINDS)


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


def test_an_empty_index_finds_nothing(kind: str) -> None:
    index = make_index(kind, DIM)
    assert len(index) == 0
    assert index.dim == DIM
    assert found(index, rows_of((1, 0, 0, 0), (0, 1, 0, 0)), 3) == [[], []]
    assert found(index, rows_of(), 3) == []
    assert index.remove(ids_of(1)) == 0
    index.add(ids_of(), rows_of())
    assert len(index) == 0


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


def test_equal_scores_come_by_id_also_at_the_cut(kind: str) -> None:
    index = make_index(kind, DIM)
    ids = np.random.default_rng(0).permutation(200).astype(np.int64)
    index.add(ids, np.tile(rows_of((0.5, 0.5, 0.5, 0.5)), (200, 1)))
    assert [i for _, i in found(index, rows_of((1, 0, 0, 0)), 5)[0]] == [0, 1, 2, 3, 4]
    index.remove(ids_of(0, 2))
    assert [i for _, i in found(index, rows_of((1, 0, 0, 0)), 5)[0]] == [1, 3, 4, 5, 6]


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


def test_bad_queries_are_refused(kind: str) -> None:
    index = make_index(kind, DIM)
    with pytest.raises(ValueError, match="expected"):
        index.search(np.ones((1, DIM + 1), np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        index.search(np.ones((1, DIM), np.float32), 0)
    with pytest.raises(ValueError, match="at least 1"):
        make_index(kind, 0)


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
            assert found(self.index, rows_of(query), k) == [reference(self.held, query, k)]

        @invariant()
        def counts(self) -> None:
            if hasattr(self, "index"):
                assert len(self.index) == len(self.held)

    run_state_machine_as_test(Life, settings=settings(max_examples=30, deadline=None))


def test_the_registry(kind: str) -> None:
    module, _, name = KINDS[kind].partition(":")
    assert isinstance(make_index(kind, DIM), getattr(importlib.import_module(module), name))
    with pytest.raises(ConfigError, match="the kinds are exact, flat"):
        make_index("hnws", DIM)
