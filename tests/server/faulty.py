"""An upstream with faults that no proper server has: it speaks TCP, not HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Self

STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"8\r\ndata: 0\n\r\n2\r\n\n\n\r\n"
)
FLOOD = b"x" * 65_536


class Faulty:
    """A TCP server whose answer depends on :attr:`mode`, as a context manager.

    ``hang`` never answers; ``close`` hangs up at once; ``reset`` breaks off in mid-stream;
    ``garbage`` is no HTTP; ``bomb`` is a head without end; ``flood`` is a body without end;
    ``echo`` is the length of the body it was sent; ``slow`` is ``echo`` that reads slowly;
    anything else is a status, with a header and a body of its own.

    Attributes:
        url: where it listens.
        mode: how it answers.
        open: how many connections there are.
        requests: how many heads have come.
        left: how many connections their client closed before they were answered in full.
        sent: bytes of floods that the network took.
        read: bytes of bodies that it has read.
    """

    def __init__(self, mode: str = "200") -> None:
        self.mode = mode
        self.open = self.requests = self.left = self.sent = self.read = 0
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096, limit=2**20),
            self._loop,
        ).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
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
        self.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        self.requests += 1
        length = 0
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        received = 0
        while received < length:
            data = await reader.read(2**16)
            if not data:
                self.left += 1
                return False
            received += len(data)
            self.read += len(data)
            if self.mode == "slow":
                await asyncio.sleep(0.02)
        return await self._answer(reader, writer, received)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: int
    ) -> bool:
        if self.mode == "close":
            return False
        if self.mode == "hang":
            await reader.read()
            self.left += 1
            return False
        if self.mode == "garbage":
            writer.write(b"\x16\x03\x01 what is this?\r\n\r\n")
            await writer.drain()
            await reader.read()
            return False
        if self.mode in ("reset", "stream"):
            writer.write(STREAM)
            await writer.drain()
            await asyncio.sleep(0.1)
            if self.mode == "stream":
                await reader.read()
                self.left += 1
                return False
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if self.mode == "bomb":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            return await self._endless(writer, b"x-bomb: " + b"b" * 1_000 + b"\r\n")
        if self.mode == "flood":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
            return await self._endless(writer, FLOOD)
        echo = self.mode in ("echo", "slow")
        body = b"%d" % received if echo else b'{"error": {"message": "in my own words"}}'
        status = 200 if echo else int(self.mode)
        writer.write(
            b"HTTP/1.1 %d Mine\r\nretry-after: 7\r\ncontent-type: text/x-mine\r\n"
            b"content-length: %d\r\n\r\n%b" % (status, len(body), body)
        )
        await writer.drain()
        return True

    async def _endless(self, writer: asyncio.StreamWriter, piece: bytes) -> bool:
        try:
            while True:
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
        except OSError:
            self.left += 1
            return False
