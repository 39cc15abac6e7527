"""The metric of states, on clouds whose shape is known, and in a codebook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memedit.errors import InvalidInput
from memedit.grace.codebook import Codebook, Lesson, distances
from memedit.grace.metric import Floats, Metric, fitted

DIM, LOUD = 12, 4
"""Of twelve directions four say how a question is worded, ten times as loud as the others."""


def groups(rng: np.random.Generator, count: int) -> list[Floats]:
    """States of some questions in three wordings each."""
    loud = np.where(np.arange(DIM) < LOUD, 10.0, 0.3)
    about = rng.standard_normal((count, 1, DIM)) * (np.arange(DIM) >= LOUD)
    return list((5 + about + loud * rng.standard_normal((count, 3, DIM))).astype(np.float32))


def test_wordings_of_a_question_come_together() -> None:
    rng = np.random.default_rng(0)
    metric, asked = fitted(groups(rng, 200), shrink=1e-3), groups(rng, 40)
    keys, queries = np.stack([one[0] for one in asked]), np.stack([one[1] for one in asked])
    plain = distances(queries, keys).argmin(axis=1) == np.arange(40)
    by_metric = distances(metric(queries), metric(keys)).argmin(axis=1) == np.arange(40)
    assert plain.mean() < 0.2
    assert by_metric.mean() > 0.9


def test_where_states_lie_is_of_unit_length_and_the_same_in_any_company() -> None:
    rng = np.random.default_rng(1)
    metric = fitted(groups(rng, 20))
    states = rng.standard_normal((7, DIM), dtype=np.float32)
    found = metric(states)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert all(np.array_equal(metric(states[i : i + 1])[0], found[i]) for i in range(7))


def test_what_says_nothing_is_refused() -> None:
    one = np.ones((1, DIM), dtype=np.float32)
    with pytest.raises(InvalidInput, match="two wordings"):
        fitted([one, one])
    with pytest.raises(InvalidInput, match="same state"):
        fitted([np.repeat(one, 2, axis=0)])
    with pytest.raises(InvalidInput, match="shrink"):
        fitted(groups(np.random.default_rng(0), 5), shrink=0)


def test_a_codebook_compares_by_its_metric_and_keeps_it(tmp_path: Path) -> None:
    quarter = np.float32([[0, 1], [1, 0]])
    book = Codebook(2, metric=Metric(np.float32([1, 1]), 3 * quarter))
    key = np.float32([[2, 1]])
    book.add(Lesson("a", "Rome", key, np.float32([0.1]), key, np.array([0])))
    for made in (book, _again(book, tmp_path)):
        entries = made.entries()
        assert entries.keys.tolist() == [[0.0, 1.0]]
        # In the same direction from the centre, however far; and in another.
        assert entries.lookup(np.float32([[9, 1], [1, 9], [-9, 1]])).tolist() == [0, -1, -1]
        assert np.array_equal(made.lessons()[0].keys, key)
        # One less the cosine: at 30 degrees 0.134.
        slanted = np.float32([1 + np.sqrt(3), 2])
        for radius, fires in ((0.13, -1), (0.14, 0)):
            other = Codebook(2, metric=made.metric)
            other.add(replace(book.lessons()[0], radii=np.float32([radius])))
            assert other.entries().lookup(slanted[None])[0] == fires


def _again(book: Codebook, folder: Path) -> Codebook:
    book.save(folder / "book")
    return Codebook.load(folder / "book")[0]
