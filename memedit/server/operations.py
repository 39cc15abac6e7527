"""What an operator asks of a server: is it alive, is it ready, what has it done, the page.

In front of the middleware, so that these paths answer whatever goes on behind them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

from memedit.errors import AccessFileError
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.server.access import access_of
from memedit.server.asgi import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    asked,
    error_body,
    header,
    path_of,
    respond,
)
from memedit.server.metrics import Metrics
from memedit.server.page import Page

logger = logging.getLogger("memedit.server")

LIVE = "/health/live"
READY = "/health/ready"
METRICS = "/memedit/metrics"
_UPSTREAM = "/health"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_FRESH = 1.0
"""Seconds for which an answer about readiness counts: nobody can make a server work by asking."""

_PATIENCE = 5.0

_NOT = "not ready"


class Health:
    """Whether a server can do its work: its upstream, its memory, its encoder.

    Args:
        app: what is behind memedit; a server that answers ``/health`` at all is there.
        memory: the edits.
        encoder: of sentences.
    """

    def __init__(self, app: ASGIApp, memory: EditMemory, encoder: Encoder) -> None:
        self._app = app
        self._memory = memory
        self._encoder = encoder
        self._numbers = itertools.count()
        self._asking = asyncio.Lock()
        self._at = -_FRESH
        self._found: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self.draining = False

    async def checks(self, scope: Scope) -> dict[str, str]:
        """``ok`` or ``not ready``, by part. At most a second old; the log has what is wrong.

        Everybody may ask, so nobody is told more: errors name files and what is in the process.
        """
        async with self._asking:
            if time.monotonic() - self._at >= _FRESH:
                parts = {
                    "upstream": self._upstream(scope),
                    "memory": asyncio.to_thread(self._memory.refresh),
                    "encoder": asyncio.to_thread(self._encoder.encode, [self._text()]),
                }
                told = await asyncio.gather(
                    *(asyncio.wait_for(part, _PATIENCE) for part in parts.values()),
                    return_exceptions=True,
                )
                wrong = {
                    name: _problem(of)
                    for name, of in zip(parts, told, strict=True)
                    if isinstance(of, BaseException)
                }
                self._log(wrong)
                self._found = {name: _NOT if name in wrong else "ok" for name in parts}
                self._at = time.monotonic()
            return dict(self._found)

    def _log(self, wrong: dict[str, str]) -> None:
        """Says what is wrong once, and not with every probe, for as long as it is the same."""
        for name, problem in wrong.items():
            if self._logged.get(name) != problem:
                logger.error("the %s is not ready: %s", name, problem)
        for name in self._logged.keys() - wrong.keys():
            logger.info("the %s is ready again", name)
        self._logged = wrong

    async def _upstream(self, scope: Scope) -> None:
        status, _ = await asked(self._app, scope, "GET", _UPSTREAM)
        if not status or status >= 500:
            raise ConnectionError(f"{_UPSTREAM} answers {status or 'nothing'}")

    def _text(self) -> str:
        # Another one each time: the encoder knows those that it has seen.
        return f"readiness {next(self._numbers) % 1_000_000}"


class Operations:
    """Health, metrics, the operator's page and the limit on bodies, in front of an application.

    Args:
        app: memedit's middleware and what is behind it.
        health: looks after the parts.
        metrics: what is told under :data:`METRICS`.
        refuse_body: longer bodies are refused with 413, in bytes; 0 for no limit.
        admits: whether the server's own key check lets a caller in.
    """

    def __init__(
        self,
        app: ASGIApp,
        health: Health,
        metrics: Metrics,
        *,
        refuse_body: int = 0,
        admits: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        self._app = app
        self._health = health
        self._metrics = metrics
        self._refuse_body = refuse_body
        self._admits = admits
        self._page = Page()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] in ("GET", "HEAD"):
            path = path_of(scope)
            if path == LIVE:
                return await respond(send, 200, {"status": "live"})
            if path == READY:
                return await self._ready(scope, send)
            if path == METRICS:
                return await self._tell(scope, send)
            if self._page.has(path):
                return await self._page(scope, receive, send)
        if self._refuse_body and scope["method"] not in ("GET", "HEAD"):
            return await self._limited(scope, receive, send)
        return await self._app(scope, receive, send)

    async def _ready(self, scope: Scope, send: Send) -> None:
        checks = await self._health.checks(scope)
        if self._health.draining:
            checks["server"] = "is shutting down"
        wrong = [name for name, told in checks.items() if told != "ok"]
        status = {"status": _NOT if wrong else "ready", "checks": checks}
        await respond(send, 503 if wrong else 200, status)

    async def _tell(self, scope: Scope, send: Send) -> None:
        """Metrics, which name edits of every namespace."""
        access = access_of(scope)
        text = "metrics need a key of memedit's with the role read in all namespaces"
        try:
            if self._admits(scope) and access.may_read(None):
                await respond(send, 200, await asyncio.to_thread(self._metrics.text), kind=_TEXT)
            elif self._admits(scope) and access.key() is not None:
                await respond(send, 403, error_body(text, "permission_error"))
            else:
                await respond(send, 401, error_body(text, "authentication_error"))
        except AccessFileError:
            logger.exception("no metrics: the keys cannot be read")
            text = "memedit's keys cannot be read; the log says why"
            await respond(send, 503, error_body(text, "service_unavailable", 503))

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a body that is too long, whether it says so or goes on and on."""
        length = header(scope["headers"], b"content-length") or b"0"
        if length.isdigit() and int(length) > self._refuse_body:
            await self._too_long(send)
            return
        size, exceeded, started = 0, False, False

        async def counting() -> Message:
            nonlocal size, exceeded
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._refuse_body:
                exceeded = True
                return {"type": "http.disconnect"}
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await self._app(scope, counting, sending)
        if exceeded and not started:
            await self._too_long(send)

    async def _too_long(self, send: Send) -> None:
        self._metrics.refused("body")
        text = f"the body is longer than {self._refuse_body} bytes (server.refuse_body)"
        await respond(send, 413, error_body(text, "invalid_request_error", 413))


def _problem(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {_PATIENCE:g} s"
    return f"{type(error).__name__}: {error}"
