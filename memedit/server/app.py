"""From a configuration to a served application: memedit in front of whatever answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from memedit.assemble import Parts, assemble
from memedit.config import Config
from memedit.multihop.decompose import shipped
from memedit.server.api import edits_api
from memedit.server.asgi import ASGIApp, Receive, Scope, Send
from memedit.server.decider import Decider
from memedit.server.door import Door
from memedit.server.freshness import Freshness
from memedit.server.hops import Hops
from memedit.server.logs import log_to_stderr
from memedit.server.metrics import Metrics
from memedit.server.middleware import Marks, MemeditMiddleware, Settings, Versions
from memedit.server.operations import Health, Operations
from memedit.server.proxy import Proxy
from memedit.server.recent import RecentPrompts
from memedit.server.spans import Spans
from memedit.server.upstream import Limits

logger = logging.getLogger("memedit.server")


def prepared(config: Config, parts: Parts | None = None) -> Parts:
    """The parts of a server, loaded, with somewhere for its log lines to go.

    Args:
        config: of the server.
        parts: others than the configuration's own.

    Raises:
        MemeditError: a part cannot be made; the server then does not start.
    """
    log_to_stderr(config.server.log_format)
    parts = parts or assemble(config)
    parts.warm()
    logger.info("%d edits live in %s", len(parts.memory), config.memory.path)
    return parts


class Served:
    """An application with memedit in front of it.

    From the outside in: the door with the edits API to its side, health and metrics, the
    middleware that edits, the application.

    Args:
        app: what answers requests.
        parts: memory, router and routes; they are closed with the server.
        config: how requests are treated.
        metrics: what happens is counted there; of its own where ``None``.
        speculate: whether requests may go on while they are being decided on.
        admits: whether the application's own key check, if it has one, lets a caller in.
        marks: the codebooks in the application's engine, where it has any.
        versions: the versions of the weights in it, where it takes any.

    Attributes:
        health: whether its parts work.

    Raises:
        MemeditError: spans are wanted and cannot be sent; the admin keys cannot be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        parts: Parts,
        config: Config,
        *,
        metrics: Metrics | None = None,
        speculate: bool = False,
        admits: Callable[[Scope], bool] = lambda scope: True,
        marks: Marks | None = None,
        versions: Versions | None = None,
    ) -> None:
        server = config.server
        metrics = metrics or Metrics(edits=server.edits_in_metrics)
        self._parts = parts
        recent = RecentPrompts(server.recent_prompts)
        api = edits_api(parts, config, recent)
        self._spans = Spans(server.spans) if server.spans else None
        self._decider = Decider(
            parts.router,
            freshness=Freshness(config.memory.path),
            remembered=server.decisions,
            recent=recent,
        )
        hops = Hops(app, self._decider, shipped()) if config.multihop.enabled else None
        middleware = MemeditMiddleware(
            app,
            self._decider,
            parts.routes,
            settings=Settings(
                namespace=config.memory.namespace,
                max_body=server.max_body,
                max_prompts=server.max_prompts,
                decision_timeout=server.decision_timeout,
                hops_timeout=config.multihop.timeout,
                fail_open=server.on_failure == "fail_open",
                speculate=speculate,
                count_evidence=server.count_evidence,
            ),
            metrics=metrics,
            admits=admits,
            spans=self._spans,
            marks=marks,
            hops=hops,
            versions=versions,
        )
        metrics.gauge("memedit_live_edits", "Edits that are in force.", lambda: len(parts.memory))
        self.health = Health(app, parts.memory, parts.memory.encoder)
        operations = Operations(
            middleware, self.health, metrics, refuse_body=server.refuse_body, admits=admits
        )
        self._door = Door(operations, api, refused=partial(metrics.refused, "permission"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        await self._door(scope, receive, send)

    async def aclose(self) -> None:
        """Lets decisions come to their end and closes the memory."""
        await self._decider.aclose()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        self._parts.close()


class ProxyApp:
    """Answers as the upstream does, with edits live.

    Args:
        upstream: URL of an OpenAI-compatible server.
        config: memory, encoder, scope, demonstrations and limits.
        parts: others than the configuration's own.

    Attributes:
        upstream: the connections to it.
        metrics: what has happened.

    Raises:
        MemeditError: a part cannot be made; the server then does not start.
    """

    def __init__(self, upstream: str, config: Config, parts: Parts | None = None) -> None:
        server = config.server
        metrics = self.metrics = Metrics(edits=server.edits_in_metrics)
        limits = Limits(
            connect=server.connect_timeout,
            answer=server.answer_timeout,
            idle=server.idle_timeout,
            headers=server.max_headers,
        )
        self._proxy = Proxy(upstream, limits, failed=metrics.unanswered)
        self.upstream = self._proxy.upstream
        self._served = Served(
            self._proxy,
            prepared(config, parts),
            config,
            metrics=metrics,
            speculate=server.speculate,
        )
        metrics.gauge(
            "memedit_upstream_connections",
            "Connections to the upstream, used or waiting.",
            lambda: self.upstream.open,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope, and the life of the server."""
        if scope["type"] != "lifespan":
            await self._served(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await self._served.aclose()
        await self._proxy.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    def drain(self) -> None:
        """Says that the server is about to end."""
        self._served.health.draining = True
