"""``mello-guided``: memedit as it is served, with questions of several hops taken hop by hop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from memedit.evaluation.methods import Answered, Ask, Bench, Model
from memedit.evaluation.methods.mello import answered
from memedit.evaluation.methods.memory import Memory
from memedit.multihop.chain import Look, Nearest, Reading
from memedit.multihop.decompose import nested, shipped
from memedit.multihop.drive import drive
from memedit.multihop.guided import HOP_TOKENS, RATIO, guided
from memedit.prompt import ChatPrompt
from memedit.protocols import Decision


class Guided(Memory):
    """What is read as a question of several hops goes hop by hop; anything else as in ``memory``.

    A question that is about an edit by itself, in one hop, is answered as in ``memory`` too, and so
    is one of which no hop is edited: it goes to the model as it came.
    """

    name: ClassVar[str] = "mello-guided"
    summary: ClassVar[str] = "memedit with multi-hop questions: decomposer, scope check per hop"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._decomposer = shipped()

    def describe(self) -> Mapping[str, Any]:
        """What memory, scope and hops are set to."""
        return {**super().describe(), "hop_tokens": HOP_TOKENS, "ratio": RATIO}

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Multi-hop questions without waiting for each other, then the others together."""
        read = self.read([ask.prompt.query for ask in asks])
        several = {number: readings for number, readings in enumerate(read) if readings}
        numbers = list(several)
        outcomes = drive(
            [guided(several[n], chat=isinstance(asks[n].prompt, ChatPrompt)) for n in numbers],
            model.flow,
            lambda steps: self.looks([(asks[numbers[n]].space, step) for n, step in steps]),
        )
        found: dict[int, Answered] = {}
        for number, outcome in zip(numbers, outcomes, strict=True):
            if outcome.edits:
                one = answered(asks[number], outcome, self.name)
                found[number] = replace(one, edits=tuple(self.original(e) for e in one.edits))
        rest = [n for n in range(len(asks)) if n not in found]
        plain = super().answers([asks[n] for n in rest], model)
        found.update(zip(rest, plain, strict=True))
        return [found[number] for number in range(len(asks))]

    def read(self, questions: Sequence[str]) -> list[tuple[Reading, ...]]:
        """How each question is read as one of several hops; no reading where it is none."""
        return [nested(readings) for readings in self._decomposer.read(questions)]

    def looks(self, steps: Sequence[tuple[str, Look | Nearest]]) -> list[list[Decision]]:
        """The decisions on each step's wordings in its space, all of them decided together."""
        asked = [
            (space, query)
            for space, step in steps
            if isinstance(step, Look)
            for query in step.queries
        ]
        decided = iter(self.decided(asked))
        return [
            [next(decided) for _ in step.queries] for _, step in steps if isinstance(step, Look)
        ]
