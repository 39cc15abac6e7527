"""How far apart two states are: by what they say, and not by the words that led to them.

Source: Hatch, Kajarekar and Stolcke 2006, "Within-class covariance normalization for SVM-based
speaker recognition", Interspeech. A class here is one question about one subject, in several
wordings. What differs: states are centred before and brought to unit length after, and the distance
is the cosine's. In so many dimensions most states are nearly at right angles, and by their
Euclidean distance balls overlap that have hardly anything in common: the codebook's splits would
leave little of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memedit.errors import InvalidInput

Floats = NDArray[np.float32]
"""Rows of a layer's states, shape (n, dim), or one number per row, shape (n,); float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A map of a layer's states, after which their distance is one less their cosine: 0 to 2.

    Attributes:
        centre: the mean of ordinary states, shape (dim,).
        matrix: shape (dim, dim); states are multiplied by it from the right.
    """

    centre: Floats
    matrix: Floats

    def __call__(self, states: Floats) -> Floats:
        """Where states lie, shape (n, dim), each of unit length.

        Each row is computed by itself, so that it is the same whatever else is in the call.
        """
        moved = np.stack([(row - self.centre) @ self.matrix for row in states])
        found: Floats = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        return found.astype(np.float32)


def fitted(groups: Sequence[Floats], shrink: float = 0.1) -> Metric:
    """The metric in which states of one group are as near to each other as can be.

    Args:
        groups: states of one question in several wordings each, shape (wordings, dim).
        shrink: how much of the mean variance is added to each direction's, above 0: with fewer
            states than dimensions most directions were not seen to vary.

    Raises:
        InvalidInput: no group has two states that differ.
    """
    if shrink <= 0 or not any(len(group) > 1 for group in groups):
        raise InvalidInput("a metric needs questions in two wordings at least, and shrink above 0")
    every = np.concatenate(groups).astype(np.float64)
    within = np.concatenate([group - group.mean(0) for group in groups if len(group) > 1])
    within = within.astype(np.float64)
    spread, axes = np.linalg.eigh(within.T @ within / len(within))
    spread = np.maximum(spread, 0)
    if not spread.any():
        raise InvalidInput("the wordings of each question gave the same state; choose other ones")
    matrix = axes / np.sqrt(spread + shrink * spread.mean())
    return Metric(every.mean(0).astype(np.float32), matrix.astype(np.float32))
