"""Micro-batching: every caller gets what is theirs, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memedit.edits import structured
from memedit.encoders import HashEncoder
from memedit.errors import InvalidInput
from memedit.memory import EditMemory
from memedit.protocols import Candidate, Decision, Judgement
from memedit.router import Router
from memedit.server.decider import Decider


class Gated(Router):
    """A real router whose batches are written down, and wait at a gate."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.batches: list[tuple[list[str], str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.poison: str | None = None

    def decide(self, queries: Sequence[str], namespace: str = "default") -> list[Decision]:
        self.batches.append((list(queries), namespace))
        assert self.gate.wait(20)
        if self.poison is not None and self.poison in queries:
            raise ValueError(f"{self.poison} cannot be decided")
        return super().decide(queries, namespace)


@pytest.fixture
def router(tmp_path: Path) -> Gated:
    # The hashing encoder is a real one that needs no model: what is batched does not matter here.
    memory = EditMemory(tmp_path / "memory.sqlite3", HashEncoder())
    for place in ("default", "other"):
        for country in range(40):
            edit = structured(f"Country{country}", "The capital of {} is", f"{place}-{country}")
            memory.add(edit, namespace=place)
    scope = Mentioned()
    return Gated(memory, scope, threshold=0.5)


class Mentioned:
    """The simplest scope there is: a query is about the edits whose subject it names."""

    def judge(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[list[Judgement]]:
        return [[Judgement(float(c.likeness is None)) for c in found] for _, found in batch]


def targets(decisions: Sequence[Decision]) -> list[list[str | None]]:
    return [[edit.target for edit in decision.edits] for decision in decisions]


def query(number: int) -> str:
    return f"What is the capital of Country{number}?"


async def waiting(decider: Decider, router: Gated) -> None:
    """Until the decider's thread stands at the gate."""
    for _ in range(2000):
        if router.batches:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("no batch was begun")


def test_every_caller_gets_their_own_decisions(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router, batch=16)
        calls = [
            (number, place)
            for number in range(40)
            for place in (("default", "other") if number % 2 else ("default",))
        ]
        answers = await asyncio.gather(
            *(decider.decide([query(n), "No country.", query(39 - n)], p) for n, p in calls)
        )
        for (number, place), decisions in zip(calls, answers, strict=True):
            wanted = [[f"{place}-{number}"], [], [f"{place}-{39 - number}"]]
            assert targets(decisions) == wanted
        await decider.aclose()

    asyncio.run(run())
    assert len(router.batches) < 40
    assert all(len(queries) <= 16 for queries, _ in router.batches)


def test_who_comes_alone_waits_for_nobody(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router)
        for number in range(3):
            assert targets(await decider.decide([query(number)], "default"))
        await decider.aclose()

    asyncio.run(run())
    assert [len(queries) for queries, _ in router.batches] == [1, 1, 1]


def test_who_comes_meanwhile_goes_together(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router, batch=8)
        router.gate.clear()
        first = asyncio.create_task(decider.decide([query(0)], "default"))
        await waiting(decider, router)
        rest = [asyncio.create_task(decider.decide([query(n)], "default")) for n in range(1, 11)]
        await asyncio.sleep(0)
        router.gate.set()
        await asyncio.gather(first, *rest)
        await decider.aclose()

    asyncio.run(run())
    assert [len(queries) for queries, _ in router.batches] == [1, 8, 2]


def test_one_request_may_be_longer_than_a_batch(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router, batch=4)
        many = [query(n) for n in range(10)]
        got = await asyncio.gather(
            decider.decide(many, "default"),
            decider.decide([query(11)], "default"),
            decider.decide([], "default"),
        )
        assert targets(got[0]) == [[f"default-{n}"] for n in range(10)]
        assert targets(got[1]) == [["default-11"]]
        assert got[2] == []
        await decider.aclose()

    asyncio.run(run())


def test_a_bad_namespace_is_its_callers_trouble(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router)
        router.gate.clear()
        first = asyncio.create_task(decider.decide([query(0)], "default"))
        await waiting(decider, router)
        calls = [decider.decide([query(n)], "bad name!" if n % 3 else "default") for n in range(9)]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        router.gate.set()
        await first
        got = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(got):
            if number % 3:
                assert isinstance(result, InvalidInput)
                assert "bad name!" in str(result)
            else:
                assert isinstance(result, list)
                assert targets(result) == [[f"default-{number}"]]
        await decider.aclose()

    asyncio.run(run())


def test_a_query_that_cannot_be_decided_is_its_callers_trouble(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router)
        router.poison = query(3)
        router.gate.clear()
        first = asyncio.create_task(decider.decide([query(0)], "default"))
        await waiting(decider, router)
        tasks = [asyncio.create_task(decider.decide([query(n)], "default")) for n in range(1, 6)]
        await asyncio.sleep(0)
        router.gate.set()
        await first
        got = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(got, 1):
            if number == 3:
                assert isinstance(result, ValueError)
            else:
                assert isinstance(result, list)
                assert targets(result) == [[f"default-{number}"]]
        # And the decider goes on.
        assert targets(await decider.decide([query(7)], "default")) == [["default-7"]]
        await decider.aclose()

    asyncio.run(run())


def test_who_leaves_takes_nobody_along(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router)
        router.gate.clear()
        first = asyncio.create_task(decider.decide([query(0)], "default"))
        await waiting(decider, router)
        tasks = [asyncio.create_task(decider.decide([query(n)], "default")) for n in range(1, 6)]
        await asyncio.sleep(0)
        first.cancel()
        tasks[1].cancel()
        tasks[4].cancel()
        router.gate.set()
        got = await asyncio.gather(first, *tasks, return_exceptions=True)
        for number, result in enumerate(got):
            if number in (0, 2, 5):
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert isinstance(result, list)
                assert targets(result) == [[f"default-{number}"]]
        assert targets(await decider.decide([query(9)], "default")) == [["default-9"]]
        await decider.aclose()

    asyncio.run(run())


def test_a_document_keeps_nobody_waiting(router: Gated) -> None:
    async def run() -> None:
        decider = Decider(router)
        document = "rain and snow " * 100_000
        got = await decider.decide([document + query(3), query(4) + document, document], "default")
        assert targets(got) == [["default-3"], ["default-4"], []]
        await decider.aclose()

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 5


def test_an_edit_counts_from_the_next_batch_on(tmp_path: Path) -> None:
    with EditMemory(tmp_path / "memory.sqlite3", HashEncoder()) as memory:
        router = Gated(memory, Mentioned(), threshold=0.5)

        async def run() -> None:
            decider = Decider(router)
            assert targets(await decider.decide([query(1)], "default")) == [[]]
            (record,) = memory.add(structured("Country1", "The capital of {} is", "Lyon"))
            assert targets(await decider.decide([query(1)], "default")) == [["Lyon"]]
            memory.revert(record.edit.id)
            assert targets(await decider.decide([query(1)], "default")) == [[]]
            await decider.aclose()

        asyncio.run(run())
