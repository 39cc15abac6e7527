"""AlphaEdit: MEMIT in the null space of what is to stay.

Source: Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language
Models", ICLR 2025, arXiv:2410.02355, equation (14): Δ = R Kᵀ P (Kₚ Kₚᵀ P + K Kᵀ P + I)⁻¹, where P
projects on the eigenvectors of E[k kᵀ] with small eigenvalues, and Kₚ are the keys of the edits
before.

What differs: the paper takes eigenvalues below 0.02; here those that together hold a share of the
trace, since the size of keys differs between models, and the ridge (the paper's I) is likewise a
multiple of the keys' mean squared length. Keys of earlier edits are their bare prompts', taken from
the model as it is, not as it was when they were learned.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from memedit.editors.memit import MEMIT


@dataclass(frozen=True)
class AlphaEdit(MEMIT):
    """Null-space constrained editing.

    Attributes:
        null: the share of the second moment's trace that counts as nothing; 0 takes only what
            ordinary keys never reach.
        penalty: on the size of the change, as a multiple of the edits' mean squared key length.
    """

    name: str = "alphaedit"
    null: NonNegativeFloat = 0.5
    penalty: PositiveFloat = 0.7

    def _rights(self, of_edits: Tensor, moment: Tensor, earlier: Tensor | None) -> Tensor:
        """Kᵀ P (Kₚ Kₚᵀ P + K Kᵀ P + I)⁻¹, float64, (keys, in).

        With A = [K Kₚ] the rows of AᵀP (A AᵀP + I)⁻¹ = (AᵀPA + I)⁻¹ AᵀP that are the edits': a
        solve in the number of keys.
        """
        every = of_edits if earlier is None else torch.cat([of_edits, earlier.double().T], dim=1)
        inside = null_projector(moment, self.null) @ every  # (in, edits and earlier ones)
        inner = inside.T @ inside
        inner.diagonal().add_(of_edits.pow(2).sum(0).mean() * self.penalty)
        return torch.linalg.solve(inner, inside.T)[: of_edits.shape[1]]


def null_projector(moment: Tensor, share: float) -> Tensor:
    """The projection on the eigenvectors that hold at most this share of the trace, float64.

    Directions that rounding alone keeps from zero always count.

    Args:
        moment: E[k kᵀ], (in, in).
        share: in [0, 1).
    """
    digest = hashlib.sha256(moment.float().cpu().numpy().tobytes()).hexdigest()
    if (known := _PROJECTORS.get((digest, share))) is not None:
        return known.to(moment.device)
    amounts, vectors = torch.linalg.eigh(moment.double())
    amounts = amounts.clamp(min=0)  # ascending
    small = amounts.cumsum(0) <= share * amounts.sum()
    small |= amounts <= len(amounts) * torch.finfo(torch.float32).eps * amounts[-1]
    basis = vectors[:, small]
    projector: Tensor = basis @ basis.T
    while len(_PROJECTORS) >= _KEPT:
        _PROJECTORS.pop(next(iter(_PROJECTORS)))
    _PROJECTORS[digest, share] = projector
    return projector


_KEPT = 8
_PROJECTORS: dict[tuple[str, float], Tensor] = {}
# By a moment's hash and the share: edits one after the other need the same ones, and eigenvectors
# take longer than all the rest of the solving.
