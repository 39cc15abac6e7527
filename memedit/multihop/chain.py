"""A question that is answered hop by hop, as values and as steps.

A method is a generator (:data:`Steps`): it gives what it needs to know next, is sent the answer,
and returns an :class:`Outcome` at last. It asks nobody itself, so that the same code runs thousands
of questions at once over an engine that batches, and one question inside a server.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from memedit.edits import Edit
from memedit.protocols import Generation, Request


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a question: from an entity along a chain of relations.

    Attributes:
        start: the entity that the question names.
        relations: names in the library (:mod:`memedit.multihop.relations`), the first hop first.
        probability: of this reading among all, in [0, 1].
    """

    start: str
    relations: tuple[str, ...]
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """Asks what scope says of a question; sent a :class:`~memedit.protocols.Decision` a wording.

    Attributes:
        queries: the same question in one or more wordings, the plainest first.
    """

    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nearest:
    """Asks for the live edit whose statement is nearest to a text; sent the edit, or ``None``."""

    text: str


Step = Request | Look | Nearest

Steps = Generator[Step, Any, "Outcome"]
"""A question under way. A :class:`~memedit.protocols.Request` is sent a
:class:`~memedit.protocols.Generation`."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop as it was taken.

    Attributes:
        question: what was asked.
        answer: what came of it; ``None`` where neither an edit nor the model had an answer.
        edit: the edit that answered it or was shown to the model.
        said: what the model said, before normalisation; empty where it was not asked.
    """

    question: str
    answer: str | None
    edit: Edit | None = None
    said: str = ""

    def told(self) -> str:
        """The hop in one line, for people."""
        answer = self.answer if self.answer is not None else "no answer"
        return f"{self.question} {answer} ({self.edit.id if self.edit else 'the model'})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a question.

    Attributes:
        answer: the last hop's; ``None`` where there is none.
        hops: as they were taken.
        facts: the hops as edits, from the first on: what a model needs to be told to answer the
            question itself. Hops that the model answered are among them.
        reading: how the question was read, where a decomposer read it.
        asked: the last prompt that went to the model, and what it said.
        prompt_tokens, tokens: of all prompts and answers together.
        reason: why there is no answer.
    """

    answer: str | None
    hops: tuple[Hop, ...] = ()
    facts: tuple[Edit, ...] = ()
    reading: Reading | None = None
    asked: tuple[Any, Generation] | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    reason: str = ""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that took part, in the order of their hops, each once."""
        return tuple({hop.edit.id: hop.edit for hop in self.hops if hop.edit}.values())

    def after(self, prompt: Any, said: Generation) -> Outcome:
        """The same with one more prompt that went to the model."""
        return replace(
            self,
            asked=(prompt, said),
            prompt_tokens=self.prompt_tokens + said.prompt_tokens,
            tokens=self.tokens + said.tokens,
        )
