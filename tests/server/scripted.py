"""An upstream that answers as it is told, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from memedit.server.asgi import Headers, Receive, Scope, Send, respond

Answer = tuple[int, Any] | bytes
"""A status and a body; or the bytes of a stream, of which every line goes out by itself."""


class Scripted:
    """An ASGI application for :class:`tests.server.upstream.Upstream`.

    Args:
        answer: what to answer to a path and a JSON body.

    Attributes:
        asked: path and body of every request that came whole, in order.
        headers: of the last request.
        cancelled: how many of them were left before they had their answer.
        delay: seconds before an answer.
    """

    def __init__(self, answer: Callable[[str, Any], Answer]) -> None:
        self._answer = answer
        self.asked: list[tuple[str, Any]] = []
        self.headers: Headers = []
        self.cancelled = 0
        self.delay = 0.0

    def bodies(self, path: str) -> list[Any]:
        """What was asked on one path."""
        return [body for asked, body in self.asked if asked == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        raw, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.loads(raw) if raw else None
        self.asked.append((scope["path"], body))
        self.headers = list(scope["headers"])
        gone = asyncio.ensure_future(receive())
        await asyncio.wait([gone], timeout=self.delay)
        if gone.done():
            self.cancelled += 1
            return
        gone.cancel()
        answer = self._answer(scope["path"], body)
        if isinstance(answer, tuple):
            await respond(send, answer[0], answer[1])
            return
        kind = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for line in answer.splitlines(keepends=True):
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
