"""A proxy in this process, so that a test can count its tasks and connections and break its parts.

Everything is what ``memedit serve --upstream`` runs, but for two parts that need no model: the
hashing encoder, and a scope that takes a mention for a yes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from memedit.assemble import Parts
from memedit.config import Config, IKEConfig, MemoryConfig, ServerConfig
from memedit.edits import Edit
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.protocols import Candidate, Judgement, Vectors
from memedit.router import Router
from memedit.routes.ike import IKE
from memedit.server.app import ProxyApp
from memedit.server.listen import server
from tests.server.tap import waited_for


class Breakable(HashEncoder):
    """An encoder that can be told to fail, or to take its time.

    Attributes:
        error: raised instead of encoding.
        seconds: waited before encoding.
        gate: waited for before encoding.
        texts: all that it was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        assert self.gate.wait(20)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return super().encode(texts)


class Mentioned:
    """A query is about the edits whose subject it names."""

    def judge(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[list[Judgement]]:
        known = [
            [c.mention is not None and c.likeness is None for c in found] for _, found in batch
        ]
        return [[Judgement(float(is_named)) for is_named in some] for some in known]


class Front:
    """A proxy on a port of its own, as a context manager.

    Args:
        upstream: URL of the server behind it.
        folder: where its memory is.
        options: of :class:`memedit.config.ServerConfig`.

    Attributes:
        url: where it listens.
        app: the application.
        memory: its edits.
        path: their file.
        encoder: that of its memory.
    """

    def __init__(self, upstream: str, folder: Path, **options: Any) -> None:
        path = self.path = folder / "memory.sqlite3"
        self.encoder = Breakable()
        self.memory = EditMemory(path, self.encoder)
        # An edit whose subject nobody knows: its namespace has every query encoded.
        self.rule = "nobody parks in front of the gate"
        self.memory.add(Edit("rule", self.rule))
        self._config = Config(
            memory=MemoryConfig(path=path), server=replace(ServerConfig(port=0), **options)
        )
        routes = {IKE.name: IKE(IKEConfig(), self.encoder)}
        parts = Parts(self.memory, Router(self.memory, Mentioned()), routes)
        self.app = ProxyApp(upstream, self._config, parts)
        self.url = ""

    def __enter__(self) -> Self:
        self._server = server(self.app, self._config.server)
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._thread.start()
        waited_for(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.still()
        self._baseline = self.tasks()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())

    def stop(self) -> None:
        """Ends the server as a signal would, and waits for it."""
        self.app.drain()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server did not end"

    def ask(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns on the server's event loop."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(20)

    def tasks(self) -> int:
        """How many tasks there are on the server's event loop, this question apart."""
        return int(self.ask(lambda: len(asyncio.all_tasks()) - 1))

    def still(self) -> None:
        """Waits until nothing is under way."""
        waited_for(lambda: self.metric("memedit_requests_in_flight") == 0 and self.tasks() < 10)

    def settled(self) -> None:
        """Asserts that no task is left over, and no connection to the upstream in use."""
        waited_for(lambda: self.tasks() == self._baseline)
        waited_for(lambda: self.app.upstream.open == self.ask(lambda: self.app.upstream.idle))
        assert self.metric("memedit_requests_in_flight") == 0

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it has none yet."""
        return self.app.metrics.registry.get_sample_value(name, labels) or 0.0
