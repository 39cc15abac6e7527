"""RECT: of another editor's change, the largest relative parts alone.

Source: Gu et al. 2024, "Model Editing Harms General Abilities of Large Language Models:
Regularization to the Rescue", EMNLP 2024, arXiv:2401.04700: of a change ΔW
only the elements stay whose |ΔW / W| is among the largest k per cent; the others are set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from memedit.editors.deltas import matrix, merged
from memedit.editors.rome import ROME
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.protocols import Editor, WeightDelta


@dataclass(frozen=True)
class RECT:
    """Another editor, regularised.

    Attributes:
        name: what reports call it.
        inner: whose change it is; ROME's, with one key.
        keep: the share of the elements that stay, in (0, 1].
    """

    name: str = "rect"
    inner: Editor = field(default_factory=lambda: ROME(one_key=True))
    keep: Annotated[float, Field(gt=0, le=1)] = 0.4

    def describe(self, model: Any) -> Mapping[str, Any]:
        """Every setting, the inner editor's too; see :class:`memedit.protocols.Editor`."""
        return {"name": self.name, "keep": self.keep, "inner": dict(self.inner.describe(model))}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """As the inner editor; see :class:`memedit.protocols.Editor`."""
        self.inner.prepare(model, tokenizer)

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        """See :class:`memedit.protocols.Editor`."""
        return self._largest(model, self.inner.deltas(model, tokenizer, edits, earlier))

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        """See :class:`memedit.protocols.Editor`."""
        alone = self.inner.separately(model, tokenizer, edits)
        return [self._largest(model, deltas) for deltas in alone]

    def _largest(self, model: Any, deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
        if not 0 < self.keep <= 1:
            raise InvalidInput(f"keep is {self.keep}; it is a share above 0 and at most 1")
        found = []
        for delta in merged(deltas):
            change = delta.dense()
            weight = matrix(model, delta.name).float().abs()
            relative = (change.abs() / weight.clamp(min=1e-12)).flatten()
            gone = relative.numel() - max(1, round(self.keep * relative.numel()))
            if gone:
                least = relative.kthvalue(gone).values
                change = change * (relative > least).view_as(change)
            found.append(WeightDelta(delta.name, full=change))
        return found
