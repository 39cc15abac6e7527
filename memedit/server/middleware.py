"""The ASGI middleware: reads a request's query, has it decided, and passes the request on.

A request that no edit is about goes on as the very messages that came in, and its response comes
back as the very messages that the application sent; the only thing added is ``x-memedit-*``
response headers. A request that an edit is about goes on with the rewritten member of its body
and every other byte as it came.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from memedit.edits import Edit
from memedit.errors import AccessFileError, InvalidInput
from memedit.multihop.route import NAME as HOP_BY_HOP
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Decision, Route
from memedit.router import PASSTHROUGH
from memedit.server.access import access_of
from memedit.server.answers import Amended, Attempt, Held, id_headers, tagging
from memedit.server.asgi import ASGIApp, Message, Receive, Scope, Send, header, path_of, respond
from memedit.server.body import JsonBody
from memedit.server.decider import Decider
from memedit.server.freshness import Stamp
from memedit.server.hops import HopFailed, Hops
from memedit.server.metrics import Metrics
from memedit.server.options import AUTO, MEMBER, Options, read_options
from memedit.server.spans import Spans
from memedit.server.surfaces import SURFACES, Surface
from memedit.server.tokens import Tokens

logger = logging.getLogger("memedit.server")

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LARGE = 2**18
"""Bodies of more bytes than this are parsed on a thread: meanwhile others are served."""

NO_DECISION = "no decision could be made"
NO_ROOM = "the request leaves no room for the evidence"
NO_CODEBOOK = "no codebook answers it here: answered in context"


GRACE = "grace"
"""The route of requests that are marked for a codebook in the engine."""

IN_CONTEXT = "ike"
"""The route that an edit names which no codebook is to answer."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A request that a codebook in the engine answers.

    Attributes:
        members: of its body, which mark it.
        reasons: sentences a person can read.
    """

    members: Mapping[str, Any]
    reasons: tuple[str, ...] = ()


class Marks(Protocol):
    """Codebooks in the engine behind the application, which answer marked requests."""

    def check(self, body: Mapping[str, Any]) -> None:
        """Raises InvalidInput where a body marks itself: that is memedit's to do."""

    async def marked(
        self, scope: Scope, body: Mapping[str, Any], namespace: str, edits: Sequence[Edit]
    ) -> Marked | None:
        """How a body is marked for these edits; ``None`` where the codebooks do not answer."""


WEIGHTS = "weights"
"""The route of requests that a version of the weights answers."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A version of the weights that answers a request.

    Attributes:
        model: by what a request asks the application for it; known to nobody else.
        name: what the application's answers call it.
        own: what the application calls the model that answers everybody else.
    """

    model: str
    name: str
    own: str


class Versions(Protocol):
    """Versions of the weights in the engine behind the application, one model's name each."""

    def follow(self, scope: Scope, stamp: Stamp | None) -> None:
        """Has what the memory says is published taken up, and the rest put down, meanwhile."""

    async def serving(
        self, scope: Scope, body: Mapping[str, Any], edits: Sequence[Edit], *, chat: bool
    ) -> Serving | None:
        """The version that holds all of these edits; ``None`` where the memory is to answer."""


class NotPermitted(Exception):
    """The request asks in its body for what the caller holds no memedit key for."""


class Undecided(Exception):
    """No decision could be made on a request, and requests without one are to be refused."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the middleware treats requests.

    Attributes:
        namespace: the namespace of requests that name none.
        max_body: longest body that is read, in bytes; a longer one passes through.
        max_prompts: most prompts of one request that are decided on; more pass through.
        decision_timeout: seconds for a decision; 0 for as long as it takes.
        hops_timeout: seconds for the hops of a question of several.
        fail_open: whether a request on which no decision can be made passes, or is refused.
        speculate: whether a request goes on while its decision is being made.
        count_evidence: whether usage tells evidence apart.
    """

    namespace: str = "default"
    max_body: int = 16 * 2**20
    max_prompts: int = 256
    decision_timeout: float = 5.0
    hops_timeout: float = 30.0
    fail_open: bool = True
    speculate: bool = False
    count_evidence: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks.

    Attributes:
        options: how it wants to be treated.
        body: without memedit's own member; ``None`` where it is no JSON object.
        original: the body to send where no edit takes part; ``None`` where it goes on as it came.
        prompts: one decision each.
        ids: the same prompts as token ids, where they came so and have to go on so.
        reason: why nothing is decided on, where that is known already.
    """

    options: Options
    body: JsonBody | None = None
    original: bytes | None = None
    prompts: Sequence[Any] = ()
    ids: Sequence[Sequence[int]] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send on, the first that the application does not refuse as too long.

    Attributes:
        decision: goes into the response headers while one of ``bodies`` is answered.
        bodies: rewritten bodies, the richest first.
        original: the caller's own body, sent at last; ``None`` where it goes on as it came.
        reason: why evidence stays out.
        decisions: one a prompt, for explanations.
        serving: the version of the weights that answers.
    """

    decision: Decision
    bodies: Sequence[bytes] = ()
    original: bytes | None = None
    reason: str = ""
    decisions: Sequence[Decision] = ()
    serving: Serving | None = None


PASS = Plan(Decision(PASSTHROUGH))


@dataclass(slots=True)
class _Call:
    """One request on its way through."""

    surface: Surface
    scope: Scope
    request: _Buffered
    send: Send
    id: str
    started: float = field(default_factory=time.perf_counter)
    asked: Asked | None = None
    stamp: Stamp | None = None
    speculated: str = "-"


class MemeditMiddleware:
    """Edits what the application behind it answers.

    Every request comes through a :class:`~memedit.server.door.Door`: what its body asks for needs
    the same keys as what its headers do.

    Args:
        app: vLLM's server, memedit's proxy, or any other ASGI application with OpenAI's paths.
        decider: decides queries.
        routes: the routes by name.
        settings: how requests are treated.
        metrics: what happens is counted there.
        admits: whether a caller may be decided for at all; one who may not passes through, so
            that a server's own key check answers, and nothing is encoded or told.
        spans: gets one a request.
        marks: the engine's codebooks, where it has any.
        hops: takes questions of several hops; without it they are questions like any other.
        versions: the engine's versions of the weights, where it has any.
    """

    def __init__(
        self,
        app: ASGIApp,
        decider: Decider,
        routes: Mapping[str, Route],
        *,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
        admits: Callable[[Scope], bool] = lambda scope: True,
        spans: Spans | None = None,
        marks: Marks | None = None,
        hops: Hops | None = None,
        versions: Versions | None = None,
    ) -> None:
        self._marks = marks
        self._versions = versions
        self._hops = hops
        self._app = app
        self._decider = decider
        self._routes = routes
        self._settings = settings or Settings()
        self._metrics = metrics or Metrics()
        self._admits = admits
        self._spans = spans
        self._tokens = Tokens(app)
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        surface = _surface(scope)
        if surface is None or not self._admits(scope):
            await self._app(scope, receive, send)
            return
        request = _Buffered(receive)
        call = _Call(surface, scope, request, send, self._id(scope))
        self._metrics.in_flight.inc()
        try:
            await self._serve(call)
        except InvalidInput as error:
            self._metrics.refused("invalid")
            await self._refuse(call, 400, str(error), "invalid_request_error")
        except NotPermitted as error:
            self._metrics.refused("permission")
            await self._refuse(call, 403, str(error), "permission_error")
        except AccessFileError:
            logger.exception("refused: the keys cannot be read", extra=_extra(id=call.id))
            await self._refuse(
                call, 503, "memedit's keys cannot be read; the log says why", "service_unavailable"
            )
        except Undecided as error:
            await self._refuse(call, 503, str(error), "service_unavailable")
        finally:
            self._metrics.in_flight.dec()

    async def _serve(self, call: _Call) -> None:
        if not await call.request.read(self._settings.max_body):
            longer = f"the body is longer than {self._settings.max_body} bytes"
            await self._send_on(call, replace(PASS, reason=longer))
            return
        asked = call.asked = await self._read(call)
        if asked.body is None or asked.reason or not (asked.prompts or asked.ids):
            plan = replace(PASS, original=asked.original, reason=asked.reason)
            await self._send_on(call, plan)
            return
        known = None
        call.stamp = self._decider.stamp()
        if self._versions is not None:
            self._versions.follow(call.scope, call.stamp)
        if not asked.ids:
            queries = [prompt.in_context for prompt in asked.prompts]
            known = self._decider.known(queries, asked.options.namespace, call.stamp)
        several = self._takes_hops(asked)
        if known is not None and not several and not any(decision.edits for decision in known):
            self._metrics.decided(known, known=True)
            await self._send_on(call, _passing(asked, known))
        elif known is None and self._may_speculate(call, asked):
            await self._speculate(call, asked)
        else:
            await self._send_on(call, await self._planned(call, asked, known))

    # what is asked

    async def _read(self, call: _Call) -> Asked:
        """What this request asks.

        Raises:
            InvalidInput: its own options are malformed.
            NotPermitted: it may not ask for them.
            AccessFileError: whether it may cannot be found out.
        """
        headers, raw = call.scope["headers"], call.request.body
        encoding = header(headers, b"content-encoding")
        if len(raw) <= _LARGE:
            body = _parsed(raw, encoding)
        else:
            body = await asyncio.to_thread(_parsed, raw, encoding)
        options = read_options(
            headers,
            None if body is None else body.data.get(MEMBER),
            namespace=self._settings.namespace,
            routes=self._routes.keys(),
        )
        if body is None:
            return Asked(options)
        _check_permitted(call.scope, options)
        if self._marks is not None:
            self._marks.check(body.data)
        original = None
        if MEMBER in body.data:
            body = body.without(MEMBER)
            original = body.raw
        if options.route == PASSTHROUGH:
            return Asked(options, body, original, reason="bypassed")
        prompts, ids = call.surface.read(body.data), call.surface.tokens(body.data)
        if len(prompts) + len(ids) > self._settings.max_prompts:
            most = f"the request has more than {self._settings.max_prompts} prompts"
            return Asked(options, body, original, reason=most)
        return Asked(options, body, original, prompts, ids)

    # what follows from it

    async def _planned(
        self, call: _Call, asked: Asked, known: Sequence[Decision] | None = None
    ) -> Plan:
        """The plan for a request; what comes of failing is the settings' to say.

        Raises:
            InvalidInput: the namespace is malformed.
            Undecided: no decision could be made, and then requests are refused.
        """
        try:
            async with asyncio.timeout(self._settings.decision_timeout or None):
                asked, decisions = await self._decisions(call, asked, known)
            if self._hops is not None and self._takes_hops(asked):
                async with asyncio.timeout(self._settings.hops_timeout):
                    decisions = await self._by_hops(self._hops, call, asked, decisions)
            async with asyncio.timeout(self._settings.decision_timeout or None):
                return await self._followed(call, asked, decisions, known is not None)
        except InvalidInput:
            raise
        except Exception as error:
            # Whatever fails in memedit, the request is answered.
            kind = type(error).__name__
            if self._settings.fail_open:
                self._metrics.undecided("fail_open", kind)
                logger.exception("passthrough: %s", NO_DECISION, extra=_extra(id=call.id))
                return replace(PASS, original=asked.original, reason=NO_DECISION)
            self._metrics.undecided("fail_closed", kind)
            logger.exception("refused: %s", NO_DECISION, extra=_extra(id=call.id))
            raise Undecided(
                f"memedit could make no decision on this request ({kind}), and is set to refuse "
                "such requests (server.on_failure)"
            ) from error

    def _takes_hops(self, asked: Asked) -> bool:
        """Whether one of the prompts may be taken hop by hop, for all that its words tell."""
        return (
            self._hops is not None
            and asked.options.route in (AUTO, HOP_BY_HOP)
            and self._hops.worth(asked.prompts)
        )

    async def _decisions(
        self, call: _Call, asked: Asked, known: Sequence[Decision] | None
    ) -> tuple[Asked, Sequence[Decision]]:
        """What is asked, with the texts of token ids, and the decisions; none where those are not
        to be had.
        """
        assert asked.body is not None
        if asked.ids:
            model = asked.body.data.get("model")
            texts = await self._tokens.texts(call.scope, model, asked.ids)
            asked = replace(asked, prompts=[TextPrompt(text) for text in texts or ()])
            if texts is None:
                return asked, ()
        decisions = known
        if decisions is None:
            begun = time.perf_counter()
            queries = [prompt.in_context for prompt in asked.prompts]
            namespace = asked.options.namespace
            decisions = await self._decider.decide(queries, namespace, call.stamp)
            self._metrics.took("decide", time.perf_counter() - begun)
            for stage, spent in decisions[0].timings.items():
                self._metrics.took(stage.removesuffix("_ms"), spent / 1e3)
        return asked, decisions

    async def _by_hops(
        self, hops: Hops, call: _Call, asked: Asked, decisions: Sequence[Decision]
    ) -> list[Decision]:
        """The decisions, those on questions of several hops made hop by hop."""
        assert asked.body is not None
        begun = time.perf_counter()
        model, namespace = asked.body.data.get("model"), asked.options.namespace
        found = []
        for prompt, decision in zip(asked.prompts, decisions, strict=True):
            try:
                by_hops = await hops.decide(call.scope, model, prompt, namespace, call.stamp)
            except HopFailed as error:
                logger.warning("%s", error, extra=_extra(id=call.id))
                by_hops = None
            found.append(
                decision if by_hops is None else replace(by_hops, timings=decision.timings)
            )
        self._metrics.took("hops", time.perf_counter() - begun)
        return found

    async def _followed(
        self, call: _Call, asked: Asked, decisions: Sequence[Decision], known: bool
    ) -> Plan:
        """The plan that the decisions make."""
        assert asked.body is not None
        if not decisions:
            unread = "the server does not say what token ids mean"
            return replace(PASS, original=asked.original, reason=unread)
        self._metrics.decided(decisions, known=known)
        if not any(decision.edits for decision in decisions):
            return _passing(asked, decisions)
        if in_weights := await self._in_weights(call, asked, decisions):
            return in_weights
        if reason := call.surface.keeps_out(asked.body.data):
            return replace(_passing(asked, decisions), reason=reason)
        if marked := await self._marked(call, asked, decisions):
            return marked
        begun = time.perf_counter()
        ladders = await self._decider.run(lambda: self._ladders(asked, decisions))
        plan = await self._rewritten(call, asked, decisions, ladders)
        self._metrics.took("rewrite", time.perf_counter() - begun)
        if asked.options.route == AUTO and any(e.route == GRACE for e in plan.decision.edits):
            return replace(plan, reason=NO_CODEBOOK)
        return plan

    async def _marked(
        self, call: _Call, asked: Asked, decisions: Sequence[Decision]
    ) -> Plan | None:
        """The plan to have the engine's codebook answer, where it holds the edits and may."""
        assert asked.body is not None
        if self._marks is None or not call.surface.markable or asked.options.route != AUTO:
            return None
        (decision,) = decisions
        if decision.shown or any(edit.route == IN_CONTEXT for edit in decision.edits):
            return None
        marked = await self._marks.marked(
            call.scope, asked.body.data, asked.options.namespace, decision.edits
        )
        if marked is None:
            return None
        body = asked.body.with_members(marked.members)
        decision = replace(decision, route=GRACE, reasons=decision.reasons + marked.reasons)
        return Plan(decision, [body], asked.original, decisions=[decision])

    async def _in_weights(
        self, call: _Call, asked: Asked, decisions: Sequence[Decision]
    ) -> Plan | None:
        """The plan to have a version of the weights answer, where it holds all that is asked."""
        assert asked.body is not None
        if self._versions is None or asked.options.route != AUTO:
            return None
        if any(decision.shown or not decision.edits for decision in decisions):
            return None
        merged = _merged(decisions, WEIGHTS)
        if any(edit.route for edit in merged.edits):
            return None
        chat = isinstance(asked.prompts[0], ChatPrompt)
        serving = await self._versions.serving(call.scope, asked.body.data, merged.edits, chat=chat)
        if serving is None:
            return None
        body = asked.body.with_members({"model": serving.model})
        told = [replace(decision, route=WEIGHTS) for decision in decisions]
        return Plan(merged, [body], asked.original, decisions=told, serving=serving)

    def _ladders(self, asked: Asked, decisions: Sequence[Decision]) -> list[Sequence[Any]]:
        """The rewritten forms of each prompt; none of one that no edit is about."""
        named = asked.options.route
        return [
            self._routes[decision.route if named == AUTO else named].rewrites(
                prompt, decision.shown or decision.edits
            )
            if decision.edits
            else ()
            for prompt, decision in zip(asked.prompts, decisions, strict=True)
        ]

    async def _rewritten(
        self,
        call: _Call,
        asked: Asked,
        decisions: Sequence[Decision],
        ladders: Sequence[Sequence[Any]],
    ) -> Plan:
        assert asked.body is not None
        body, surface = asked.body, call.surface
        bodies = []
        for step in range(max(map(len, ladders))):
            chosen = [
                ladder[min(step, len(ladder) - 1)] if ladder else prompt
                for prompt, ladder in zip(asked.prompts, ladders, strict=True)
            ]
            if asked.ids:
                chosen = await self._as_ids(call, asked, chosen)
            bodies.append(body.replaced({surface.member: surface.write(body.data, chosen)}))
        edited = [decision for decision in decisions if decision.edits]
        route = edited[0].route if asked.options.route == AUTO else asked.options.route
        return Plan(_merged(edited, route), bodies, asked.original, decisions=decisions)

    async def _as_ids(self, call: _Call, asked: Asked, chosen: Sequence[Any]) -> list[Any]:
        """Rewritten texts as token ids; what is not rewritten keeps the ids that it came with."""
        assert asked.body is not None
        model = asked.body.data.get("model")
        found: list[Any] = []
        for prompt, own, ids in zip(chosen, asked.prompts, asked.ids, strict=True):
            written = (
                None if prompt is own else await self._tokens.ids(call.scope, model, prompt.text)
            )
            found.append(list(ids) if written is None else written)
        return found

    # sending it on

    def _may_speculate(self, call: _Call, asked: Asked) -> bool:
        return (
            self._settings.speculate
            and asked.body is not None
            and call.surface.repeatable(asked.body.data)
        )

    async def _speculate(self, call: _Call, asked: Asked) -> None:
        """Sends the caller's own request on while it is being decided on.

        Nothing of its answer goes out before the decision. Where an edit is to take part, the
        call is cancelled, which closes its connection, before the edited one is made.
        """
        held = Held()
        scope = call.scope if asked.original is None else _resized(call.scope, asked.original)
        ahead = asyncio.ensure_future(self._app(scope, call.request.replay(asked.original), held))
        call.speculated = "cancelled"
        try:
            plan = await self._planned(call, asked)
            if not plan.bodies:
                call.speculated = "kept"
        finally:
            self._metrics.speculated(call.speculated)
            if call.speculated == "cancelled":
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)
        if call.speculated == "kept":
            held.release(self._answering(call, plan))
            self._log(call, plan)
            await ahead
            return
        await self._send_on(call, plan)

    async def _send_on(self, call: _Call, plan: Plan) -> None:
        """Down the ladder while the prompt is too long: the caller's own body at last."""
        own = self._own_tokens(call, plan)
        try:
            for body in plan.bodies:
                attempt = Attempt(self._answering(call, plan, own))
                scope = _resized(call.scope, body)
                await self._app(scope, call.request.replay(body), attempt)
                if not attempt.refused:
                    self._log(call, plan)
                    return
                if not attempt.too_long:
                    break
        finally:
            if own is not None:
                own.cancel()
        if plan.bodies:
            passed = Decision(PASSTHROUGH, scope=plan.decision.scope)
            reason = NO_ROOM if attempt.too_long else "the server refused the edited request"
            plan = replace(plan, decision=passed, bodies=(), reason=reason, serving=None)
        self._log(call, plan)
        scope = call.scope if plan.original is None else _resized(call.scope, plan.original)
        await self._app(scope, call.request.replay(plan.original), self._answering(call, plan))

    def _own_tokens(self, call: _Call, plan: Plan) -> asyncio.Task[int | None] | None:
        """Counts the tokens of the caller's own prompts, while the answer is being made."""
        asked = call.asked
        if not plan.bodies or not self._settings.count_evidence:
            return None
        assert asked is not None
        assert asked.body is not None
        if asked.ids:
            return asyncio.ensure_future(_at_once(sum(map(len, asked.ids))))
        counts = call.surface.counts(asked.body.data)
        return asyncio.ensure_future(self._tokens.count(call.scope, counts)) if counts else None

    def _answering(self, call: _Call, plan: Plan, own: Awaitable[int | None] | None = None) -> Send:
        """The ``send`` for the response to a plan."""
        decision = plan.decision
        added = [
            (b"x-memedit-route", decision.route.encode("ascii")),
            *id_headers([edit.id for edit in decision.edits]),
            (b"x-memedit-scope", b"%.4f" % decision.scope),
            (b"x-memedit-request-id", call.id.encode("ascii")),
        ]
        if plan.reason:
            added.append((b"x-memedit-reason", plan.reason.encode("ascii", "replace")))
        send = tagging(call.send, added)
        explain = call.asked is not None and call.asked.options.explain
        if not explain and own is None and plan.serving is None:
            return send
        return Amended(
            send,
            explanation=explanation(plan) if explain else None,
            own=own,
            renamed=_renamed(plan.serving),
            counted=self._metrics.evidence,
        )

    async def _refuse(self, call: _Call, status: int, text: str, kind: str) -> None:
        """An error in the words and the form of the API."""
        send = tagging(call.send, [(b"x-memedit-request-id", call.id.encode("ascii"))])
        await respond(send, status, call.surface.error(text, kind, status))

    def _id(self, scope: Scope) -> str:
        """The request's own id where it has one that can be written down, a new one otherwise."""
        given = header(scope["headers"], b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return f"{self._run}-{next(self._numbers):x}"

    def _log(self, call: _Call, plan: Plan) -> None:
        """One record per request: the decision and milliseconds per stage, no prompt text."""
        decision = plan.decision
        prompts = len(plan.decisions) or 1
        self._metrics.routed(decision.route, prompts)
        spent = time.perf_counter() - call.started
        self._metrics.took("total", spent)
        if self._spans is None and not logger.isEnabledFor(logging.INFO):
            return
        ids = ",".join(edit.id for edit in decision.edits)
        stages = {name: round(ms, 1) for name, ms in decision.timings.items()}
        fields = {
            "id": call.id,
            "path": call.scope["path"],
            "route": decision.route,
            "edits": ids,
            "scope": round(decision.scope, 4),
            "total_ms": round(spent * 1e3, 1),
            "speculation": call.speculated,
            **stages,
            **({"reason": plan.reason} if plan.reason else {}),
        }
        if self._spans is not None:
            self._spans.record(call.scope, spent, fields)
        logger.info(
            "%s route=%s edits=%s scope=%.4f total_ms=%.1f%s%s id=%s",
            call.scope["path"],
            decision.route,
            ids or "-",
            decision.scope,
            spent * 1e3,
            "".join(f" {name}={ms}" for name, ms in stages.items()),
            f" reason={plan.reason!r}" if plan.reason else "",
            call.id,
            extra=_extra(**fields),
        )


def explanation(plan: Plan) -> dict[str, Any]:
    """Why a request was answered as it was, in the words of ``memedit explain``."""
    return {
        "route": plan.decision.route,
        "edits": [edit.id for edit in plan.decision.edits],
        "scope": round(plan.decision.scope, 4),
        "reason": plan.reason,
        "decisions": [
            {
                "route": decision.route,
                "scope": round(decision.scope, 4),
                "reasons": list(decision.reasons),
                "considered": [
                    {
                        "id": row.edit.id,
                        "statement": row.edit.statement,
                        "mention": row.mention,
                        "relation": None if row.relation is None else round(row.relation, 4),
                        "asked": row.asked,
                        "stated": row.stated,
                        "probability": round(row.probability, 4),
                        "accepted": row.accepted,
                    }
                    for row in decision.considered
                ],
            }
            for decision in plan.decisions
        ],
    }


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


def _surface(scope: Scope) -> Surface | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    return SURFACES.get(path_of(scope))


def _check_permitted(scope: Scope, options: Options) -> None:
    """Refuses what needs a key that the caller has not sent.

    Raises:
        NotPermitted: the namespace's edits, or their texts, are not for this caller.
        AccessFileError: the keys cannot be read.
    """
    access = access_of(scope)
    if not access.may_use(options.namespace):
        raise NotPermitted(
            f"the namespace {options.namespace!r} needs a key of memedit's that grants it, in "
            "X-Memedit-Key"
        )
    if options.explain and not access.may_read(options.namespace):
        raise NotPermitted(
            "memedit.explain shows edits, which needs a key of memedit's with the role read in "
            f"the namespace {options.namespace!r}, in X-Memedit-Key, or, as long as there are no "
            "keys, a caller on the same machine; leave explain out otherwise"
        )


def _merged(decisions: Sequence[Decision], route: str) -> Decision:
    """What a request's decisions come to, each of which has edits."""
    edits = {edit.id: edit for decision in decisions for edit in decision.edits}
    return Decision(
        route,
        tuple(edits.values()),
        scope=max(decision.scope for decision in decisions),
        timings=decisions[0].timings,
    )


def _passing(asked: Asked, decisions: Sequence[Decision]) -> Plan:
    """No edit takes part."""
    seen = max(decisions, key=lambda decision: decision.scope)
    passed = Decision(PASSTHROUGH, scope=seen.scope, timings=seen.timings)
    return Plan(passed, original=asked.original, decisions=decisions)


def _renamed(serving: Serving | None) -> dict[str, str]:
    """What stands in a response in the place of a version's names."""
    return {} if serving is None else dict.fromkeys((serving.model, serving.name), serving.own)


def _resized(scope: Scope, body: bytes) -> Scope:
    """The scope for another body: its length, and no content encoding."""
    changed = (b"content-length", b"content-encoding", b"transfer-encoding")
    headers = [(k, v) for k, v in scope["headers"] if k not in changed]
    return {**scope, "headers": [*headers, (b"content-length", b"%d" % len(body))]}


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


async def _at_once(value: int) -> int:
    return value


def _extra(**fields: Any) -> dict[str, Any]:
    """Fields of a log record, for whoever writes it as JSON."""
    return {"memedit": fields}
