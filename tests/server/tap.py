"""What a request and its response look like on both sides of memedit inside vLLM's server.

:class:`Tapped` goes where ``--middleware`` names memedit: it is memedit's middleware with a
recorder outside and one inside. An exchange that carries the header ``x-tap-id`` is appended to
the file that ``MEMEDIT_TAP_FILE`` names, one JSON object for each side.

A request whose ``Host`` is ``localhost`` reaches vLLM without memedit: for it the server is the
plain one that ``memedit serve --upstream`` stands in front of.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from memedit.adapters.vllm_server import Middleware
from memedit.server.asgi import ASGIApp, Message, Receive, Scope, Send

FILE = "MEMEDIT_TAP_FILE"
ID = b"x-tap-id"

Pairs = list[tuple[bytes, bytes]]
T = TypeVar("T")


@dataclass
class Exchange:
    """One request and its response, as one side saw them.

    Attributes:
        method: of the request.
        target: path and query, as sent.
        headers: of the request, in order, names in lower case.
        body: of the request, without its framing.
        status: of the response; 0 where none came.
        response_headers: in order, names in lower case.
        chunks: the pieces of the response's body, as they were sent.
        complete: whether the response came to its end.
    """

    method: bytes
    target: bytes
    headers: Pairs
    body: bytes
    status: int = 0
    response_headers: Pairs = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def response_body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """The last response header of this name: memedit's own stand last."""
        found = [v for k, v in self.response_headers if k == name.encode()]
        return found[-1].decode("latin-1") if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def dump(self, side: str, tap_id: str) -> str:
        return json.dumps(
            {
                "side": side,
                "id": tap_id,
                "method": self.method.decode("latin-1"),
                "target": self.target.decode("latin-1"),
                "headers": _text(self.headers),
                "body": self.body.decode("latin-1"),
                "status": self.status,
                "response_headers": _text(self.response_headers),
                "chunks": [chunk.decode("latin-1") for chunk in self.chunks],
                "complete": self.complete,
            }
        )

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Exchange:
        return cls(
            method=data["method"].encode("latin-1"),
            target=data["target"].encode("latin-1"),
            headers=_bytes(data["headers"]),
            body=data["body"].encode("latin-1"),
            status=data["status"],
            response_headers=_bytes(data["response_headers"]),
            chunks=[chunk.encode("latin-1") for chunk in data["chunks"]],
            complete=data["complete"],
        )


def _text(pairs: Pairs) -> list[list[str]]:
    return [[k.decode("latin-1"), v.decode("latin-1")] for k, v in pairs]


def _bytes(pairs: list[list[str]]) -> Pairs:
    return [(k.encode("latin-1"), v.encode("latin-1")) for k, v in pairs]


class Tap:
    """Records what passes between its caller and the application behind it.

    It hands every message on as the very object that came. Its ``app`` is named as starlette's
    middleware name theirs, so that memedit finds vLLM's key check behind it.
    """

    def __init__(self, app: ASGIApp, side: str) -> None:
        self.app = app
        self._side = side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tap_id = _header(scope, ID) if scope["type"] == "http" else None
        if tap_id is None:
            return await self.app(scope, receive, send)
        target = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        seen = Exchange(scope["method"].encode(), target, list(map(tuple, scope["headers"])), b"")

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                seen.body += message.get("body", b"")
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                seen.response_headers = list(map(tuple, message.get("headers", ())))
            elif message["type"] == "http.response.body":
                seen.chunks.append(message.get("body", b""))
                seen.complete = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        finally:
            with Path(os.environ[FILE]).open("a", encoding="ascii") as file:
                file.write(seen.dump(self._side, tap_id.decode("latin-1")) + "\n")


class Tapped:
    """memedit's middleware for vLLM between two taps."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._edited = Tap(Middleware(Tap(app, "engine")), "client")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = _header(scope, b"host") if scope["type"] == "http" else None
        plain = host is not None and host.startswith(b"localhost")
        await (self._plain if plain else self._edited)(scope, receive, send)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


class TapFile:
    """Reads what the taps of a server have recorded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exchanges(self, tap_id: str) -> tuple[Exchange, list[Exchange]]:
        """What the client saw of an exchange, and what the engine saw: one or several attempts."""
        client = waited_for(lambda: list(self._of(tap_id, "client")))
        return client[0], list(self._of(tap_id, "engine"))

    def _of(self, tap_id: str, side: str) -> Iterator[Exchange]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="ascii").splitlines(keepends=True):
            if line.endswith("\n") and f'"id": "{tap_id}"' in line:
                data = json.loads(line)
                if data["id"] == tap_id and data["side"] == side:
                    yield Exchange.parse(data)


def waited_for(look: Callable[[], T], seconds: float = 20.0) -> T:
    """The first thing that ``look`` finds, looking again until the time is up."""
    until = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.01)
    assert found, f"nothing came within {seconds} s"
    return found
