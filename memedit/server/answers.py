"""What memedit does to responses: headers, refusals held back, usage, explanations.

A response that no edit took part in and that nobody wants explained goes through as the messages
that came, with ``x-memedit-*`` headers and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from memedit.server.asgi import Headers, Message, Send, header
from memedit.server.body import Member, inserted, members

logger = logging.getLogger("memedit.server")

EVIDENCE_TOKENS = "memedit_evidence_tokens"
"""The member of ``usage`` that says how many of its prompt tokens are evidence."""

REFUSING = frozenset({400, 413, 422})
"""Statuses with which servers refuse a prompt that exceeds the model's context."""

_TOO_LONG = re.compile(
    rb"context.{0,20}(length|window|size)|context_length_exceeded|max_model_len"
    rb"|(too|exceed\w*).{0,40}(long|tokens)|maximum.{0,30}(length|tokens)"
    rb"|reduce the (length|number)|tokens?\b.{0,60}must be",
    re.IGNORECASE,
)
_REFUSAL = 2**16
_UNAUTHENTICATED = frozenset({401, 403})
_LONGEST = 32 * 2**20
_PATIENCE = 2.0
"""Seconds for which the end of an answer waits for a count of tokens."""

MOST_HEADER = 900
"""Most bytes of ids in ``x-memedit-edits``; what does not fit is counted."""


def is_too_long(status: int, said: bytes) -> bool:
    """Whether a refusal's status, or else what it says, asks for a shorter prompt."""
    return status == 413 or bool(_TOO_LONG.search(said))


def tagging(send: Send, added: Headers) -> Send:
    """A ``send`` that adds headers to the response and touches nothing else.

    A caller whom the application does not know is told nothing.
    """

    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] not in _UNAUTHENTICATED:
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return tagged


def id_headers(edit_ids: Sequence[str]) -> Headers:
    """``x-memedit-edits``, and how many ids had no room in it."""
    if not edit_ids:
        return []
    shown, room = 0, MOST_HEADER
    for edit_id in edit_ids:
        room -= len(edit_id) + 1
        if room < 0:
            break
        shown += 1
    headers = [(b"x-memedit-edits", ",".join(edit_ids[:shown]).encode("ascii"))]
    if shown < len(edit_ids):
        headers.append((b"x-memedit-edits-omitted", b"%d" % (len(edit_ids) - shown)))
    return headers


class Attempt:
    """A ``send`` that holds back a refusal, so that something else can be tried.

    Attributes:
        refused: whether the application refused the request.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._said = b""
        self._status = 0
        self._encoded = False
        self.refused = False

    async def __call__(self, message: Message) -> None:
        """An ASGI ``send``."""
        if message["type"] == "http.response.start" and message["status"] in REFUSING:
            self.refused = True
            self._status = message["status"]
            self._encoded = header(message.get("headers", ()), b"content-encoding") is not None
        if not self.refused:
            await self._send(message)
        elif len(self._said) < _REFUSAL:
            self._said += message.get("body", b"")

    @property
    def too_long(self) -> bool:
        """Whether a shorter prompt may be taken, as far as the refusal can be read."""
        return self._encoded or is_too_long(self._status, self._said)


class Held:
    """A ``send`` that waits, before anything goes out, until it is told where to."""

    def __init__(self) -> None:
        self._to: asyncio.Future[Send] = asyncio.get_running_loop().create_future()

    def release(self, send: Send) -> None:
        """Lets everything go out through this ``send``."""
        self._to.set_result(send)

    async def __call__(self, message: Message) -> None:
        """An ASGI ``send``."""
        send = await asyncio.shield(self._to)
        await send(message)


class Amended:
    """A ``send`` that puts members into a JSON response, or into the events of a stream.

    Args:
        send: where the response goes.
        explanation: becomes the member ``memedit`` of the response, or of a stream's first event.
        own: the tokens of the caller's own prompt, by which ``usage`` tells evidence apart.
        counted: told how many tokens that was.
        renamed: names of models, each with the one that stands in the response in its place.
    """

    def __init__(
        self,
        send: Send,
        *,
        explanation: Mapping[str, Any] | None = None,
        own: Awaitable[int | None] | None = None,
        counted: Callable[[int], None] = lambda tokens: None,
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._send = send
        self._explanation = explanation
        self._own = own
        self._counted = counted
        self._renamed = renamed
        self._start: Message = {}
        self._kind = b""
        self._held = bytearray()

    async def __call__(self, message: Message) -> None:
        """An ASGI ``send``."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] != "http.response.body" or not self._kind:
            await self._send(message)
        elif self._kind == b"application/json":
            await self._whole(message)
        else:
            await self._event(message)

    async def _begin(self, message: Message) -> None:
        headers = message.get("headers", ())
        kind = (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
        readable = header(headers, b"content-encoding") is None and message["status"] < 300
        if readable and kind in (b"application/json", b"text/event-stream"):
            self._kind = kind
        if self._kind == b"application/json":
            self._start = message  # its length is not known yet
        else:
            await self._send(message)

    async def _whole(self, message: Message) -> None:
        self._held += message.get("body", b"")
        more = message.get("more_body", False)
        if more and len(self._held) <= _LONGEST:
            return
        body = bytes(self._held)
        self._held = bytearray()
        if not more:
            body = await self._amended(body)
            headers = [p for p in self._start["headers"] if p[0].lower() != b"content-length"]
            length = (b"content-length", b"%d" % len(body))
            self._start = {**self._start, "headers": [*headers, length]}
        self._kind = b""
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _event(self, message: Message) -> None:
        """Whole lines go out at once, as they are but for those that get a member more."""
        self._held += message.get("body", b"")
        more = message.get("more_body", False)
        end = self._held.rfind(b"\n") + 1 if more and len(self._held) <= _LONGEST else None
        body = bytes(self._held[:end])
        del self._held[:end]
        if b"data:" in body and self._concerns(body):
            lines = body.split(b"\n")
            body = b"\n".join([await self._line(line) for line in lines])
        if body or not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _line(self, line: bytes) -> bytes:
        name, colon, value = line.partition(b":")
        if name != b"data" or not value.lstrip().startswith(b"{"):
            return line
        if not self._concerns(value):
            return line
        return name + colon + await self._amended(value)

    def _concerns(self, body: bytes) -> bool:
        """Whether anything in there may have to change."""
        if self._explanation is not None or (self._own is not None and b'"usage"' in body):
            return True
        return bool(self._renamed) and b'"model"' in body

    async def _amended(self, body: bytes) -> bytes:
        try:
            text = body.decode("utf-8")
            if not isinstance(data := json.loads(text), dict):
                return body
        except ValueError:
            return body
        for name, own in self._renamed.items():
            text = _renamed(text, name, own)
        text = await self._with_usage(text, data)
        if self._explanation is not None:
            text = inserted(text, 0, "memedit", self._explanation)
            self._explanation = None
        return text.encode("utf-8")

    async def _with_usage(self, text: str, data: dict[str, Any]) -> str:
        found = _usage(text, data)
        if found is None or self._own is None:
            return text
        start, tokens = found
        try:
            own = await asyncio.wait_for(asyncio.shield(self._own), _PATIENCE)
        except TimeoutError:
            own = None
        if own is None or tokens < own:
            return text
        self._counted(tokens - own)
        return inserted(text, start, EVIDENCE_TOKENS, tokens - own)


def _renamed(text: str, name: str, own: str) -> str:
    """The text with another value where a member ``model`` has this name.

    A quotation mark inside a value is escaped in JSON, so that what is found is a member.
    """
    member = re.compile(rf'(?<!\\)"model"(\s*:\s*){re.escape(json.dumps(name))}')
    return member.sub(lambda found: f'"model"{found[1]}{json.dumps(own)}', text)


def _usage(text: str, data: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where a response's usage begins, and how many prompt tokens it reports."""
    start = 0
    for outer in ("response", "message"):
        if isinstance(inner := data.get(outer), dict):
            data, start = inner, _value(members(text), outer)
            break
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    tokens = usage.get("prompt_tokens")
    if not isinstance(tokens, int):
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        tokens = sum(n for name in parts if isinstance(n := usage.get(name), int))
    return (_value(members(text, start), "usage"), tokens) if tokens else None


def _value(found: Sequence[Member], name: str) -> int:
    """Where the value of a member begins; the last of a name counts."""
    return [member.value for member in found if member.name == name][-1]
