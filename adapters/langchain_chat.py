"""Any LangChain chat model, answering with the edits of a memory.

The wrapped model is called by its public methods only, with the caller's own input where no edit
is about it, and else with the messages that a route makes of it. So callbacks, caches, rate limits
and traces are the wrapped model's own and see what was really sent. An answer that an edit took
part in says so in its ``response_metadata["memedit"]``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable, RunnableParallel, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import Field

from memedit.adapters._wrapping import NO_ROOM, passed
from memedit.assemble import assemble
from memedit.config import Config, load
from memedit.errors import Unsupported
from memedit.memory import EditMemory
from memedit.prompt import ChatPrompt, Message
from memedit.protocols import Decision
from memedit.server.answers import REFUSING, is_too_long
from memedit.server.surfaces import ChatCompletions

T = TypeVar("T")

TOLD = "memedit"
"""The member of ``response_metadata`` that says which edits took part in an answer."""

REFUSED = "the model refused the prompt with evidence"

_OWN = "message"
"""The member of a turn that holds the message it was made of."""


def wrap(
    model: Any, memory: EditMemory, *, namespace: str | None = None, config: Config | None = None
) -> WrappedChatModel:
    """The chat model with a memory of edits.

    Args:
        model: a LangChain chat model.
        memory: an open memory; edits added to it, by whichever process, act from the next call.
        namespace: the namespace that answers; the configuration's by default.
        config: the configuration; the environment's by default.

    Raises:
        Unsupported: it is another thing of LangChain's than a chat model.
        MemeditError: a part cannot be made; the message says which and what to do.
    """
    if not isinstance(model, BaseChatModel):
        raise Unsupported(
            f"memedit wraps LangChain's chat models, and a {type(model).__name__} is none; wrap "
            "the chat model itself, and bind tools or build chains with what comes of it"
        )
    config = config or load()
    return WrappedChatModel(
        wrapped=model,
        parts=assemble(config, memory),
        namespace=namespace or config.memory.namespace,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is sent for one input.

    Attributes:
        forms: inputs for the wrapped model, the richest first; the last is the caller's own.
        decision: that an edit is about it; ``None`` where none is.
    """

    forms: Sequence[Any]
    decision: Decision | None = None

    def following(self, at: int, error: Exception) -> tuple[int, str] | None:
        """The form to send after a refusal, and why; ``None`` where the error is the caller's.

        After a refusal for another reason than length it is the caller's own, so that the error
        is about the caller's own words.
        """
        last = len(self.forms) - 1
        if at == last:
            return None
        if isinstance(error, ContextOverflowError):
            return at + 1, NO_ROOM
        status = getattr(error, "status_code", None)
        if status not in REFUSING:
            return None
        return (at + 1, NO_ROOM) if is_too_long(status, str(error).encode()) else (last, REFUSED)

    def told(self, at: int, reason: str) -> Decision | None:
        """The decision that an answer shows, for which that many forms were refused."""
        if (
            self.decision is None
            or at < len(self.forms) - 1
            or not reason
            or not self.decision.edits
        ):
            return self.decision
        return passed(self.decision, reason)


class WrappedChatModel(BaseChatModel):
    """A chat model whose answers follow a memory; make one with :func:`memedit.wrap`.

    What is no option of it is looked up on the wrapped model (``llm.model_name``,
    ``llm.temperature``). Callbacks, tags, cache, rate limiter and the like are set on that, too.

    Attributes:
        wrapped: the chat model that answers.
        parts: a :class:`memedit.assemble.Parts`: memory, router and routes.
        namespace: the namespace of edits that answers.
    """

    wrapped: BaseChatModel
    parts: Any = Field(exclude=True, repr=False)
    namespace: str

    def __getattr__(self, name: str) -> Any:
        wrapped = self.__dict__.get("wrapped")
        if wrapped is None or name.startswith("_"):
            return super().__getattr__(name)
        return getattr(wrapped, name)

    def decide(self, queries: Sequence[str]) -> list[Decision]:
        """What would happen to these queries, before any model is called.

        Raises:
            MemeditError: as :meth:`memedit.router.Router.decide`, here and in every call.
        """
        decisions: list[Decision] = self.parts.router.decide(queries, self.namespace)
        return decisions

    # calls

    def invoke(
        self, input: Any, config: Any = None, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Any:
        """The wrapped model's answer."""
        asked = self._asked_once(input, kwargs)
        message, sent = _answered(
            asked, lambda form: self.wrapped.invoke(form, config, stop=stop, **kwargs)
        )
        return _telling(message, asked.told(*sent))

    async def ainvoke(
        self, input: Any, config: Any = None, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Any:
        """The wrapped model's answer."""
        asked = await asyncio.to_thread(self._asked_once, input, kwargs)
        message, sent = await _aanswered(
            asked, lambda form: self.wrapped.ainvoke(form, config, stop=stop, **kwargs)
        )
        return _telling(message, asked.told(*sent))

    def stream(
        self, input: Any, config: Any = None, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """The wrapped model's answer in pieces; the first says which edits took part."""
        asked = self._asked_once(input, kwargs)

        def begin(form: Any) -> tuple[list[Any], Any]:
            pieces = self.wrapped.stream(form, config, stop=stop, **kwargs)
            return list(itertools.islice(pieces, 1)), pieces

        (begun, pieces), sent = _answered(asked, begin)
        for piece in begun:
            yield _telling(piece, asked.told(*sent))
        yield from pieces

    async def astream(
        self, input: Any, config: Any = None, *, stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """The wrapped model's answer in pieces; the first says which edits took part."""
        asked = await asyncio.to_thread(self._asked_once, input, kwargs)

        async def begin(form: Any) -> tuple[list[Any], Any]:
            pieces = self.wrapped.astream(form, config, stop=stop, **kwargs)
            async for piece in pieces:
                return [piece], pieces
            return [], pieces

        (begun, pieces), sent = await _aanswered(asked, begin)
        async with aclosing(pieces):
            for piece in begun:
                yield _telling(piece, asked.told(*sent))
            async for piece in pieces:
                yield piece

    def batch(self, inputs: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        """One answer an input; all are decided on together."""
        options = _call_options(kwargs)
        return list(super().batch(self._asked(inputs, options), config, **kwargs))

    async def abatch(self, inputs: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        """One answer an input; all are decided on together."""
        asked = await asyncio.to_thread(self._asked, inputs, _call_options(kwargs))
        return list(await super().abatch(asked, config, **kwargs))

    def generate(
        self,
        messages: Any,
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The wrapped model's answers; where it refuses one with evidence, all get less of it."""
        asked = self._asked(messages, kwargs)
        result, sent = _answered(
            _together(asked, messages),
            lambda form: self.wrapped.generate(form, stop, callbacks, **kwargs),
        )
        return _telling_each(result, [one.told(*sent) for one in asked])

    async def agenerate(
        self,
        messages: Any,
        stop: list[str] | None = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The wrapped model's answers; where it refuses one with evidence, all get less of it."""
        asked = await asyncio.to_thread(self._asked, messages, kwargs)
        result, sent = await _aanswered(
            _together(asked, messages),
            lambda form: self.wrapped.agenerate(form, stop, callbacks, **kwargs),
        )
        return _telling_each(result, [one.told(*sent) for one in asked])

    def stream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """The wrapped model's events; those of version 3 do not say which edits took part."""
        if version != "v3":
            return super().stream_events(input, config, version=version, **kwargs)
        asked = self._asked_once(input, kwargs)

        def begin(form: Any) -> Any:
            stream = self.wrapped.stream_events(form, config, version=version, **kwargs)
            if form is not asked.forms[-1]:
                next(iter(stream), None)  # a refusal shows with the first event, which is kept
            return stream

        return _answered(asked, begin)[0]

    def astream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        """The wrapped model's events; those of version 3 do not say which edits took part."""
        if version != "v3":
            return super().astream_events(input, config, version=version, **kwargs)
        return self._astream_v3(input, config, **kwargs)

    async def _astream_v3(self, asking: Any, config: Any, **kwargs: Any) -> Any:
        asked = await asyncio.to_thread(self._asked_once, asking, kwargs)

        async def begin(form: Any) -> Any:
            stream = await self.wrapped.astream_events(form, config, version="v3", **kwargs)
            if form is not asked.forms[-1]:
                await anext(aiter(stream), None)  # see stream_events
            return stream

        return (await _aanswered(asked, begin))[0]

    def _generate(
        self,
        messages: list[Any],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Any:
        """For those who call it themselves: all of LangChain's own ways in are above."""
        callbacks = run_manager.get_child() if run_manager is not None else None
        result = self.generate([messages], stop, callbacks, **kwargs)
        return ChatResult(generations=result.generations[0], llm_output=result.llm_output)

    # what is made of the model

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        """As the wrapped model binds them.

        Raises:
            Unsupported: what comes of it hides the model, so that edits could not act.
        """
        return self._inside(self.wrapped.bind_tools(tools, tool_choice=tool_choice, **kwargs))

    def with_structured_output(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model does it.

        Raises:
            Unsupported: as :meth:`bind_tools`.
        """
        return self._inside(self.wrapped.with_structured_output(*args, **kwargs))

    def _inside(self, made: Any) -> Any:
        """What the wrapped model made of itself, made of this one."""
        if (found := self._instead(made)) is made:
            raise Unsupported(
                f"{type(self.wrapped).__name__} makes a {type(made).__name__} of itself, in which "
                "memedit does not find the model; bind what it takes yourself (llm.bind(...)), or "
                "put memedit in front of its server (memedit serve --upstream URL)"
            )
        return found

    def _instead(self, made: Any) -> Any:
        """A runnable with this model for the wrapped one; the same object where it has none."""
        if isinstance(made, BaseChatModel):
            return self if made is self.wrapped else self.model_copy(update={"wrapped": made})
        inner: list[Runnable]
        if isinstance(made, RunnableBindingBase):
            inner = [made.bound]
        elif isinstance(made, RunnableSequence):
            inner = made.steps
        elif isinstance(made, RunnableParallel):
            inner = list(made.steps__.values())
        else:
            return made
        changed = [self._instead(one) for one in inner]
        if all(one is other for one, other in zip(changed, inner, strict=True)):
            return made
        if isinstance(made, RunnableBindingBase):
            update: dict[str, Any] = {"bound": changed[0]}
        elif isinstance(made, RunnableSequence):
            update = {"first": changed[0], "middle": changed[1:-1], "last": changed[-1]}
        else:
            update = {"steps__": dict(zip(made.steps__, changed, strict=True))}
        return made.model_copy(update=update)

    # what it says of itself

    def get_token_ids(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model has them."""
        return self.wrapped.get_token_ids(*args, **kwargs)

    def get_num_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model counts them."""
        return self.wrapped.get_num_tokens(*args, **kwargs)

    def get_num_tokens_from_messages(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model counts them, without evidence."""
        return self.wrapped.get_num_tokens_from_messages(*args, **kwargs)

    def _resolve_model_profile(self) -> Any:
        return self.wrapped.profile

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.wrapped._get_ls_params(stop=stop, **kwargs)

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        params: Mapping[str, Any] = self.wrapped._identifying_params
        return params

    @property
    def _llm_type(self) -> str:
        return str(self.wrapped._llm_type)

    # what is asked

    def _asked_once(self, asking: Any, options: Mapping[str, Any]) -> _Asked:
        return asking if isinstance(asking, _Asked) else self._asked([asking], options)[0]

    def _asked(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[_Asked]:
        """What is sent for each of these inputs, decided on together."""
        prompts = [self._prompt(one) for one in inputs]
        about = [i for i, prompt in enumerate(prompts) if prompt.query.strip()]
        decisions = self.decide([prompts[i].in_context for i in about]) if about else []
        asked = [_Asked([one]) for one in inputs]
        reason = self._keeps_out(options)
        for i, decision in zip(about, decisions, strict=True):
            if decision.edits and reason:
                asked[i] = _Asked([inputs[i]], passed(decision, reason))
            elif decision.edits:
                rewrites = self.parts.routes[decision.route].rewrites(prompts[i], decision.edits)
                forms = [[_message(turn) for turn in prompt.messages] for prompt in rewrites]
                asked[i] = _Asked([*forms, inputs[i]], decision)
        return asked

    def _prompt(self, asking: Any) -> ChatPrompt:
        """An input as a chat; an empty one where it is for the wrapped model to refuse."""
        try:
            messages = self._convert_input(asking).to_messages()
        except Exception:  # noqa: BLE001 - whatever it is, the wrapped model says what is wrong
            messages = []
        return ChatPrompt(tuple(_turn(message) for message in messages))

    def _keeps_out(self, options: Mapping[str, Any]) -> str | None:
        """Why evidence would show in the answer to a call with these options, if it would."""
        said: dict[str, Any] = {}
        for given in (
            getattr(self.wrapped, "model_kwargs", None),
            getattr(self.wrapped, "extra_body", None),
            options,
            options.get("extra_body"),
        ):
            said |= given if isinstance(given, Mapping) else {}
        return ChatCompletions().keeps_out(said)


def _call_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a batch's arguments say of each call in it."""
    return {name: value for name, value in kwargs.items() if name != "return_exceptions"}


def _turn(message: BaseMessage) -> Message:
    """A message in OpenAI's form, with the message itself."""
    role = message.type
    if isinstance(message, ChatMessage):
        role = message.role
    if isinstance(message, HumanMessage) or role == "human":
        role = "user"
    content = message.content
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    return {"role": role, "content": content, _OWN: message}


def _part(part: Any) -> Any:
    return {"type": "text", "text": part} if isinstance(part, str) else part


def _message(turn: Message) -> BaseMessage:
    """A turn as a message: the caller's own object where nothing was put into it."""
    own = turn.get(_OWN)
    content = turn["content"]
    if own is None:
        return (HumanMessage if turn["role"] == "user" else AIMessage)(content=content)
    if not isinstance(content, str):
        pairs = zip(own.content, content, strict=True)
        content = [before if _part(before) == after else after for before, after in pairs]
    return own if content == own.content else own.model_copy(update={"content": content})


def _together(asked: Sequence[_Asked], inputs: Any) -> _Asked:
    """What is sent for several inputs in one call; at last the caller's own object."""
    steps = max((len(one.forms) for one in asked), default=1)
    richer = [[one.forms[min(step, len(one.forms) - 1)] for one in asked] for step in range(steps)]
    return _Asked([*richer[:-1], inputs])


def _answered(asked: _Asked, send: Callable[[Any], T]) -> tuple[T, tuple[int, str]]:
    """What comes of the first form that is not refused, how many were, and why."""
    at, reason = 0, ""
    while True:
        try:
            return send(asked.forms[at]), (at, reason)
        except Exception as error:
            if (following := asked.following(at, error)) is None:
                raise
            at, reason = following


async def _aanswered(
    asked: _Asked, send: Callable[[Any], Awaitable[T]]
) -> tuple[T, tuple[int, str]]:
    """:func:`_answered`, of a coroutine."""
    at, reason = 0, ""
    while True:
        try:
            return await send(asked.forms[at]), (at, reason)
        except Exception as error:
            if (following := asked.following(at, error)) is None:
                raise
            at, reason = following


def _telling(message: Any, decision: Decision | None) -> Any:
    """A message, or the first piece of one, that says which edits took part in it."""
    if decision is None:
        return message
    said = {
        "route": decision.route,
        "edits": [edit.id for edit in decision.edits],
        "scope": decision.scope,
        "reasons": list(decision.reasons),
    }
    metadata = {**message.response_metadata, TOLD: said}
    return message.model_copy(update={"response_metadata": metadata})


def _telling_each(result: Any, decisions: Sequence[Decision | None]) -> Any:
    """The answers to several inputs, each of which says which edits took part in it."""
    if not any(decisions):
        return result
    generations = [
        [one.model_copy(update={"message": _telling(one.message, decision)}) for one in answers]
        for answers, decision in zip(result.generations, decisions, strict=True)
    ]
    return result.model_copy(update={"generations": generations})
