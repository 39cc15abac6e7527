"""ROME and R-ROME: one fact, one layer, one change of rank one.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", NeurIPS 2022,
arXiv:2202.05262, equation (2): W' = W + Λ (C⁻¹ k)ᵀ with Λ = (v - W k) / ((C⁻¹ k)ᵀ k). The paper's
k is the mean over random prefixes; its code uses the mean in C⁻¹ k and the bare prompt's key in
the two other places. Gupta et al. 2024, "Rebuilding ROME: Resolving Model Collapse during
Sequential Model Editing", arXiv:2403.07175: using the mean everywhere (R-ROME) keeps single edits
from blowing up.

What differs: several edits are one change after the other at the same layer, in closed form, since
keys at a layer do not depend on that layer's weight; their values are optimised together, on the
weights before all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from memedit.editors.architectures import Architecture
from memedit.editors.locating import Found, Keys, Locating, inverse_times, keys
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta


@dataclass(frozen=True)
class ROME(Locating):
    """Rank-one model editing.

    Attributes:
        one_key: whether the mean key stands in all places (R-ROME) or the bare prompt's key stands
            where ROME's own code has it.
        ridge: added to the second moment, as a share of its mean diagonal.
        slack: how far keys of single contexts may miss, as a share of Kᵀ C⁻¹ K's mean diagonal.
    """

    name: str = "rome"
    one_key: bool = False
    ridge: NonNegativeFloat = 1e-3
    slack: NonNegativeFloat = 0.05

    def _usual(self, architecture: Architecture) -> tuple[int, ...]:
        return (architecture.layer_one,)

    def _solved(
        self, model: Any, tokenizer: Any, found: Found, earlier: Sequence[Edit]
    ) -> list[WeightDelta]:
        del earlier
        if len(found.layers) != 1:
            raise InvalidInput(f"{self.name} edits one layer, not {len(found.layers)}; name one")
        layer, architecture = found.layers[0], found.architecture
        of_layer = keys(model, tokenizer, architecture, found.edits, found.contexts, [layer])[layer]
        moment = self.statistics.moments(model, tokenizer, architecture, [layer])[layer]
        name = f"{architecture.down_name(layer)}.weight"
        at = (of_layer.mean if self.one_key else of_layer.bare).double().T  # (in, edits)
        towards = self._towards(moment, of_layer)
        meets = towards.T @ at  # [i, j]: how far edit i's change reaches edit j's key
        changes = found.values.changes.double().T  # (out, edits), what W k is to grow by
        left = torch.zeros_like(changes)
        for i in range(changes.shape[1]):
            moved = left[:, :i] @ meets[:i, i]
            left[:, i] = (changes[:, i] - moved) / meets[i, i]
        return [WeightDelta(name, left=left.float(), right=towards.T.float())]

    def _towards(self, moment: Tensor, of_layer: Keys) -> Tensor:
        """What a change of rank one looks for in a key, float64, (in, edits): C⁻¹ k of the mean.

        For the keys K of every context, the shortest vector by C whose product with each of them
        is 1: C⁻¹ K (Kᵀ C⁻¹ K)⁻¹ 1, with a little slack since contexts are alike.
        """
        if not self.each:
            return inverse_times(moment, of_layer.mean.T, self.ridge)
        edits, contexts, _ = of_layer.every.shape
        columns = of_layer.every.flatten(0, 1).double().T  # (in, edits · contexts)
        solved = inverse_times(moment, columns, self.ridge).T.view(edits, contexts, -1)
        inner = solved @ of_layer.every.double().mT  # (edits, contexts, contexts)
        diagonal = inner.diagonal(dim1=1, dim2=2)
        diagonal += self.slack * diagonal.mean(dim=1, keepdim=True)
        weights = torch.linalg.solve(inner, torch.ones_like(diagonal)[..., None])
        return (weights * solved).sum(dim=1).T
