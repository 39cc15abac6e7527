"""EMMET: many facts in one layer, each of them exactly.

Source: Gupta et al. 2024, "A Unified Framework for Model Editing", Findings of EMNLP 2024,
arXiv:2403.14236: Δ = R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹, the least change in the norm of C under
which every key gets its value. With one edit it is ROME.

What differs: a small ridge on Kᵀ C⁻¹ K where keys are nearly the same, as an edit's in several
contexts are, and edits' of one subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from memedit.editors.architectures import Architecture
from memedit.editors.locating import inverse_times
from memedit.editors.memit import MEMIT


@dataclass(frozen=True)
class EMMET(MEMIT):
    """Equality-constrained mass editing.

    Attributes:
        slack: added to Kᵀ C⁻¹ K, as a share of its mean diagonal; 0 maps every key exactly.
    """

    name: str = "emmet"
    slack: NonNegativeFloat = 0.05

    def _usual(self, architecture: Architecture) -> tuple[int, ...]:
        return (architecture.layer_one,)

    def _rights(self, of_edits: Tensor, moment: Tensor, earlier: Tensor | None) -> Tensor:
        """(Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹, float64, (keys, in)."""
        del earlier
        solved = inverse_times(moment, of_edits, self.ridge)
        inner = of_edits.T @ solved
        eye = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        return torch.linalg.solve(inner + self.slack * inner.diagonal().mean() * eye, solved.T)
