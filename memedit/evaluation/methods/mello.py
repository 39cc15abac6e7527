"""MeLLo as published: the model divides each question itself; see :mod:`memedit.multihop.mello`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from memedit.edits import Edit
from memedit.evaluation.methods import Answered, Ask, Bench, Model
from memedit.multihop.chain import Look, Nearest, Outcome
from memedit.multihop.drive import drive
from memedit.multihop.mello import ROUND_TOKENS, ROUNDS, mello
from memedit.protocols import Capability, Encoder, Generation, Vectors


class MeLLo:
    """Every prompt is taken for a multi-hop question, as the paper does."""

    name: ClassVar[str] = "mello"
    summary: ClassVar[str] = "MeLLo (Zhong et al. 2023): the model asks itself, and checks edits"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})

    def __init__(self, bench: Bench) -> None:
        self._facts = NearestFacts(bench.encoder)

    def describe(self) -> Mapping[str, Any]:
        """The limits of the loop, and what compares texts."""
        return {"rounds": ROUNDS, "round_tokens": ROUND_TOKENS, "encoder": self._facts.encoder.name}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Encodes the statements."""
        self._facts.learn(edits, space)

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Each question round by round; none waits for another."""
        outcomes = drive(
            [mello(ask.prompt.query) for ask in asks],
            model.flow,
            lambda steps: self._facts.nearest([(asks[n].space, step) for n, step in steps]),
        )
        return [
            answered(ask, outcome, self.name) for ask, outcome in zip(asks, outcomes, strict=True)
        ]

    def close(self) -> None:
        """Holds main memory only."""
        self._facts.clear()


class NearestFacts:
    """The live edit nearest to a text, by the cosine of its statement, as MeLLo retrieves.

    Args:
        encoder: of edits and texts.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._spaces: dict[str, tuple[tuple[Edit, ...], Vectors]] = {}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Makes these edits the live ones of a space."""
        vectors = self.encoder.encode([edit.statement for edit in edits])
        self._spaces[space] = (tuple(edits), vectors)

    def nearest(self, steps: Sequence[tuple[str, Look | Nearest]]) -> list[Edit | None]:
        """For each step in its space the nearest edit; of equals the one learned last."""
        texts = [step.text for _, step in steps if isinstance(step, Nearest)]
        vectors = self.encoder.encode(texts)
        found: list[Edit | None] = []
        for (space, _), vector in zip(steps, vectors, strict=True):
            edits, keys = self._spaces[space]
            place = len(edits) - 1 - int(np.argmax((keys @ vector)[::-1])) if edits else None
            found.append(None if place is None else edits[place])
        return found

    def clear(self) -> None:
        """Forgets everything."""
        self._spaces.clear()


def answered(ask: Ask, outcome: Outcome, route: str) -> Answered:
    """An outcome as a method's answer; an empty text where there is none."""
    prompt = outcome.asked[0] if outcome.asked else ask.prompt
    said = Generation(outcome.answer or "", outcome.prompt_tokens, outcome.tokens)
    return Answered(
        prompt, said, tuple(edit.id for edit in outcome.edits), route, hops=outcome.hops
    )
