"""A small upstream that does what vLLM's server never does, and says when it did it.

Run it with :class:`Upstream`; it is a public class because the faults and forms it makes cannot
be had from the real server: compressed responses, two cookies, 204, 304, redirects, pauses,
connections that break off.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from typing import Any, Self

import uvicorn

from memedit.server.asgi import Receive, Scope, Send

ZIPPED = gzip.compress(b'{"squeezed": "' + b"x" * 2000 + b'"}', mtime=0)
PIECES = 4


class Answers:
    """The ASGI application. One path, one kind of answer.

    Attributes:
        sent: for each ``/stream`` request, the moments at which its pieces were sent.
        aborted: how many requests were left by their client.
        bodies: the bodies of requests as they came, in order.
        gate: ``/stream`` waits for it before its last piece.
    """

    def __init__(self) -> None:
        self.sent: list[list[float]] = []
        self.aborted = 0
        self.bodies: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, whole = await _read(receive)
        path = scope["path"].removeprefix("/v1")
        if whole and path != "/tokenize":  # memedit's own question, which is answered with a 404
            self.bodies.append(body)
        if path in ("/stream", "/chat/completions"):
            await self._stream(receive, send)
            return
        if path == "/broken":
            await self._broken(send)
            return
        status, headers, answer = _ANSWERS.get(path, (200, [], b"ok"))
        if path == "/echo":
            answer = body
        if status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer if status != 304 else b""})

    async def _stream(self, receive: Receive, send: Send) -> None:
        """Pieces with pauses between them; the last one when the gate is open."""
        moments: list[float] = []
        self.sent.append(moments)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(_disconnected(receive))
        for number in range(PIECES):
            if number == PIECES - 1:
                while not self.gate.is_set() and not gone.done():
                    await asyncio.sleep(0.01)
            if gone.done():
                self.aborted += 1
                return
            moments.append(time.monotonic())
            piece = b"data: %d\n\n" % number
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0.02)
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _broken(self, send: Send) -> None:
        """Breaks off in the middle of a body."""
        headers = [(b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ConnectionAbortedError("the upstream breaks off, as it was asked to")


_ANSWERS: dict[str, tuple[int, list[tuple[bytes, bytes]], bytes]] = {
    "/cookies": (
        200,
        [
            (b"set-cookie", b"a=1; Path=/"),
            (b"x-kind", b"one"),
            (b"set-cookie", b"b=2; Path=/"),
            (b"x-kind", b"two"),
            (b"x-latin", b"caf\xe9"),
            (b"x-utf8", "café".encode()),
        ],
        b"crumbs",
    ),
    "/gzip": (
        200,
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
        ZIPPED,
    ),
    "/204": (204, [(b"x-kind", b"none")], b""),
    "/304": (304, [(b"etag", b'"v1"')], b""),
    "/redirect": (307, [(b"location", b"/v1/elsewhere?a=%2F")], b""),
    "/teapot": (418, [(b"content-type", b"text/plain")], b"short and stout"),
    "/hop": (
        200,
        [
            (b"connection", b"keep-alive, x-private"),
            (b"keep-alive", b"timeout=5"),
            (b"x-private", b"mine"),
            (b"x-public", b"yours"),
        ],
        b"hop",
    ),
    "/health": (200, [], b""),
    "/tokenize": (404, [], b""),
}


async def _read(receive: Receive) -> tuple[bytes, bool]:
    """The body, and whether it came to its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body, False
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body, True


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Upstream:
    """:class:`Answers` under uvicorn in a thread, as a context manager.

    Args:
        port: where it listens; one that is free by default.
        app: another application instead.
    """

    def __init__(self, port: int = 0, app: Any = None) -> None:
        self.answers = Answers()
        self._port = port
        self._app = app or self.answers
        self.url = ""

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            self._app, host="127.0.0.1", port=self._port, log_level="critical", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="upstream", daemon=True)
        self._thread.start()
        until = time.monotonic() + 20
        while not self._server.started:
            assert self._thread.is_alive(), "the upstream did not start"
            assert time.monotonic() < until, "the upstream did not start in time"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(20)
