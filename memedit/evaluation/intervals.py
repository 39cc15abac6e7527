"""Rates with bootstrap confidence intervals, and paired differences of rates.

The unit that is resampled is the case, never the single probe: probes of one case share its edit
and rise and fall together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
CONFIDENCE = 0.95
_Values = NDArray[np.float64]
_BLOCK = 100  # resamples that are in memory at once


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval.

    Attributes:
        count: hits.
        n: probes.
        rate: ``count / n``, in [0, 1]; ``None`` where ``n`` is 0.
        low, high: the interval's ends, in [0, 1].
    """

    count: int
    n: int
    rate: float | None
    low: float | None
    high: float | None

    def to_mapping(self) -> dict[str, Any]:
        """JSON types, rounded to a ten-thousandth."""
        return {
            "count": self.count,
            "n": self.n,
            "rate": _rounded(self.rate),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
        }


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % interval.

    Attributes:
        n: values.
        mean: ``None`` where ``n`` is 0.
        low, high: the interval's ends.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None

    def to_mapping(self) -> dict[str, Any]:
        """JSON types, rounded to a ten-thousandth."""
        return {
            "n": self.n,
            "mean": _rounded(self.mean),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two rates over the same cases, the second less the first.

    Attributes:
        n: cases that both have.
        difference: in [-1, 1]; ``None`` where there is no case.
        low, high: the 95 % interval's ends.
    """

    n: int
    difference: float | None
    low: float | None
    high: float | None

    def to_mapping(self) -> dict[str, Any]:
        """JSON types, rounded to a ten-thousandth."""
        return {
            "n": self.n,
            "difference": _rounded(self.difference),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
        }


def rate(by_case: Sequence[Sequence[bool]], seed: int = 0) -> Rate:
    """The share of hits over all probes, with a percentile bootstrap over cases.

    Where every probe has the same verdict a bootstrap cannot see any spread; the interval's open
    end is then the exact one for that many cases (Clopper and Pearson 1934).

    Args:
        by_case: one sequence of verdicts per case; empty ones count for nothing.
        seed: of the resampling.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    hits, sizes = _sums(by_case)
    n = int(sizes.sum())
    if n == 0:
        return Rate(0, 0, None, None, None)
    count = int(hits.sum())
    if count in (0, n):
        margin = _unseen(len(hits))
        low, high = (0.0, margin) if count == 0 else (1 - margin, 1.0)
        return Rate(count, n, count / n, low, high)
    low, high = _ends(_ratios(hits, sizes, seed))
    return Rate(count, n, count / n, low, high)


def mean(by_case: Sequence[Sequence[float]], seed: int = 0) -> Mean:
    """The mean over all values, with the same bootstrap over cases.

    Args:
        by_case: one sequence of values per case; empty ones count for nothing.
        seed: of the resampling.
    """
    sums, sizes = _sums(by_case)
    n = int(sizes.sum())
    if n == 0:
        return Mean(0, None, None, None)
    low, high = _ends(_ratios(sums, sizes, seed))
    return Mean(n, float(sums.sum() / n), low, high)


def difference(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], seed: int = 0
) -> Difference:
    """How much higher the second rate is; the bootstrap draws the same cases for both.

    Where the difference is the same in every case, its ends are those that as many other cases
    would give as the exact interval leaves room for, each at its worst.

    Args:
        first: verdicts per case.
        second: those of the same cases in the same order.
        seed: of the resampling.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} cases against {len(second)}: they are not paired")
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    if not pairs:
        return Difference(0, None, None, None)
    hits_a, sizes_a = _sums([a for a, _ in pairs])
    hits_b, sizes_b = _sums([b for _, b in pairs])
    value = float(hits_b.sum() / sizes_b.sum() - hits_a.sum() / sizes_a.sum())
    low, high = _ends(_ratios(hits_b, sizes_b, seed) - _ratios(hits_a, sizes_a, seed))
    if low == high:
        margin = _unseen(len(pairs))
        low, high = value - margin * (1 + value), value + margin * (1 - value)
    return Difference(len(pairs), value, low, high)


def _sums(by_case: Sequence[Sequence[float]]) -> tuple[_Values, _Values]:
    """The sum and the number of the values of each case that has any."""
    kept = [values for values in by_case if len(values)]
    sums = np.array([math.fsum(values) for values in kept], dtype=np.float64)
    return sums, np.array([len(values) for values in kept], dtype=np.float64)


def _ratios(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """The mean in each resample of the cases, shape (RESAMPLES,); one seed, the same draws."""
    random = np.random.default_rng(seed)
    even = np.full(len(sums), 1 / len(sums))
    blocks = []
    for start in range(0, RESAMPLES, _BLOCK):
        size = min(_BLOCK, RESAMPLES - start)
        drawn = random.multinomial(len(sums), even, size=size).astype(np.float64)
        blocks.append((drawn @ sums) / (drawn @ sizes))
    return np.concatenate(blocks)


def _unseen(cases: int) -> float:
    """The largest share of other cases of which so many would show none, at 97.5 %."""
    return float(1 - ((1 - CONFIDENCE) / 2) ** (1 / cases))


def _ends(values: _Values) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
