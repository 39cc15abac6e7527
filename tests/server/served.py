"""memedit as it is served, in its two forms, seen from both sides."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memedit.edits import Edit
from memedit.memory import EditMemory
from memedit.protocols import EditRecord
from tests.server.tap import Exchange, Pairs, TapFile
from tests.server.wire import RawClient, Wire, chunked, request

MODEL = "smollm2-135m-instruct"
MAX_LEN = 2048
JSON = (b"content-type", b"application/json")


def new_tap_id() -> str:
    """An ``x-tap-id`` that no other exchange has."""
    return f"tap-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class Served:
    """A running server with memedit in it or in front of it.

    Attributes:
        form: ``middleware`` or ``proxy``.
        url: where clients connect, without ``/v1``.
        memory: its memory of edits, opened by this process as well.
        seen: both sides of an exchange, by its ``x-tap-id``: what the client sent and got, and
            what the engine got and sent, once for each attempt.
    """

    form: str
    url: str
    memory: EditMemory
    seen: Callable[[str], tuple[Exchange, list[Exchange]]]

    def send(
        self,
        target: str,
        body: Any = b"",
        headers: Pairs | None = None,
        *,
        method: str = "POST",
        pieces: int = 0,
    ) -> tuple[Exchange, list[Exchange]]:
        """Sends a request byte by byte as given, waits for its response; both sides of it.

        Args:
            target: path and query.
            body: bytes, or what is to be written as JSON.
            headers: besides ``host``, ``x-tap-id`` and the framing.
            method: of the request.
            pieces: send the body in this many chunks; 0 for a ``content-length``.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        tap_id = new_tap_id()
        sent: Pairs = [(b"x-tap-id", tap_id.encode()), *([JSON] if headers is None else headers)]
        host = self.url.removeprefix("http://")
        if pieces:
            sent.append((b"transfer-encoding", b"chunked"))
            step = -(-len(raw) // pieces)
            parts = [raw[at : at + step] for at in range(0, len(raw), step)]
            data = request(method, target, sent, host=host, length=False) + chunked(*parts)
        else:
            length = bool(raw) or method == "POST"
            data = request(method, target, sent, raw, host=host, length=length)
        with RawClient(self.url) as client:
            client.send(data)
            got = client.response()
        assert got.complete, "the server hung up"
        client_side, engine_side = self.seen(tap_id)
        assert got.status == client_side.status
        assert got.response_body == (b"" if method == "HEAD" else client_side.response_body)
        return client_side, engine_side

    def chat(
        self, asked: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[Exchange, Exchange, dict[str, Any]]:
        """One greedy question: both sides (the engine's last attempt), and the answer's JSON."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": 16,
            **options,
        }
        extra = [(k.encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
        client, engine = self.send("/v1/chat/completions", body, [JSON, *extra])
        return client, engine[-1], json.loads(client.response_body)


Add = Callable[..., EditRecord]
"""``add(edit, **options)``: an edit in the served memory, reverted when the test ends."""


def middleware_form(url: str, memory: EditMemory, taps: TapFile) -> Served:
    """memedit inside vLLM's server."""
    return Served("middleware", url, memory, taps.exchanges)


def proxy_form(front: Wire, back: Wire, memory: EditMemory) -> Served:
    """memedit in front of vLLM's plain server, between two wires."""

    def seen(tap_id: str) -> tuple[Exchange, list[Exchange]]:
        # First the client's side: when its response is whole, so are the engine's.
        (client,) = front.exchanges(tap_id)
        return client, back.exchanges(tap_id)

    return Served("proxy", front.url, memory, seen)


def adding(memory: EditMemory, added: list[str]) -> Add:
    """An :data:`Add` that notes in ``added`` what it added."""

    def add(edit: Edit, **options: Any) -> EditRecord:
        (record,) = memory.add(edit, author="test", **options)
        added.append(record.edit.id)
        return record

    return add
