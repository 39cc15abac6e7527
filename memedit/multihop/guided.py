"""``mello-guided``: what a small model is bad at is taken away from it.

MeLLo (Zhong et al. 2023, arXiv:2305.14795) has the model divide the question, answer, read a fact
and judge whether that contradicts its answer. Here a trained decomposer
(:mod:`memedit.multihop.decompose`) reads the start and the chain of relations; each hop is one
short question about one subject; memedit's own scope says whether an edit answers it. Where one
does, its target is the hop's answer, and nobody is asked. Where none does, the model is asked,
behind a few worked questions that show it to answer with a name. A hop that neither can answer ends
the reading, and the next likely reading is tried.

A separate scope check per subquestion is PokeMQA's idea (Gu et al. 2024, arXiv:2312.15194); a
fixed chain of relations that a small model only fills in is near to Wang et al. 2024, "DeepEdit",
and Shi et al. 2024, "Retrieval-enhanced Knowledge Editing" (arXiv:2403.19631).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

from memedit.edits import Edit, structured
from memedit.errors import InvalidEdit
from memedit.multihop.answers import answer_of, names_of
from memedit.multihop.chain import Hop, Look, Outcome, Reading, Step, Steps
from memedit.multihop.decompose import surely_nested
from memedit.multihop.relations import Relation, relation_of
from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.protocols import Decision, Request

HOP_TOKENS = 20
"""Longest answer to a hop, in tokens: a name."""

RATIO = 0.05
"""A further reading is tried where it is at least so likely, beside the likeliest."""

EDITED = 10.0
"""A reading counts as so many times likelier where an edit answers its first hop: that the question
names the very entity and relation that somebody edited is evidence of what it asks."""

NO_EDIT = "no live edit is about a hop of the question"


@dataclass(frozen=True, slots=True)
class _Walk:
    """One reading, walked as far as it went."""

    outcome: Outcome
    complete: bool


def guided(readings: Sequence[Reading], *, chat: bool = True) -> Steps:
    """The question by its readings, the likeliest first, with :data:`EDITED`.

    The first reading with an edit in it that reaches its end counts; failing that the likeliest,
    if it has met an edit. The outcome has no edits where no reading meets one: the question is then
    none of memedit's business, and goes to the model as it came.

    Args:
        readings: of the question; at least one.
        chat: whether the model is asked in a chat, or with a text to be continued.
    """
    known: dict[str, str | None] = {}
    begun: Outcome | None = None
    spent = Outcome(None, reason=NO_EDIT)
    ranked = yield from _ranked(readings)
    for reading in ranked:
        walk = yield from _walk(reading, chat, known, spent)
        spent = replace(walk.outcome, answer=None, hops=(), facts=(), reading=None, reason=NO_EDIT)
        if walk.outcome.edits:
            if walk.complete:
                return walk.outcome
            if reading is ranked[0]:
                begun = walk.outcome
    if begun is None:
        return replace(spent, reading=readings[0])
    return replace(begun, asked=spent.asked, prompt_tokens=spent.prompt_tokens, tokens=spent.tokens)


def gold(questions: Sequence[str], edits: Sequence[Edit | None], *, chat: bool = True) -> Steps:
    """The hops as somebody else knows them, with the edits that answer them: the oracle.

    Prompts, normalisation and decoding are :func:`guided`'s.

    Args:
        questions: one a hop, as it is to be asked.
        edits: the edit that answers each, or ``None`` where the model is to.
        chat: as in :func:`guided`.
    """
    outcome = Outcome(None)
    for question, edit in zip(questions, edits, strict=True):
        hop, outcome = yield from _take(question, edit, chat, {}, outcome)
        outcome = replace(outcome, hops=(*outcome.hops, hop), answer=hop.answer)
    return outcome


def _ranked(readings: Sequence[Reading]) -> Generator[Step, Any, list[Reading]]:
    """The readings that are worth a try, the likeliest first.

    Where it is in doubt that the question is one of several hops, those alone whose first hop is
    edited.
    """
    asked = [_wordings(reading.relations[0], reading.start) for reading in readings]
    decisions: Sequence[Decision] = yield Look(tuple(query for hop in asked for query in hop))
    decided = iter(decisions)
    otherwise = 1.0 if surely_nested(readings) else 0.0
    odds = []
    for reading, hop in zip(readings, asked, strict=True):
        edited = [decision for decision in islice(decided, len(hop)) if decision.edits]
        odds.append(reading.probability * (EDITED if edited else otherwise))
    order = sorted(range(len(readings)), key=lambda place: -odds[place])
    least = RATIO * readings[0].probability
    return [readings[place] for place in order if odds[place] >= least]


def _wordings(relation: str, subject: str) -> tuple[str, ...]:
    """A hop in the library's words, for each name of its subject."""
    return tuple(relation_of(relation).question(one) for one in names_of(subject))


def _walk(
    reading: Reading, chat: bool, known: dict[str, str | None], spent: Outcome
) -> Generator[Step, Any, _Walk]:
    """One reading hop by hop, until its end or a hop without an answer."""
    outcome = replace(spent, answer=None, hops=(), facts=(), reading=reading, reason="")
    subject = reading.start
    for place, name in enumerate(reading.relations):
        questions = _wordings(name, subject)
        decisions: Sequence[Decision] = yield Look(questions)
        edit = next((d.edits[0] for d in decisions if d.edits), None)
        last = place == len(reading.relations) - 1
        if edit is None and last and not outcome.edits:
            return _Walk(replace(outcome, reason=NO_EDIT), complete=False)
        hop, outcome = yield from _take(questions[0], edit, chat, known, outcome)
        outcome = replace(
            outcome,
            hops=(*outcome.hops, hop),
            facts=(*outcome.facts, *_fact(relation_of(name), subject, hop, place)),
            answer=hop.answer if last else None,
        )
        if hop.answer is None:
            reason = f"neither an edit nor the model answers: {hop.question}"
            return _Walk(replace(outcome, reason=reason), complete=False)
        subject = hop.answer
    return _Walk(outcome, complete=True)


def _take(
    question: str, edit: Edit | None, chat: bool, known: dict[str, str | None], outcome: Outcome
) -> Generator[Step, Any, tuple[Hop, Outcome]]:
    """One hop: the edit's target, or what the model says, told the edit where it has no target."""
    if edit is not None and edit.target is not None:
        return Hop(question, edit.target, edit), outcome
    if edit is None and question in known:
        return Hop(question, known[question]), outcome
    prompt = _hop_prompt(question, edit, chat)
    said = yield Request(prompt, HOP_TOKENS, ("\n",))
    answer = answer_of(said.text)
    if edit is None:
        known[question] = answer
    return Hop(question, answer, edit, said.text), outcome.after(prompt, said)


def _fact(relation: Relation, subject: str, hop: Hop, place: int) -> tuple[Edit, ...]:
    """What the hop found, as an edit to show to a model."""
    if hop.edit is not None:
        return (hop.edit,)
    if hop.answer is None:
        return ()
    try:
        return (structured(subject, relation.states, hop.answer, id=f"hop-{place + 1}"),)
    except InvalidEdit:  # a model may say anything
        return ()


def _hop_prompt(question: str, edit: Edit | None, chat: bool) -> ChatPrompt | TextPrompt:
    asked = question if edit is None else f"{edit.statement} {question}"
    if not chat:
        shown = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in _worked())
        return TextPrompt(f"{shown}Question: {asked}\nAnswer:")
    turns: list[Message] = []
    for query, answer in _worked():
        turns.append({"role": "user", "content": query})
        turns.append({"role": "assistant", "content": answer})
    return ChatPrompt((*turns, {"role": "user", "content": asked}))


@cache
def _worked() -> tuple[tuple[str, str], ...]:
    """The worked questions: a question and its answer on alternate lines."""
    file = files("memedit.multihop").joinpath("prompts", "hop.txt")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    return tuple(zip(lines[::2], lines[1::2], strict=True))
