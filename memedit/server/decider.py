"""Decisions for concurrent requests: micro-batched, on one thread of their own, remembered.

While one batch is being encoded, the queries that arrive wait together and make up the next
one, so that sixteen requests at once cost two encodings, not sixteen. A request that comes
alone waits for nobody. What was decided before is known at once, for as long as nothing changes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from memedit.protocols import Decision
from memedit.router import Router
from memedit.server.freshness import Freshness, Stamp
from memedit.server.recent import RecentPrompts

T = TypeVar("T")

_LONGEST = 4_096
"""So many characters of a query are remembered: a cache must not keep documents alive."""


@dataclass(slots=True)
class _Waiting:
    queries: Sequence[str]
    namespace: str
    result: asyncio.Future[list[Decision]]


class Decider:
    """Gathers queries of concurrent requests into batches for a :class:`Router`.

    Belongs to one event loop, the one that first asks it.

    Args:
        router: decides.
        batch: most queries in one batch.
        freshness: says for how long a decision counts; without one nothing is remembered.
        remembered: how many decisions are.
        recent: told of every query that is decided on.
    """

    def __init__(
        self,
        router: Router,
        *,
        batch: int = 64,
        freshness: Freshness | None = None,
        remembered: int = 8_192,
        recent: RecentPrompts | None = None,
    ) -> None:
        self._router = router
        self._batch = batch
        self._freshness = freshness if remembered > 0 else None
        self._remembered = remembered
        self._recent = recent or RecentPrompts(0)
        self._known: OrderedDict[tuple[str, str], tuple[Decision, float]] = OrderedDict()
        self._version: object = None
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memedit-decide")
        self._worker: asyncio.Task[None] | None = None

    def stamp(self) -> Stamp | None:
        """How things stand now; ``None`` where nothing can be remembered."""
        return None if self._freshness is None else self._freshness.stamp()

    def known(
        self, queries: Sequence[str], namespace: str, stamp: Stamp | None
    ) -> list[Decision] | None:
        """What was decided on these queries, where it is known of all of them and still true.

        Args:
            queries: of one request.
            namespace: whose edits.
            stamp: of now.
        """
        if stamp is None:
            return None
        if stamp.version != self._version:
            self._known.clear()
            self._version = stamp.version
            return None
        found = []
        for query in queries:
            entry = self._known.get((namespace, query))
            if entry is None:
                return None
            decision, until = entry
            if until <= stamp.now:
                del self._known[namespace, query]
                return None
            found.append(decision)
        for query in queries:
            self._known.move_to_end((namespace, query))
        self._recent.saw(queries, namespace)
        return found

    async def decide(
        self, queries: Sequence[str], namespace: str, stamp: Stamp | None = None
    ) -> list[Decision]:
        """One decision per query, in their order.

        Args:
            queries: of one request.
            namespace: whose edits.
            stamp: from before the decision, so that what is committed meanwhile shows as a change;
                without one the decisions are not remembered.

        Raises:
            MemeditError: as :meth:`Router.decide`.
        """
        result: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(queries, namespace, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        decisions = await result
        self._recent.saw(queries, namespace)
        if stamp is not None:
            self._remember(queries, namespace, decisions, stamp)
        return decisions

    async def run(self, work: Callable[[], T]) -> T:
        """Does something else on the thread of the decisions: what encodes belongs there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def aclose(self) -> None:
        """Lets the thread finish what it is at."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._freshness is not None:
            await asyncio.to_thread(self._freshness.close)

    def _remember(
        self, queries: Sequence[str], namespace: str, decisions: Sequence[Decision], stamp: Stamp
    ) -> None:
        if stamp.version != self._version:
            self._known.clear()
            self._version = stamp.version
        for query, decision in zip(queries, decisions, strict=True):
            if len(query) <= _LONGEST:
                self._known[namespace, query] = (replace(decision, timings={}), stamp.until)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)

    async def _work(self) -> None:
        while batch := self._take():
            await self._answer(batch)

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        """Decides a batch; where that fails, each request by itself, so that only one fails."""
        queries = [query for waiting in batch for query in waiting.queries]
        try:
            decisions = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._router.decide, queries, batch[0].namespace
            )
        except BaseException as error:
            if isinstance(error, Exception) and len(batch) > 1:
                for waiting in batch:
                    await self._answer([waiting])
                return
            for waiting in batch:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        at = 0
        for waiting in batch:
            if not waiting.result.done():
                waiting.result.set_result(decisions[at : at + len(waiting.queries)])
            at += len(waiting.queries)

    def _take(self) -> list[_Waiting]:
        """The next batch: requests of one namespace, the longest waiting first."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.result.done()]
        if not self._waiting:
            return []
        namespace = self._waiting[0].namespace
        batch: list[_Waiting] = []
        rest: list[_Waiting] = []
        size = 0
        for waiting in self._waiting:
            fits = not batch or size + len(waiting.queries) <= self._batch
            if waiting.namespace == namespace and fits:
                batch.append(waiting)
                size += len(waiting.queries)
            else:
                rest.append(waiting)
        self._waiting = rest
        return batch
