"""MEMIT and PMET: many facts at once, spread over layers, by least squares.

Source: Meng et al. 2023, "Mass-Editing Memory in a Transformer", ICLR 2023, arXiv:2210.07229:
Δ = R Kᵀ (λ C + K Kᵀ)⁻¹ (equation (14)), layer by layer, with a residual R that is what the last
layer's stream still lacks, divided by the layers to go. Li et al. 2024, "PMET:
Precise Model Editing in a Transformer", AAAI 2024, arXiv:2308.08742: values are optimised for
attention and MLP together and the MLP's part is written; residuals are divided by the square root.

What differs: C is the mean of k kᵀ and λ its weight in keys, as in MEMIT; the change is kept as
two factors of rank n.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from memedit.editors.deltas import applied
from memedit.editors.locating import Found, Locating, inverse_times, keys
from memedit.editors.passes import observed
from memedit.editors.rows import target_row
from memedit.edits import Edit
from memedit.protocols import WeightDelta


@dataclass(frozen=True)
class MEMIT(Locating):
    """Mass-editing memory in a transformer.

    Attributes:
        weight: λ, how many ordinary keys the second moment counts for.
        ridge: added to the second moment, as a share of its mean diagonal.
        spread: what a layer's residual is divided by: the number of layers to go (``"even"``) or
            its square root (``"root"``, PMET).
        aim: what the values are of: the residual stream (``"stream"``) or the MLP's output
            (``"mlp"``, PMET).
    """

    name: str = "memit"
    weight: PositiveFloat = 3_000.0
    ridge: NonNegativeFloat = 1e-3
    spread: Literal["even", "root"] = "even"
    aim: Literal["stream", "mlp"] = "stream"

    def _solved(
        self, model: Any, tokenizer: Any, found: Found, earlier: Sequence[Edit]
    ) -> list[WeightDelta]:
        architecture, layers = found.architecture, found.layers
        moments = self.statistics.moments(model, tokenizer, architecture, layers)
        alone = found.contexts[:1]
        known = keys(model, tokenizer, architecture, earlier, alone, layers) if earlier else {}
        deltas: list[WeightDelta] = []
        with ExitStack() as lower:
            for place, layer in enumerate(layers):
                here = keys(model, tokenizer, architecture, found.edits, found.contexts, [layer])[
                    layer
                ]
                of_edits = here.every if self.each else here.mean[:, None]  # (edits, n, in)
                columns = of_edits.flatten(0, 1).double().T
                of_earlier = known[layer].bare if earlier else None
                rights = self._rights(columns, moments[layer], of_earlier)
                right = rights.view(of_edits.shape).sum(dim=1)
                residual = self._lacking(model, tokenizer, found) if place else found.values.changes
                to_go = len(layers) - place
                residual = residual / (to_go if self.spread == "even" else to_go**0.5)
                delta = WeightDelta(
                    f"{architecture.down_name(layer)}.weight",
                    left=residual.T.float().contiguous(),
                    right=right.float(),
                )
                deltas.append(delta)
                if layer != layers[-1]:
                    lower.enter_context(applied(model, [delta]))
        return deltas

    def _lacking(self, model: Any, tokenizer: Any, found: Found) -> Tensor:
        """What the last layer still lacks, the layers below being edited, (edits, out)."""
        rows = [
            target_row(tokenizer, edit, i, found.contexts[0]) for i, edit in enumerate(found.edits)
        ]
        last = found.layers[-1]
        seen = observed(model, found.architecture, rows, [last])
        if self.aim == "mlp":
            return found.values.changes - (seen.outputs[last] - found.values.outputs)
        return found.values.changes - (seen.streams[last] - found.values.streams)

    def _rights(self, of_edits: Tensor, moment: Tensor, earlier: Tensor | None) -> Tensor:
        """Kᵀ (λ C + K Kᵀ)⁻¹, float64, (keys, in), by the Woodbury identity.

        Args:
            of_edits: K, (in, keys) float64: one key an edit, or one a context and edit.
            moment: C, (in, in).
            earlier: the bare prompts' keys of what was learned before, (earlier edits, in); what
                they are mapped to stays.
        """
        if earlier is not None:
            moment = moment + earlier.T @ earlier / self.weight
        solved = inverse_times(moment, of_edits, self.ridge) / self.weight
        eye = torch.eye(of_edits.shape[1], dtype=torch.float64, device=of_edits.device)
        return torch.linalg.solve(eye + of_edits.T @ solved, solved.T)
