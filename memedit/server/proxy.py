"""An ASGI application that forwards everything to an upstream server, bytes as they are.

Bodies are neither decoded nor encoded, headers keep their order and their duplicates, and a
streamed response goes out chunk by chunk as it comes in. Only what belongs to one connection
changes: the hop-by-hop headers of RFC 9110, section 7.6.1, ``Host``, and ``Expect``, which the
server in front has answered already. One thing cannot be kept: a request header's value that is
not UTF-8 is taken for Latin-1 and goes on as UTF-8, which is all that aiohttp writes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from memedit.errors import ConfigError
from memedit.server.middleware import Message, Receive, Scope, Send

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
_NOT_FORWARDED = (b"host", b"expect")

# Below the five seconds after which uvicorn, and so vLLM, closes an idle connection: a request
# must not go out on a connection that the upstream is just closing.
_KEEP_ALIVE = 4.0


class Proxy:
    """Forwards HTTP to one upstream.

    Args:
        upstream: its URL, with or without the ``/v1`` that OpenAI clients put at the end.
        connect_timeout: seconds to reach it. How long it takes to answer is its own affair.

    Raises:
        ConfigError: the URL is not http or https.
    """

    def __init__(self, upstream: str, *, connect_timeout: float = 10.0) -> None:
        url = URL(upstream)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(
                f"the upstream {upstream!r} is not a URL such as http://127.0.0.1:8000"
            )
        self._base = str(url.with_query(None).with_fragment(None)).rstrip("/").removesuffix("/v1")
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["type"] == "websocket":
            await receive()
            return await send({"type": "websocket.close", "code": 1003})
        body = _Body(receive)
        await body.first()
        forward = asyncio.ensure_future(self._forward(scope, body, send))
        gone = asyncio.ensure_future(body.disconnected())
        try:
            await asyncio.wait((forward, gone), return_when=asyncio.FIRST_COMPLETED)
            if forward.done():
                forward.result()
        finally:
            for task in (forward, gone):
                task.cancel()
            await asyncio.gather(forward, gone, return_exceptions=True)

    async def aclose(self) -> None:
        """Closes the connections to the upstream."""
        if self._session is not None:
            await self._session.close()

    async def _forward(self, scope: Scope, body: _Body, send: Send) -> None:
        started = False
        try:
            async with self._client().request(
                scope["method"],
                self._url(scope),
                headers=_text(_end_to_end(scope["headers"])),
                data=body.data(scope),
                allow_redirects=False,
            ) as response:
                headers = [(k.lower(), v) for k, v in _end_to_end(response.raw_headers)]
                await send(
                    {"type": "http.response.start", "status": response.status, "headers": headers}
                )
                started = True
                # Not iter_chunks(): all empty bodies are one object in aiohttp, and from its second
                # use on that iterator never ends.
                while not response.content.at_eof():
                    chunk, _ = await response.content.readchunk()
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (aiohttp.ClientError, OSError) as error:
            if started:
                raise
            await _bad_gateway(send, self._base, error)

    def _url(self, scope: Scope) -> URL:
        path = scope.get("raw_path") or scope["path"].encode()
        query = scope["query_string"]
        return URL(
            self._base + path.decode("latin-1") + (f"?{query.decode('latin-1')}" if query else ""),
            encoded=True,
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
                timeout=self._timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                max_line_size=2**16,
                max_field_size=2**16,
            )
        return self._session

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                return await send({"type": "lifespan.shutdown.complete"})


class _Body:
    """A request body on its way up, and the news that its client has gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._message: Message = {}
        self._complete = asyncio.Event()

    async def first(self) -> None:
        """Waits for the first piece, which most often is the whole body."""
        self._message = await self._receive()
        if not self._message.get("more_body", False):
            self._complete.set()

    def data(self, scope: Scope) -> bytes | AsyncIterator[bytes] | None:
        """What to send: bytes where all has come, a stream otherwise."""
        if self._complete.is_set():
            body: bytes = self._message.get("body", b"")
            has_length = any(k.lower() == b"content-length" for k, _ in scope["headers"])
            return body if body or has_length else None
        return self._stream()

    async def disconnected(self) -> None:
        """Returns when the client has gone; waits until the body is through before it listens."""
        await self._complete.wait()
        while self._message["type"] != "http.disconnect":
            self._message = await self._receive()

    async def _stream(self) -> AsyncIterator[bytes]:
        while True:
            yield self._message.get("body", b"")
            if not self._message.get("more_body", False):
                break
            self._message = await self._receive()
            if self._message["type"] == "http.disconnect":
                self._complete.set()
                # Half a body must not reach the upstream as a whole one.
                raise ConnectionAbortedError("the client left in the middle of its request")
        self._complete.set()


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that go on: neither hop-by-hop nor named so by ``Connection``."""
    headers = list(headers)
    named = {
        token.strip().lower()
        for key, value in headers
        if key.lower() == b"connection"
        for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named | set(_NOT_FORWARDED)
    return [(key, value) for key, value in headers if key.lower() not in dropped]


def _text(headers: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    return CIMultiDict((key.decode("ascii"), _value(value)) for key, value in headers)


def _value(value: bytes) -> str:
    """The text that aiohttp, which writes UTF-8, turns back into these bytes."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _bad_gateway(send: Send, upstream: str, error: BaseException) -> None:
    """A 502, or a 504 where the upstream took too long to reach, in OpenAI's error form."""
    status = 504 if isinstance(error, TimeoutError) else 502
    text = f"memedit could not reach the upstream {upstream}: {str(error) or type(error).__name__}"
    detail = {"message": text, "type": "upstream_error", "param": None, "code": status}
    body = json.dumps({"error": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
