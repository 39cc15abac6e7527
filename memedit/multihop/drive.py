"""Many questions at once, or one: who answers the steps of :mod:`memedit.multihop.chain`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from memedit.multihop.chain import Look, Nearest, Outcome, Step, Steps
from memedit.protocols import Feed, Generation, Request

WINDOW = 512
"""Questions that are under way at once: what an engine batches, and more."""

Flow = Callable[[Feed], None]
"""An engine's way to answer as it goes; see :meth:`memedit.protocols.Engine.flow`."""

Local = Callable[[Sequence[tuple[int, Look | Nearest]]], Sequence[Any]]
"""Answers to what needs no model, in order; each step comes with the number of its question."""


def drive(questions: Sequence[Steps], flow: Flow, local: Local) -> list[Outcome]:
    """Runs questions to their end, in any order, and gives their outcomes in theirs.

    No question waits for another: what one needs next is asked as soon as it has its answer.

    Args:
        questions: not begun yet.
        flow: the engine.
        local: what the steps need beside the engine.
    """
    outcomes: dict[int, Outcome] = {}
    coming = iter(range(len(questions)))

    def advance(ready: Iterable[tuple[int, Any]]) -> list[tuple[int, Request]]:
        asked: list[tuple[int, Request]] = []
        while pairs := list(ready):
            waiting: list[tuple[int, Look | Nearest]] = []
            begun = 0
            for number, value in pairs:
                try:
                    step: Step = questions[number].send(value)
                except StopIteration as end:
                    outcomes[number] = end.value
                    begun += 1
                    continue
                if isinstance(step, Request):
                    asked.append((number, step))
                else:
                    waiting.append((number, step))
            found = local(waiting) if waiting else ()
            ready = [(number, one) for (number, _), one in zip(waiting, found, strict=True)]
            ready += [(number, None) for _, number in zip(range(begun), coming, strict=False)]
        return asked

    def feed(done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
        if done:
            return advance(done)
        return advance((number, None) for _, number in zip(range(WINDOW), coming, strict=False))

    flow(feed)
    return [outcomes[number] for number in range(len(questions))]


async def follow(
    question: Steps,
    say: Callable[[Request], Awaitable[Generation]],
    local: Callable[[Look | Nearest], Awaitable[Any]],
) -> Outcome:
    """Runs one question to its end.

    Args:
        question: not begun yet.
        say: puts a prompt to the model.
        local: what the steps need beside it.
    """
    value: Any = None
    while True:
        try:
            step: Step = question.send(value)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        value = await (say(step) if isinstance(step, Request) else local(step))
