"""What an ASGI application is made of, and small things that many of them do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value of a header; ``name`` in lower case, as ASGI has all of them."""
    for key, value in headers:
        if key == name:
            return value
    return None


def path_of(scope: Scope) -> str:
    """The path of a request, wherever the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root)


async def respond(
    send: Send,
    status: int,
    content: Any,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    kind: bytes = b"application/json",
) -> None:
    """A whole response.

    Args:
        send: of the ASGI application.
        status: of the response.
        content: bytes as they are, anything else as JSON.
        headers: besides type and length.
        kind: the content type.
    """
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    framing = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": status, "headers": [*framing, *headers]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def error_body(message: str, kind: str, code: int | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def asked(
    app: ASGIApp,
    scope: Scope,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    limit: int = 2**24,
) -> tuple[int, bytes]:
    """Puts a request of memedit's own to an application: the status and body of its response.

    Args:
        app: the application.
        scope: of the request on whose behalf this one is made.
        method: of the new request.
        path: of the new request.
        body: of the new request, JSON.
        headers: of the new request, besides type and length.
        limit: most bytes of the response that are kept.

    Returns:
        The status, 0 where no response came, and the body.
    """
    status, pieces, size = 0, [], 0
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            # Nobody leaves here: whoever waits for that waits for the end of the exchange.
            await asyncio.get_running_loop().create_future()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, size
        if message["type"] == "http.response.start":
            status = message["status"]
        elif size < limit:
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])

    framing = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    fresh = {
        **scope,
        "method": method,
        "path": scope.get("root_path", "") + path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [*(framing if body else ()), *headers],
        "state": dict(scope.get("state") or {}),
    }
    await app(fresh, receive, send)
    return status, b"".join(pieces)
