"""What a run is going to do, before it does any of it: cases, pools and steps.

Everything here follows from the cases and a seed, so that a run that is started again does the
same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.evaluation.cases import Case
from memedit.evaluation.interference import apart

Surface = Literal["chat", "text"]

ALL = "all"
"""The pool in which the edits of all evaluated cases are live together."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        methods: names from :data:`memedit.evaluation.methods.METHODS`.
        pools: how many cases' edits are live together, each a number or ``"all"``.
        limit: how many cases are evaluated; ``None`` for all of them.
        seed: draws the cases and the resamples of the intervals.
        surface: whether prompts are sent as chats or as texts to be continued.
        max_tokens: longest answer.
        forced: how many cases are also rated by teacher forcing; 0 for none.
        fluency: how many cases also get an open prompt, for the entropy of what is said.
        steps: how often the sequence of edits is looked at for retainability; 0 for never.
        latency: how many prompts are timed one by one; 0 for none.
        batch: how many prompts go to the engine together; a run that is killed loses as many.
        at_once: how many edits an editor of weights takes at a time, one lot after the other; 0
            for all that are live together.
        corpus: the text file whose keys such an editor leaves as they are; empty for text that
            the model makes itself.
    """

    methods: tuple[str, ...] = ("none", "ike-always", "memory")
    pools: tuple[int | str, ...] = (ALL,)
    limit: int | None = None
    seed: int = 0
    surface: Surface = "chat"
    max_tokens: int = 24
    forced: int = 20
    fluency: int = 20
    steps: int = 5
    latency: int = 5
    batch: int = 128
    at_once: int = 0
    corpus: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Cases whose edits are live together.

    Attributes:
        space: names the set of live edits.
        asked: the cases whose probes are asked.
        edits: what is live, in the order in which it is learned.
        apart: probes that do not count in this group, and why.
    """

    space: str
    asked: tuple[Case, ...]
    edits: tuple[Edit, ...]
    apart: dict[tuple[str, int], str]


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool size.

    Attributes:
        size: ``"all"`` or the number of cases, as asked for.
        cases: how many cases' edits are live together.
        groups: enough of them that each evaluated case is asked once.
    """

    size: int | str
    cases: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The cases of a run, in their order, and its pools.

    Attributes:
        cases: those that are evaluated.
        pools: in the order in which they were asked for.
        steps: after how many of the cases the sequence is looked at; starts with 1.
    """

    cases: tuple[Case, ...]
    pools: tuple[Pool, ...]
    steps: tuple[int, ...]


def make_plan(cases: Sequence[Case], settings: Settings) -> Plan:
    """Draws the cases and forms the pools.

    A pool that is larger than what is evaluated is filled with further cases, whose edits are
    live and whose probes are not asked; the last group of a smaller one is filled with the first
    cases again.

    Raises:
        InvalidInput: there are fewer cases than a pool or the limit asks for, or a number makes
            no sense.
    """
    order = list(cases)
    random.Random(settings.seed).shuffle(order)
    limit = len(order) if settings.limit is None else settings.limit
    if not order or limit < 1:
        raise InvalidInput(f"there are {len(order)} cases and the limit is {limit}: nothing to do")
    if limit > len(order):
        raise InvalidInput(
            f"the limit is {limit:,} and there are {len(order):,} cases; leave it out to take all"
        )
    evaluated = order[:limit]
    pools = tuple(_pool(size, evaluated, order) for size in settings.pools)
    return Plan(tuple(evaluated), pools, _steps(limit, settings.steps))


def _pool(size: int | str, evaluated: Sequence[Case], order: Sequence[Case]) -> Pool:
    number = len(evaluated) if size == ALL else size
    if not isinstance(number, int) or number < 1:
        raise InvalidInput(f"a pool is a number of cases from 1 up or {ALL!r}, not {size!r}")
    if number > len(order):
        raise InvalidInput(
            f"a pool of {number:,} cases was asked for and there are {len(order):,}; "
            f"name a smaller one, or {ALL!r}"
        )
    groups = []
    for start in range(0, len(evaluated), number):
        asked = evaluated[start : start + number]
        live = [*asked, *_others(order, asked, number - len(asked))]
        groups.append(_group(f"pool-{size}-{start // number}", asked, live))
    return Pool(size, number, tuple(groups))


def _others(order: Sequence[Case], asked: Sequence[Case], number: int) -> list[Case]:
    """Further cases to fill a pool with: the evaluated ones are the first of the order."""
    if number == 0:
        return []
    taken = {case.id for case in asked}
    return list(islice((case for case in order if case.id not in taken), number))


def _group(space: str, asked: Sequence[Case], live: Sequence[Case]) -> Group:
    edits = tuple(edit for case in live for edit in case.edits)
    return Group(space, tuple(asked), edits, apart(live))


def _steps(cases: int, steps: int) -> tuple[int, ...]:
    """After 1 case, and then ``steps`` times evenly up to the last; none where steps is 0."""
    if steps < 1 or cases < 2:
        return ()
    return tuple(sorted({1} | {round(cases * step / steps) for step in range(1, steps + 1)} - {0}))
