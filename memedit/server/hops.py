"""A multi-hop question inside a server: its hops are asked of the application behind memedit.

What a hop needs of the model is a request of memedit's own, put to the same application with the
caller's own key; what it needs of the memory is a decision like any other. Only a question that
is read as one of several hops costs anything, and where none of its hops is edited, nothing of it
shows.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from memedit.multihop.chain import Look, Nearest, Outcome
from memedit.multihop.decompose import Decomposer, may_be_nested, nested
from memedit.multihop.drive import follow
from memedit.multihop.guided import guided
from memedit.multihop.route import NAME
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Decision, Generation, Request
from memedit.server.asgi import ASGIApp, Headers, Scope, asked
from memedit.server.decider import Decider
from memedit.server.freshness import Stamp

logger = logging.getLogger("memedit.server")

_KEYS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_REMEMBERED = 4_096


class HopFailed(Exception):
    """The application did not answer a hop."""


class Hops:
    """Answers questions hop by hop.

    Args:
        app: the application behind memedit.
        decider: decides on each hop.
        decomposer: reads the questions.
    """

    def __init__(self, app: ASGIApp, decider: Decider, decomposer: Decomposer) -> None:
        self._app = app
        self._decider = decider
        self._decomposer = decomposer
        self._without: OrderedDict[tuple[str, str, Any], None] = OrderedDict()
        self._version: object = None

    def worth(self, prompts: Sequence[Any]) -> bool:
        """Whether one of these prompts may be a question of several hops; reads no model."""
        return any(may_be_nested(prompt.query) for prompt in prompts)

    async def decide(
        self,
        scope: Scope,
        model: Any,
        prompt: ChatPrompt | TextPrompt,
        namespace: str,
        stamp: Stamp | None,
    ) -> Decision | None:
        """The decision on a question of several hops; ``None`` where memedit has no part in it.

        Args:
            scope: of the request on whose behalf hops are asked.
            model: what the request calls its model.
            prompt: the caller's.
            namespace: whose edits.
            stamp: of now; what has no edited hop is remembered for as long as it holds.

        Raises:
            HopFailed: the application does not answer.
        """
        if not may_be_nested(prompt.query):
            return None
        key = (namespace, prompt.query, model)
        if stamp is None or stamp.version != self._version:
            self._without.clear()
            self._version = None if stamp is None else stamp.version
        elif key in self._without:
            return None
        (readings,) = await self._decider.run(lambda: self._decomposer.read([prompt.query]))
        several = nested(readings)
        outcome: Outcome | None = None
        if several:

            async def say(request: Request) -> Generation:
                return await self._say(scope, model, request)

            async def look(step: Look | Nearest) -> list[Decision]:
                assert isinstance(step, Look)
                return await self._decider.decide(step.queries, namespace)

            chat = isinstance(prompt, ChatPrompt)
            outcome = await follow(guided(several, chat=chat), say, look)
        if outcome is None or not outcome.edits:
            self._without[key] = None
            while len(self._without) > _REMEMBERED:
                self._without.popitem(last=False)
            return None
        return Decision(
            NAME,
            outcome.edits,
            scope=1.0,
            reasons=(*(hop.told() for hop in outcome.hops), *filter(None, [outcome.reason])),
            shown=outcome.facts,
        )

    async def _say(self, scope: Scope, model: Any, request: Request) -> Generation:
        prompt = request.prompt
        body: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "stop": list(request.stop),
            "temperature": 0,
            **({} if model is None else {"model": model}),
        }
        if isinstance(prompt, ChatPrompt):
            path, own = "/v1/chat/completions", {"messages": list(prompt.messages)}
        else:
            path, own = "/v1/completions", {"prompt": prompt.text}
        headers: Headers = [pair for pair in scope["headers"] if pair[0].lower() in _KEYS]
        raw = json.dumps({**body, **own}).encode()
        status, answer = await asked(self._app, scope, "POST", path, raw, headers)
        try:
            if status != 200:
                raise ValueError(f"status {status}")
            told = json.loads(answer)
            choice = told["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            usage = told.get("usage") or {}
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise HopFailed(f"the server did not answer a hop: {error}") from error
        tokens = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        return Generation(text or "", *tokens)
