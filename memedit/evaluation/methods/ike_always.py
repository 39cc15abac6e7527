"""IKE without a scope gate: every prompt is shown the nearest live edit.

Source: Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?",
arXiv:2305.12740, in the form in which frameworks run it: ``New Fact: ... Prompt: ...``, k
demonstrations of the kinds copy, update and retain, chosen by similarity, the closest last. What
differs: those frameworks hand the method the right edit, one at a time; here it has to find it
among all live ones, as the nearest by cosine. In a chat each demonstration is a turn of the user
and one of the assistant. The demonstrations are the packaged ones (the paper draws its 32 from
CounterFact's own training part).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from memedit.edits import Edit
from memedit.evaluation.methods import Answered, AnyPrompt, Ask, Bench, Model
from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.protocols import Capability, Vectors
from memedit.routes.ike import Demonstration, Demonstrations

K = 16
"""Demonstrations in front of every prompt."""


class IKEAlways:
    """In-context editing with the nearest edit, whatever is asked."""

    name: ClassVar[str] = "ike-always"
    summary: ClassVar[str] = f"IKE with k = {K} and the nearest edit, no scope gate"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})

    def __init__(self, bench: Bench) -> None:
        self._encoder = bench.encoder
        self._demonstrations = Demonstrations(bench.config.ike.file, bench.encoder)
        self._spaces: dict[str, tuple[tuple[Edit, ...], Vectors]] = {}

    def describe(self) -> Mapping[str, Any]:
        """How many demonstrations, and what compares texts."""
        return {"demonstrations": K, "encoder": self._encoder.name}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Encodes the edits."""
        self._spaces[space] = (tuple(edits), self._encoder.encode([edit.key for edit in edits]))

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Each prompt behind its demonstrations and the nearest edit."""
        vectors = self._encoder.encode([ask.prompt.query for ask in asks])
        sent, used = [], []
        for ask, vector in zip(asks, vectors, strict=True):
            edits, keys = self._spaces[ask.space]
            # The last of several equals: a fact that was edited twice is what it was made last.
            nearest = edits[len(edits) - 1 - int(np.argmax((keys @ vector)[::-1]))]
            shown = self._demonstrations.closest(ask.prompt.query, K)
            sent.append(_with(ask.prompt, nearest, shown))
            used.append(nearest.id)
        return [
            Answered(prompt, one, (edit,), "ike")
            for prompt, one, edit in zip(sent, model(sent), used, strict=True)
        ]

    def close(self) -> None:
        """Holds main memory only."""
        self._spaces.clear()


def _with(prompt: AnyPrompt, edit: Edit, shown: Sequence[Demonstration]) -> AnyPrompt:
    fact = f"New Fact: {edit.statement}\nPrompt: "
    if isinstance(prompt, TextPrompt):
        blocks = (f"New Fact: {d.statement}\nPrompt: {d.query} {d.answer}\n\n" for d in shown)
        return prompt.with_evidence("".join(blocks) + fact)
    turns: list[Message] = []
    for one in shown:
        asked = f"New Fact: {one.statement}\nPrompt: {one.query}"
        turns.append({"role": "user", "content": asked})
        turns.append({"role": "assistant", "content": one.answer})
    return ChatPrompt.with_evidence(prompt, fact, turns)
