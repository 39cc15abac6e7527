"""An ASGI application that forwards everything to an upstream server, bytes as they are.

Bodies are neither decoded nor encoded, headers keep their order and their duplicates, and a
streamed response goes out piece by piece as it comes in. Only what belongs to one connection
changes: the hop-by-hop headers of RFC 9110, section 7.6.1, ``Host``, and ``Expect``, which the
server in front has answered already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Set

from memedit.server.asgi import Headers, Message, Receive, Scope, Send, error_body, respond
from memedit.server.upstream import ClientLeft, Exchange, Failed, Limits, Upstream

logger = logging.getLogger("memedit.server")

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_DROPPED = _HOP_BY_HOP | {b"host", b"expect"}

_PATIENCE = 0.05
"""Seconds for which an answer is awaited before anybody asks whether its client is still there."""


class Proxy:
    """Forwards HTTP to one upstream.

    Args:
        upstream: its URL, with or without the ``/v1`` that OpenAI clients put at the end.
        limits: how long to wait for it. By default for minutes: how long it takes to answer is
            mostly its own affair.
        failed: told of every request that got no answer, or no whole one, and how that came:
            ``connect``, ``timeout``, ``reset`` or ``garbage``.

    Attributes:
        upstream: the connections to it.

    Raises:
        ConfigError: the URL is not http or https.
    """

    def __init__(
        self,
        upstream: str,
        limits: Limits | None = None,
        *,
        failed: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.upstream = Upstream(upstream, limits)
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
            return
        body = _Body(receive)
        if not await body.first():
            return
        try:
            await self._forward(scope, body, send)
        except ClientLeft:
            return  # nobody is there to be told
        finally:
            body.close()

    async def aclose(self) -> None:
        """Closes the connections to the upstream."""
        await self.upstream.aclose()

    async def _forward(self, scope: Scope, body: _Body, send: Send) -> None:
        try:
            exchange = await self.upstream.send(
                scope["method"],
                _target(scope),
                _end_to_end(scope["headers"]),
                body.data(scope),
                watch=body.watch,
            )
        except Failed as error:
            self._failed(error.kind)
            await _bad_gateway(send, error)
            return
        try:
            await self._answer(exchange, send)
        except Failed as error:
            # What has begun and does not end is cut off by the server in front.
            self._failed(error.kind)
            logger.warning("cut off: %s", error)
        finally:
            exchange.close()

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        """Passes a response on. Where it breaks off, so does the connection to the client."""
        headers = _end_to_end([(key.lower(), value) for key, value in exchange.headers])
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        while not exchange.finished:
            piece = await exchange.read()
            more = not exchange.finished
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            if not more:
                return
        await send({"type": "http.response.body", "body": b""})


class _Body:
    """A request body on its way up, and the news that its client has gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._message: Message = {}
        self._complete = False
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None

    async def first(self) -> bool:
        """Waits for the first piece, which most often is the whole body; whether one came."""
        self._message = await self._receive()
        self._complete = not self._message.get("more_body", False)
        return bool(self._message["type"] == "http.request")

    def data(self, scope: Scope) -> bytes | AsyncIterator[bytes] | None:
        """What to send: bytes where all has come, a stream otherwise."""
        if self._complete:
            body: bytes = self._message.get("body", b"")
            has_length = any(key == b"content-length" for key, _ in scope["headers"])
            return body if body or has_length else None
        return self._stream()

    def watch(self, exchange: Exchange) -> None:
        """Ends this exchange when the client leaves. Most answers come before anybody looks."""
        self._exchange = exchange
        if self._complete and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_PATIENCE, self._listen)

    def close(self) -> None:
        """The exchange is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            self._listening.cancel()

    def _listen(self) -> None:
        self._listening = asyncio.create_task(self._disconnected())

    async def _disconnected(self) -> None:
        while self._message["type"] != "http.disconnect":
            self._message = await self._receive()
        if self._exchange is not None:
            self._exchange.abort()

    async def _stream(self) -> AsyncIterator[bytes]:
        while True:
            yield self._message.get("body", b"")
            if not self._message.get("more_body", False):
                break
            self._message = await self._receive()
            if self._message["type"] == "http.disconnect":
                # Half a body must not reach the upstream as a whole one.
                raise ClientLeft("the client left in the middle of its request")
        self._complete = True
        if self._exchange is not None:
            self.watch(self._exchange)


def _target(scope: Scope) -> bytes:
    """Path and query, as they came."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return path + b"?" + query if query else path


def _end_to_end(headers: Headers) -> Headers:
    """The headers that go on: neither hop-by-hop nor named so by ``Connection``."""
    dropped: Set[bytes] = _DROPPED
    for key, value in headers:
        if key == b"connection":
            dropped = dropped | {token.strip().lower() for token in value.split(b",")}
    return [pair for pair in headers if pair[0] not in dropped]


async def _bad_gateway(send: Send, error: Failed) -> None:
    """A 502, or a 504 where the upstream took too long, in OpenAI's error form."""
    status = 504 if error.kind == "timeout" else 502
    text = f"memedit got no answer from the upstream: {error}"
    await respond(send, status, error_body(text, "upstream_error", status))
