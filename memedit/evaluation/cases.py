"""The common case: what every dataset becomes, and everything after it works on.

A case is a few edits and the probes that tell whether they worked. A probe is *in scope* when an
edit should change its answer (accuracy, generality, portability) and *out of scope* when none
should (locality). A multi-hop question is a portability probe with hops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memedit.edits import Edit

Measure = Literal["accuracy", "generality", "locality", "portability"]
"""What a probe measures; see docs/measures.md."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A triple, in whichever names or ids the dataset compares: Wikidata's, or plain text."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a multi-hop question, with the edits applied.

    Attributes:
        question: the step as a question of its own.
        answers: accepted answers, the canonical one first.
        cloze: the step as a text to be completed, where the dataset has one.
        edited: whether an edit of the case changes this step.
    """

    question: str
    answers: tuple[str, ...]
    cloze: str = ""
    edited: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt, and what its answer should be.

    Attributes:
        measure: what it counts for.
        kind: the finer kind within the measure: ``"prompt"``, ``"rephrase"``,
            ``"neighbourhood"``, ``"relation specificity"``, ``"subject aliasing"``, ``"2 hops"``.
        prompt: the text to ask, as the dataset has it.
        answers: in scope, the accepted answers with the edits live, the canonical one first; out
            of scope, the true answers where the dataset knows them, else empty.
        old: in scope, the answers that the edits replace; out of scope, answers that would show
            that an edit leaked (its new target).
        hops: the steps of a multi-hop question.
        group: probes of one case with the same non-empty group are wordings of one question.
    """

    measure: Measure
    kind: str
    prompt: str
    answers: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = ()
    group: str = ""

    @property
    def in_scope(self) -> bool:
        """Whether an edit of the case should change the answer."""
        return self.measure != "locality"


@dataclass(frozen=True, slots=True)
class Case:
    """Edits and the probes that tell whether they worked.

    Attributes:
        id: unique within the dataset, the same in every run.
        edits: applied in this order. Their ids follow from the case's, so that runs agree.
        probes: at least one.
        relies_on: the facts that the in-scope answers rest on, the edits' own included: the new
            chain of a multi-hop question. Another case's edit that changes one breaks the chain.
        states: the facts that the edits state.
    """

    id: str
    edits: tuple[Edit, ...]
    probes: tuple[Probe, ...]
    relies_on: tuple[Fact, ...] = ()
    states: tuple[Fact, ...] = ()
