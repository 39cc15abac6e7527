"""The model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from memedit.edits import Edit
from memedit.evaluation.methods import Answered, Ask, Bench, Model
from memedit.protocols import Capability


class Unedited:
    """Learns nothing. What it gets right, it knew."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "the model as it is, no edit"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})

    def __init__(self, bench: Bench) -> None:
        del bench

    def describe(self) -> Mapping[str, Any]:
        """Nothing to set."""
        return {}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Does nothing."""

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Every prompt as it came."""
        prompts = [ask.prompt for ask in asks]
        said = model(prompts)
        return [Answered(prompt, one) for prompt, one in zip(prompts, said, strict=True)]

    def close(self) -> None:
        """Holds nothing."""
