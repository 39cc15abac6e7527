"""Decisions for concurrent requests: micro-batched, on one thread of their own.

While one batch is being encoded, the queries that arrive wait together and make up the next
one, so that sixteen requests at once cost two encodings, not sixteen. A request that comes
alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from memedit.protocols import Decision
from memedit.router import Router


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
    """

    def __init__(self, router: Router, *, batch: int = 64) -> None:
        self._router = router
        self._batch = batch
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memedit-decide")
        self._worker: asyncio.Task[None] | None = None

    async def decide(self, queries: Sequence[str], namespace: str) -> list[Decision]:
        """One decision per query, in their order.

        Raises:
            MemeditError: as :meth:`Router.decide`.
        """
        result: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(queries, namespace, result))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await result

    async def aclose(self) -> None:
        """Lets the thread finish what it is at."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        while self._waiting:
            await self._answer(self._take())

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
