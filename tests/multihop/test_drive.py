"""Many questions at once: each goes on as soon as it has its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memedit.multihop.chain import Look, Outcome, Steps
from memedit.multihop.drive import WINDOW, drive, follow
from memedit.prompt import TextPrompt
from memedit.protocols import Feed, Generation, Request


def counted(name: str, hops: int) -> Steps:
    """Asks so many prompts, looking something up before each."""
    said = ""
    for hop in range(hops):
        (found,) = yield Look((f"{name} {hop}",))
        answer = yield Request(TextPrompt(f"{found} {said}"), 4)
        said = answer.text
    return Outcome(said)


class Engine:
    """Answers one request at a time, the newest first, so that no order is kept by accident."""

    def __init__(self) -> None:
        self.most = 0
        self.order: list[int] = []

    def flow(self, feed: Feed) -> None:
        waiting: list[tuple[int, Request]] = list(feed(()))
        while waiting:
            self.most = max(self.most, len(waiting))
            number, request = waiting.pop()
            self.order.append(number)
            waiting += feed([(number, Generation(request.prompt.text.upper(), 1, 1))])


def local(steps: Sequence[tuple[int, Any]]) -> list[list[str]]:
    return [[f"<{query}>" for query in step.queries] for _, step in steps]


def test_outcomes_come_in_the_order_of_the_questions() -> None:
    engine = Engine()
    outcomes = drive([counted(f"q{n}", n % 3) for n in range(20)], engine.flow, local)
    assert [o.answer for o in outcomes[:3]] == ["", "<Q1 0> ", "<Q2 1> <Q2 0> "]
    assert len(outcomes) == 20


def test_no_question_waits_for_another() -> None:
    engine = Engine()
    drive([counted("long", 5), counted("short", 1)], engine.flow, local)
    assert engine.order == [1, 0, 0, 0, 0, 0]


def test_only_so_many_are_under_way() -> None:
    engine = Engine()
    outcomes = drive([counted(f"q{n}", 1) for n in range(WINDOW + 50)], engine.flow, local)
    assert engine.most == WINDOW
    assert all(outcome.answer for outcome in outcomes)


def test_questions_that_ask_nobody_make_room_for_others() -> None:
    engine = Engine()
    outcomes = drive([counted("q", 0) for _ in range(WINDOW * 2 + 1)], engine.flow, local)
    assert len(outcomes) == WINDOW * 2 + 1
    assert drive([], engine.flow, local) == []


def test_one_question_inside_an_event_loop_runs_the_same_code() -> None:
    async def say(request: Request) -> Generation:
        return Generation(request.prompt.text.upper(), 1, 1)

    async def look(step: Any) -> list[str]:
        return local([(0, step)])[0]

    outcome = asyncio.run(follow(counted("q2", 2), say, look))
    assert outcome.answer == "<Q2 1> <Q2 0> "
