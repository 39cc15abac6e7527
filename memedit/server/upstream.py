"""An HTTP/1.1 client for one upstream, which sends and gives back bytes as they are.

Clients that take header values as text cannot write one that is not UTF-8, and clients that parse
in Python cost more than the whole of memedit's own work. This one writes the request's bytes
itself and has the response parsed by httptools, the parser of the server in front. Connections
are kept and used again; a response is read no faster than its reader takes it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from memedit.errors import ConfigError, UpstreamError
from memedit.server.asgi import Headers

# Below the five seconds after which uvicorn, and so vLLM, closes an idle connection: a request
# must not go out on a connection that the upstream is just closing.
_KEEP_ALIVE = 4.0
_HIGH, _LOW = 2**18, 2**16
_SMALL = 2**16
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_BODILESS = frozenset({204, 304})


class Failed(UpstreamError):
    """The upstream gave no answer, or no whole one.

    Attributes:
        kind: ``connect``, ``timeout``, ``reset`` or ``garbage``.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ClientLeft(ConnectionAbortedError):
    """The client hung up, and its request with it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds (0 for ever), and how much to take.

    Attributes:
        connect: to reach the upstream.
        answer: for the head of its response.
        idle: between two pieces of a body, in either direction.
        headers: most bytes of a response's head.
    """

    connect: float = 10.0
    answer: float = 600.0
    idle: float = 300.0
    headers: int = 2**16


class Upstream:
    """One upstream server and the connections to it. Belongs to one event loop.

    Args:
        url: its URL, with or without the ``/v1`` that OpenAI clients put at the end.
        limits: of time and size.

    Attributes:
        url: the URL without that ``/v1``.
        open: how many connections there are, used or waiting.

    Raises:
        ConfigError: the URL is not http or https.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the upstream {url!r} is not a URL such as http://127.0.0.1:8000")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"
        self.limits = limits or Limits()
        self.open = 0
        self._prefix = path.encode()
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host_line = b"host: " + parts.netloc.rpartition("@")[2].encode() + b"\r\n"
        self._idle: list[_Connection] = []
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        """How many of the connections nobody uses."""
        return len(self._idle)

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes] | None,
        *,
        watch: Callable[[Exchange], None] = lambda exchange: None,
    ) -> Exchange:
        """Sends a request; returns when the head of its response is there.

        A request that may be repeated, and whose kept connection turns out to be closed before a
        byte of the response, goes out once more on a new one.

        Args:
            method: of the request.
            target: path and query, as bytes on the wire.
            headers: but for ``host``; without a ``content-length`` the body's framing is added.
            body: all of it, its pieces, or ``None`` for none.
            watch: is given the exchange before it begins, to be able to abort it.

        Raises:
            Failed: there was no answer.
        """
        head, chunked = self._head(method, target, headers, body)
        kept = self._kept()
        if kept is not None:
            exchange = Exchange(self, kept, method)
            watch(exchange)
            try:
                return await exchange.start(head, body, chunked=chunked)
            except Failed:
                if (
                    method not in _REPEATABLE
                    or exchange.heard
                    or not isinstance(body, bytes | None)
                ):
                    raise
        exchange = Exchange(self, await self._connect(), method)
        watch(exchange)
        return await exchange.start(head, body, chunked=chunked)

    async def aclose(self) -> None:
        """Closes the connections that nobody uses."""
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().transport.abort()

    def forget(self, connection: _Connection) -> None:
        """A connection that is closed."""
        self.open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def take_back(self, connection: _Connection) -> None:
        """A connection whose exchange is over, to be used again."""
        loop = asyncio.get_running_loop()
        connection.exchange = None
        connection.since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEP_ALIVE, self._swept)

    def _swept(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        stale = loop.time() - _KEEP_ALIVE
        kept = [c for c in self._idle if c.since > stale and not c.transport.is_closing()]
        for connection in self._idle:
            if connection.since <= stale:
                connection.transport.close()
        self._idle = kept
        if kept:
            self._sweep = loop.call_later(_KEEP_ALIVE / 2, self._swept)

    def _kept(self) -> _Connection | None:
        stale = asyncio.get_running_loop().time() - _KEEP_ALIVE
        while self._idle:
            connection = self._idle.pop()
            if connection.since > stale and not connection.transport.is_closing():
                return connection
            connection.transport.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect or None):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise Failed(
                "timeout", f"{self.url} did not take a connection in {self.limits.connect:g} s"
            ) from None
        except (OSError, ssl.SSLError) as error:
            raise Failed(
                "connect", f"{self.url} cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        return connection

    def _head(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> tuple[bytes, bool]:
        """The head of a request, and whether it says that the body comes in chunks."""
        parts = [method.encode("latin-1"), b" ", self._prefix, target, b" HTTP/1.1\r\n"]
        parts.append(self._host_line)
        framed = chunked = False
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            framed = framed or name == b"content-length"
        if not framed:
            if isinstance(body, bytes):
                parts.append(b"content-length: %d\r\n" % len(body))
            elif body is not None:
                parts.append(b"transfer-encoding: chunked\r\n")
                chunked = True
        parts.append(b"\r\n")
        return b"".join(parts), chunked


class Exchange:
    """One request on its way, and its response.

    Attributes:
        status: of the response.
        headers: of the response, as they came.
        heard: whether any of the response has come.
    """

    def __init__(self, upstream: Upstream, connection: _Connection, method: str) -> None:
        self.status = 0
        self.headers: Headers = []
        self.heard = False
        self._upstream = upstream
        self._connection = connection
        connection.exchange = self
        self._without_body = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._head_size = 0
        self._headed = False
        self._done = False
        self._reusable = False
        self._paused = False
        self._error: Exception | None = None
        self._writing: asyncio.Task[None] | None = None

    async def start(
        self, head: bytes, body: bytes | AsyncIterator[bytes] | None, *, chunked: bool
    ) -> Exchange:
        """Sends the request and waits for the head of the response.

        Raises:
            Failed: it did not come.
            ClientLeft: the client hung up meanwhile.
        """
        transport = self._connection.transport
        try:
            if body is None or isinstance(body, bytes):
                if body and len(body) <= _SMALL:
                    transport.write(head + body)
                else:
                    transport.write(head)
                    if body:
                        transport.write(body)
            else:
                transport.write(head)
                self._writing = asyncio.create_task(self._write(body, chunked=chunked))
            await self._until_headed()
        except BaseException:
            self.close()
            raise
        return self

    async def _until_headed(self) -> None:
        limit = self._upstream.limits.answer
        if self._headed:
            return
        try:
            async with asyncio.timeout(limit or None):
                while not self._headed:
                    if self._error is not None:
                        raise self._error
                    await self._wait()
        except TimeoutError:
            raise Failed("timeout", f"{self._upstream.url} did not answer in {limit:g} s") from None

    @property
    def finished(self) -> bool:
        """Whether all of the body has been read."""
        return self._done and not self._pieces

    async def read(self) -> bytes:
        """The next piece of the body, as it came; empty at its end.

        Raises:
            Failed: the upstream broke off, or sent nothing for too long.
            ClientLeft: :meth:`abort` was called.
        """
        if not self._pieces and not self._done:
            await self._more()
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._paused and self._held < _LOW:
            self._paused = False
            self._connection.transport.resume_reading()
        return piece

    async def _more(self) -> None:
        limit = self._upstream.limits.idle
        try:
            async with asyncio.timeout(limit or None):
                while not self._pieces and not self._done:
                    if self._error is not None:
                        raise self._error
                    await self._wait()
        except TimeoutError:
            raise Failed("timeout", f"{self._upstream.url} sent nothing for {limit:g} s") from None

    def abort(self) -> None:
        """Ends the exchange from outside: whoever waits for it gets :class:`ClientLeft`."""
        self._fail(ClientLeft("the client has left"))

    def close(self) -> None:
        """Gives the connection back, or closes it where the exchange did not come to its end."""
        if self._connection.exchange is not self:
            return
        written = self._writing is None or self._writing.done()
        if self._writing is not None:
            self._writing.cancel()
        whole = self._done and self._reusable and written and self._error is None
        if whole and not self._paused and not self._connection.transport.is_closing():
            self._upstream.take_back(self._connection)
        else:
            self._connection.exchange = None
            self._connection.transport.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self._done:
            self._error = error
        self._wake()

    async def _write(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Sends the pieces of a body, no faster than the upstream takes them."""
        connection = self._connection
        limit = self._upstream.limits.idle
        try:
            async for piece in body:
                if not piece:
                    continue
                async with asyncio.timeout(limit or None):
                    await connection.drained()
                if connection.transport.is_closing():
                    return
                if chunked:
                    connection.transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                else:
                    connection.transport.write(piece)
            if chunked:
                connection.transport.write(b"0\r\n\r\n")
        except TimeoutError:
            self._fail(Failed("timeout", f"{self._upstream.url} took nothing for {limit:g} s"))
        except ConnectionError as error:
            self._fail(error)

    # what the connection tells

    def received(self, data: bytes) -> None:
        """Bytes of the response."""
        self.heard = True
        if not self._headed:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Failed("garbage", f"{self._upstream.url} answered with what is not HTTP"))
            self._connection.transport.abort()
            return
        if not self._headed and self._head_size > self._upstream.limits.headers:
            self._fail(
                Failed(
                    "garbage",
                    f"{self._upstream.url} answered with more than "
                    f"{self._upstream.limits.headers} bytes of headers",
                )
            )
            self._connection.transport.abort()

    def lost(self) -> None:
        """The connection is closed."""
        if not self._done:
            if self._headed and self._ends_with_connection():
                self._done = True
            else:
                when = "in the middle of its answer" if self.heard else "before it answered"
                self._fail(Failed("reset", f"{self._upstream.url} closed the connection {when}"))
        self._wake()

    def _ends_with_connection(self) -> bool:
        return not any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        )

    # what the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the response; trailers are not passed on."""
        if not self._headed:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has ended; that of an interim response counts for nothing."""
        if self._headed:
            self._reusable = False  # a second response to one request
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.headers = []
            self._head_size = 0
            return
        self.status = status
        self._headed = True
        if self._without_body or status in _BODILESS:
            self._finish()
        self._wake()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._done:
            self._reusable = False
            return
        self._pieces.append(data)
        self._held += len(data)
        if not self._paused and self._held > _HIGH:
            self._paused = True
            self._connection.transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The response has ended."""
        if self._headed and not self._done:
            self._finish()
            self._wake()

    def _finish(self) -> None:
        self._done = True
        self._reusable = self._parser.should_keep_alive()


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that it serves."""

    def __init__(self, upstream: Upstream) -> None:
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.since = 0.0
        self._upstream = upstream
        self._room: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._upstream.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        self.resume_writing()
        if self.exchange is not None:
            self.exchange.lost()

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.transport.abort()  # nobody asked
        else:
            self.exchange.received(data)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    async def drained(self) -> None:
        """Waits until there is room for more to be sent."""
        if self._room is not None:
            await self._room
