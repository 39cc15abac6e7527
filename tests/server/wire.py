"""Bytes on the wire: a tap between a client and a server, and a client that sends bytes as given.

Both know just enough of HTTP/1.1 to tell where a message ends, so that nothing of it is changed
or hidden by a library.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from tests.server.tap import Exchange, Pairs, waited_for

ID = b"x-tap-id"


@dataclass
class Connection:
    """What went over one connection, in both directions."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    closed: bool = False


class Wire:
    """A TCP tap: forwards a port of its own to a server's, and records the bytes.

    Args:
        upstream: URL of the server.

    Attributes:
        url: where clients connect to instead.
    """

    def __init__(self, upstream: str, *, host: str = "127.0.0.1") -> None:
        parts = urlsplit(upstream)
        self._target = (parts.hostname or "", parts.port or 80)
        self._host = host
        self._connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.url = f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        seen = Connection()
        self._connections.append(seen)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                _pump(reader, up_writer, seen.sent), _pump(up_reader, writer, seen.received)
            )
        for end in (writer, up_writer):
            end.close()
        seen.closed = True
        self._tasks.discard(task)

    def exchanges(self, tap_id: str) -> list[Exchange]:
        """Every exchange with this ``x-tap-id``, in order.

        Waits until each has its response, or has lost its connection: a client may hang up with
        ``[DONE]``, before the end of the chunks.
        """
        waited_for(lambda: all(ended for _, ended in self._begun(tap_id)))
        return [exchange for exchange, _ in self._begun(tap_id)]

    def _begun(self, tap_id: str) -> Iterator[tuple[Exchange, bool]]:
        for connection in list(self._connections):
            closed = connection.closed
            for exchange in parse(bytes(connection.sent), bytes(connection.received)):
                if (ID, tap_id.encode()) in exchange.headers:
                    yield exchange, exchange.complete or closed


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            record += data
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def parse(sent: bytes, received: bytes) -> Iterator[Exchange]:
    """The exchanges of one connection. The last one may be incomplete."""
    while sent:
        start, headers, rest = _head(sent)
        if start is None:
            return
        method, target, _ = start.split(b" ", 2)
        pieces, _, sent = _body(rest, headers, close_ends=False)
        exchange = Exchange(method, target, headers, b"".join(pieces))
        while True:
            start, headers, rest = _head(received)
            if start is None:
                yield exchange
                return
            status = int(start.split(b" ", 2)[1])
            if status >= 200:
                break
            received = rest
        if method == b"HEAD" or status in (204, 304):
            pieces, ended, received = [], True, rest
        else:
            pieces, ended, received = _body(rest, headers, close_ends=True)
        exchange.status, exchange.response_headers = status, headers
        exchange.chunks, exchange.complete = pieces, ended
        yield exchange


def _head(data: bytes) -> tuple[bytes | None, Pairs, bytes]:
    """First line, headers and what follows them; ``None`` where they have not come whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None, [], data
    first, *lines = head.split(b"\r\n")
    pairs = []
    for line in lines:
        name, _, value = line.partition(b":")
        pairs.append((name.lower(), value.strip(b" \t")))
    return first, pairs, rest


def _body(data: bytes, headers: Pairs, *, close_ends: bool) -> tuple[list[bytes], bool, bytes]:
    """The pieces of a body, whether it has ended, and what follows it."""
    fields = dict(headers)
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        pieces: list[bytes] = []
        while True:
            line, end, rest = data.partition(b"\r\n")
            if not end:
                return pieces, False, b""
            size = int(line.split(b";")[0], 16)
            if len(rest) < size + 2:
                return pieces, False, b""
            if size == 0:
                return pieces, True, rest[2:]
            pieces.append(rest[:size])
            data = rest[size + 2 :]
    if b"content-length" in fields:
        size = int(fields[b"content-length"])
        return [data[:size]], len(data) >= size, data[size:]
    return ([data], True, b"") if close_ends else ([], True, data)


def request(
    method: str,
    target: str,
    headers: Pairs,
    body: bytes = b"",
    *,
    host: str,
    length: bool = True,
) -> bytes:
    """The bytes of a request; ``length`` gives it a ``content-length``."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"host: " + host.encode()]
    lines += [name + b": " + value for name, value in headers]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def chunked(*pieces: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class RawClient:
    """One connection to a server: bytes out, exchanges in."""

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self._sent = b""
        self._received = b""
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._sent += data
        self._socket.sendall(data)

    def until(self, done: Callable[[Exchange], bool]) -> Exchange:
        """Reads until the last exchange is as ``done`` wants it, or the server hangs up."""
        while True:
            exchanges = list(parse(self._sent, self._received))
            if (exchanges and done(exchanges[-1])) or self._closed:
                return exchanges[-1]
            data = self._socket.recv(2**16)
            self._closed = not data
            self._received += data

    def response(self) -> Exchange:
        """The last request's whole response."""
        return self.until(lambda exchange: exchange.complete)
