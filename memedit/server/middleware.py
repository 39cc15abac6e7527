"""The ASGI middleware: reads a request's query, has it decided, and passes the request on.

A request that no edit is about goes on as the very messages that came in, and its response comes
back as the very messages that the application sent; the only thing added is ``x-memedit-*``
response headers. A request that an edit is about goes on with the rewritten member of its body
and every other byte as it came.
"""

from __future__ import annotations

import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from memedit.errors import InvalidInput
from memedit.protocols import Decision, Route
from memedit.router import PASSTHROUGH
from memedit.server.body import JsonBody
from memedit.server.decider import Decider
from memedit.server.surfaces import SURFACES, Surface

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

logger = logging.getLogger("memedit.server")

BYPASS = b"x-memedit-bypass"
NAMESPACE = b"x-memedit-namespace"
MEMBER = "memedit"
"""The member of a request body that is memedit's own and never reaches the upstream."""

_TOO_LONG = frozenset({400, 413, 422})
"""Statuses with which servers refuse a prompt that exceeds the model's context."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send on, the first that the application does not refuse as too long.

    Attributes:
        decision: goes into the response headers while one of ``bodies`` is answered.
        bodies: rewritten bodies, the richest first.
        original: the caller's own body, sent at last; ``None`` where it goes on as it came.
        reason: why evidence stays out of a request that an edit is about.
    """

    decision: Decision
    bodies: Sequence[bytes] = ()
    original: bytes | None = None
    reason: str = ""


PASS = Plan(Decision(PASSTHROUGH))


class MemeditMiddleware:
    """Edits what the application behind it answers.

    Args:
        app: vLLM's server, memedit's proxy, or any other ASGI application with OpenAI's paths.
        decider: decides queries.
        routes: the routes by name.
        namespace: the namespace of requests that name none.
        max_body: longest body that is read, in bytes; a longer one passes through.
        admits: whether a caller may be decided for at all; one who may not passes through, so
            that a server's own key check answers, and nothing is encoded or told.
    """

    def __init__(
        self,
        app: ASGIApp,
        decider: Decider,
        routes: Mapping[str, Route],
        *,
        namespace: str = "default",
        max_body: int = 16 * 2**20,
        admits: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        self._app = app
        self._decider = decider
        self._routes = routes
        self._namespace = namespace
        self._max_body = max_body
        self._admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        surface = _surface(scope)
        if surface is None or not self._admits(scope):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = _Buffered(receive)
        if not await request.read(self._max_body):
            logger.info("passthrough: the body is longer than %d bytes", self._max_body)
            await self._app(scope, request.replay(), _tagging(send, PASS))
            return
        try:
            plan = await self._plan(surface, scope, request.body)
        except InvalidInput as error:
            await _refuse(send, str(error))
            return
        _log(plan, scope, started)
        await self._send_on(plan, scope, request, send)

    async def _plan(self, surface: Surface, scope: Scope, raw: bytes) -> Plan:
        """What to send for this request."""
        headers = scope["headers"]
        encoding = _header(headers, b"content-encoding")
        body = _parsed(raw, encoding)
        if body is None:
            return PASS
        original = None
        if MEMBER in body.data:
            body = body.without(MEMBER)
            original = body.raw
        if (_header(headers, BYPASS) or b"0").strip().lower() not in (b"0", b"false", b""):
            return Plan(PASS.decision, original=original, reason="bypassed")
        namespace = _header(headers, NAMESPACE)
        name = self._namespace if namespace is None else namespace.decode("latin-1")
        try:
            return await self._decided(surface, body, name, original)
        except InvalidInput:
            raise
        except Exception:
            # Whatever fails in memedit, the request is answered.
            logger.exception("passthrough: no decision could be made")
            return Plan(PASS.decision, original=original, reason="no decision could be made")

    async def _decided(
        self, surface: Surface, body: JsonBody, namespace: str, original: bytes | None
    ) -> Plan:
        """The plan that follows from the edits that the prompts are about."""
        prompts = surface.read(body.data)
        decisions = await self._decider.decide([prompt.query for prompt in prompts], namespace)
        if not any(decision.edits for decision in decisions):
            scope_seen = max((d.scope for d in decisions), default=0.0)
            return Plan(Decision(PASSTHROUGH, scope=scope_seen), original=original)
        if reason := surface.keeps_out(body.data):
            best = max(decisions, key=lambda d: d.scope)
            return Plan(Decision(PASSTHROUGH, scope=best.scope), original=original, reason=reason)
        return self._rewritten(surface, body, prompts, decisions, original)

    def _rewritten(
        self,
        surface: Surface,
        body: JsonBody,
        prompts: Sequence[Any],
        decisions: Sequence[Decision],
        original: bytes | None,
    ) -> Plan:
        ladders = [
            self._routes[decision.route].rewrites(prompt, decision.edits) if decision.edits else ()
            for prompt, decision in zip(prompts, decisions, strict=True)
        ]
        bodies = []
        for step in range(max(map(len, ladders))):
            chosen = [
                ladder[min(step, len(ladder) - 1)] if ladder else prompt
                for prompt, ladder in zip(prompts, ladders, strict=True)
            ]
            bodies.append(body.replaced({surface.member: surface.write(body.data, chosen)}))
        edited = [decision for decision in decisions if decision.edits]
        edits = {edit.id: edit for decision in edited for edit in decision.edits}
        merged = Decision(
            route=edited[0].route,
            edits=tuple(edits.values()),
            scope=max(decision.scope for decision in edited),
            timings=edited[0].timings,
        )
        return Plan(merged, bodies, original)

    async def _send_on(self, plan: Plan, scope: Scope, request: _Buffered, send: Send) -> None:
        """Down the ladder: each rewritten body in turn, the caller's own at last."""
        for body in plan.bodies:
            attempt = _Attempt(_tagging(send, plan))
            await self._app(_resized(scope, body), request.replay(body), attempt)
            if not attempt.refused:
                return
        if plan.bodies:
            reason = "the request leaves no room for the evidence"
            logger.info("passthrough: %s", reason)
            plan = Plan(Decision(PASSTHROUGH, scope=plan.decision.scope), (), plan.original, reason)
        resized = scope if plan.original is None else _resized(scope, plan.original)
        await self._app(resized, request.replay(plan.original), _tagging(send, plan))


class _Buffered:
    """A request body, read once and played back as often as need be."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []

    @property
    def body(self) -> bytes:
        """What has been read."""
        return b"".join(message.get("body", b"") for message in self._messages)

    async def read(self, limit: int) -> bool:
        """Reads to the end, or until more than ``limit`` bytes have come: then ``False``."""
        size = 0
        while True:
            message = await self._receive()
            self._messages.append(message)
            if message["type"] != "http.request":
                return True
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                return size <= limit
            if size > limit:
                return False

    def replay(self, body: bytes | None = None) -> Receive:
        """A ``receive`` that gives the messages as they came, or ``body`` in their place."""
        pending = list(self._messages)
        if body is not None:
            tail = [message for message in pending if message["type"] != "http.request"]
            pending = [{"type": "http.request", "body": body, "more_body": False}, *tail]
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position < len(pending):
                position += 1
                return pending[position - 1]
            return await self._receive()

        return receive


class _Attempt:
    """A ``send`` that holds back a refusal, so that a shorter prompt can be tried."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.refused = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in _TOO_LONG:
            self.refused = True
        if not self.refused:
            await self._send(message)


def _surface(scope: Scope) -> Surface | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return SURFACES.get(path)


def _header(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key.lower() == name), None)


def _resized(scope: Scope, body: bytes) -> Scope:
    """The scope for another body: its length, and no content encoding."""
    changed = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [(k, v) for k, v in scope["headers"] if k.lower() not in changed]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


def _parsed(raw: bytes, encoding: bytes | None) -> JsonBody | None:
    """The body as JSON; ``None`` where it is none, so that the application says what is wrong."""
    try:
        return JsonBody(_decoded(raw, encoding))
    except (ValueError, RecursionError, zlib.error):
        return None


def _decoded(raw: bytes, encoding: bytes | None) -> bytes:
    """The body without its gzip or deflate coding, at most 16 times as long."""
    name = (encoding or b"identity").strip().lower()
    if name == b"identity":
        return raw
    if name not in (b"gzip", b"deflate"):
        raise ValueError(f"content encoding {name!r} is not read")
    inflate = zlib.decompressobj(wbits=47)
    plain = inflate.decompress(raw, 16 * len(raw) + 1024)
    if not inflate.eof:
        raise ValueError("the compressed body is cut off, or expands too far")
    return plain


def _tagging(send: Send, plan: Plan) -> Send:
    """A ``send`` that adds memedit's headers to the response and touches nothing else."""
    decision = plan.decision
    added = [
        (b"x-memedit-route", decision.route.encode("ascii")),
        (b"x-memedit-scope", f"{decision.scope:.4f}".encode("ascii")),
    ]
    if decision.edits:
        ids = ",".join(edit.id for edit in decision.edits)
        added.insert(1, (b"x-memedit-edits", ids.encode("ascii")))
    if plan.reason:
        added.append((b"x-memedit-reason", plan.reason.encode("ascii", "replace")))

    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return tagged


async def _refuse(send: Send, text: str) -> None:
    """A 400 in OpenAI's error form."""
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log(plan: Plan, scope: Scope, started: float) -> None:
    """One record per request: the decision and milliseconds per stage, no prompt text."""
    stages = " ".join(f"{name}={ms:.1f}" for name, ms in plan.decision.timings.items())
    logger.info(
        "%s route=%s edits=%s scope=%.4f total_ms=%.1f %s%s",
        scope["path"],
        plan.decision.route,
        ",".join(edit.id for edit in plan.decision.edits) or "-",
        plan.decision.scope,
        (time.perf_counter() - started) * 1e3,
        stages,
        f" reason={plan.reason!r}" if plan.reason else "",
    )
