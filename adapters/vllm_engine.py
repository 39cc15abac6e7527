"""``vllm.LLM`` in process, answering with the edits of a memory.

The wrapped engine has the engine's own ``generate`` and ``chat``, with their parameters and their
results. Prompts that no edit is about go to the engine as the very objects that came in. The
result of an edited prompt carries the caller's own prompt, and every result has the decision that
was made for it as ``output.memedit``.
"""

from __future__ import annotations

import functools
import inspect
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memedit.adapters._wrapping import NO_ROOM, passed
from memedit.assemble import Parts, assemble
from memedit.config import Config, load
from memedit.memory import EditMemory
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Decision

ROOM = 256
"""Tokens that evidence leaves for an answer whose sampling parameters state no maximum."""

SHOWS_PROMPT = "prompt_logprobs is set, and the result would show the evidence"


def wrap(
    llm: Any, memory: EditMemory, *, namespace: str | None = None, config: Config | None = None
) -> WrappedLLM:
    """The engine with a memory of edits.

    Args:
        llm: a ``vllm.LLM``.
        memory: an open memory; edits added to it, by whichever process, act from the next call.
        namespace: the namespace that answers; the configuration's by default.
        config: the configuration; the environment's by default.

    Raises:
        MemeditError: a part cannot be made; the message says which and what to do.
    """
    config = config or load()
    return WrappedLLM(llm, assemble(config, memory), namespace or config.memory.namespace)


@dataclass(frozen=True, slots=True)
class _Edited:
    """What was put in the place of a caller's prompt.

    Attributes:
        sent: the prompt in the engine's form, with the evidence.
        decision: the decision that put it there.
        text, ids: the caller's own prompt as the engine would have reported it.
    """

    sent: Any
    decision: Decision
    text: str | None
    ids: list[int]


class WrappedLLM:
    """A ``vllm.LLM`` whose answers follow a memory; what it does not define, the engine does."""

    def __init__(self, llm: Any, parts: Parts, namespace: str) -> None:
        self._llm = llm
        self._parts = parts
        self._namespace = namespace
        self._limit: int = llm.model_config.max_model_len
        self.generate = _like(llm.generate, self._generate)
        self.chat = _like(llm.chat, self._chat)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def decide(self, queries: Sequence[str]) -> list[Decision]:
        """What would happen to these queries, before any model is called."""
        return self._parts.router.decide(queries, self._namespace)

    def _generate(self, call: inspect.BoundArguments) -> list[Any]:
        given = call.arguments["prompts"]
        single = isinstance(given, (str, Mapping)) or _is_ids(given)
        prompts = [given] if single else list(given)
        tokenizer = self._llm.get_tokenizer()
        views = [_view(prompt, tokenizer) for prompt in prompts]
        decisions = self._decisions([view.in_context if view else "" for view in views])
        for i, budget in enumerate(self._budgets(call, len(prompts))):
            view = views[i]
            if view is not None and decisions[i].edits:
                decisions[i], prompts[i] = self._edited(
                    decisions[i],
                    view,
                    budget,
                    build=functools.partial(_rebuilt, prompts[i], view, tokenizer=tokenizer),
                    count=functools.partial(_ids_of, tokenizer=tokenizer),
                    caller=(_text_of(prompts[i]), _ids_of(prompts[i], tokenizer=tokenizer)),
                )
        sent = [p.sent if isinstance(p, _Edited) else p for p in prompts]
        call.arguments["prompts"] = given if sent == prompts else sent
        return _reported(self._llm.generate(*call.args, **call.kwargs), prompts, decisions)

    def _chat(self, call: inspect.BoundArguments) -> list[Any]:
        given = call.arguments["messages"]
        single = not given or isinstance(given[0], Mapping)
        chats: list[Any] = [given] if single else list(given)
        views = [ChatPrompt(tuple(chat)) for chat in chats]
        resumes = call.arguments.get("continue_final_message", False)
        decisions = self._decisions(["" if resumes else view.in_context for view in views])
        render = self._renderer(call)
        for i, budget in enumerate(self._budgets(call, len(chats))):
            if decisions[i].edits:
                decisions[i], chats[i] = self._edited(
                    decisions[i],
                    views[i],
                    budget,
                    build=lambda rewrite: list(rewrite.messages),
                    count=lambda messages: render(messages)[1],
                    caller=render(chats[i]),
                )
        sent = [c.sent if isinstance(c, _Edited) else c for c in chats]
        call.arguments["messages"] = given if sent == chats else sent[0] if single else sent
        return _reported(self._llm.chat(*call.args, **call.kwargs), chats, decisions)

    def _decisions(self, queries: Sequence[str]) -> list[Decision]:
        return self._parts.router.decide(queries, self._namespace)

    def _edited(
        self,
        decision: Decision,
        view: ChatPrompt | TextPrompt,
        budget: int | None,
        *,
        build: Callable[[Any], Any],
        count: Callable[[Any], list[int]],
        caller: tuple[str | None, list[int]],
    ) -> tuple[Decision, Any]:
        """The richest rewrite that leaves the answer its room, else the caller's own prompt.

        Args:
            decision: names the route and the edits.
            view: the caller's prompt.
            budget: tokens that the answer may take; ``None`` keeps evidence out.
            build: a rewritten view in the engine's form.
            count: the token ids of a prompt in the engine's form.
            caller: text and ids of the caller's prompt.
        """
        text, ids = caller
        if budget is None:
            return passed(decision, SHOWS_PROMPT), build(view)
        room = min(budget, self._limit - len(ids))
        for rewrite in self._parts.routes[decision.route].rewrites(view, decision.edits):
            sent = build(rewrite)
            if len(count(sent)) + room <= self._limit:
                return decision, _Edited(sent, decision, text, ids)
        return passed(decision, NO_ROOM), build(view)

    def _budgets(self, call: inspect.BoundArguments, n: int) -> list[int | None]:
        """Per prompt, the answer's longest length in tokens; ``None`` where evidence would show."""
        params = call.arguments.get("sampling_params")
        if params is None:
            params = self._llm.get_default_sampling_params()
        each = list(params) if isinstance(params, Sequence) else [params] * n
        budgets = [
            None if getattr(p, "prompt_logprobs", None) is not None else p.max_tokens or ROOM
            for p in each
        ]
        return budgets[:n] + [ROOM] * (n - len(budgets))

    def _renderer(self, call: inspect.BoundArguments) -> Callable[[Any], tuple[str, list[int]]]:
        """Text and ids of a conversation, rendered as the engine renders it for this call."""
        tokenizer = self._llm.get_tokenizer()
        options = dict(call.arguments.get("chat_template_kwargs") or {})
        options["add_generation_prompt"] = call.arguments.get("add_generation_prompt", True)
        for option in ("chat_template", "tools"):
            if call.arguments.get(option) is not None:
                options[option] = call.arguments[option]

        def render(messages: Any) -> tuple[str, list[int]]:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            return text, tokenizer.encode(text, add_special_tokens=False)

        return render


def _like(
    method: Callable[..., list[Any]], handle: Callable[[inspect.BoundArguments], list[Any]]
) -> Callable[..., list[Any]]:
    """A function with the signature of ``method`` that hands its bound arguments over."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> list[Any]:
        return handle(signature.bind(*args, **kwargs))

    return call


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], int)


def _text_of(prompt: Any) -> str | None:
    return prompt if isinstance(prompt, str) else _member(prompt, "prompt")


def _member(prompt: Any, name: str) -> Any:
    return prompt.get(name) if isinstance(prompt, Mapping) else None


def _token_ids(prompt: Any) -> list[int] | None:
    ids = prompt if _is_ids(prompt) else _member(prompt, "prompt_token_ids")
    return None if ids is None else list(ids)


def _view(prompt: Any, tokenizer: Any) -> TextPrompt | None:
    """The prompt as text; ``None`` for embeddings and the like, which pass."""
    if (ids := _token_ids(prompt)) is not None:
        return TextPrompt(tokenizer.decode(ids, skip_special_tokens=False))
    text = _text_of(prompt)
    return TextPrompt(text) if isinstance(text, str) else None


def _ids_of(prompt: Any, *, tokenizer: Any) -> list[int]:
    ids = _token_ids(prompt)
    return list(tokenizer.encode(_text_of(prompt))) if ids is None else ids


def _rebuilt(prompt: Any, view: TextPrompt, rewrite: TextPrompt, *, tokenizer: Any) -> Any:
    """``prompt`` in its own form, with what ``rewrite`` put into ``view``.

    Token ids keep the caller's own on both sides of the evidence; where the question does not
    start at a token, the evidence goes in front of the token that it starts in.
    """
    if rewrite is view:
        return prompt
    if (ids := _token_ids(prompt)) is None:
        return rewrite.text if isinstance(prompt, str) else {**prompt, "prompt": rewrite.text}
    start, _ = view.span
    added = rewrite.text[start : start + len(rewrite.text) - len(view.text)]
    lengths = [
        len(tokenizer.decode(ids[:n], skip_special_tokens=False)) for n in range(len(ids) + 1)
    ]
    at = bisect_left(lengths, start)
    at -= lengths[at] > start
    evidence = tokenizer.encode(added, add_special_tokens=False)
    spliced = [*ids[:at], *evidence, *ids[at:]]
    if _is_ids(prompt):
        return spliced
    return {**prompt, "prompt_token_ids": spliced}


def _reported(
    outputs: list[Any], prompts: Sequence[Any], decisions: Sequence[Decision]
) -> list[Any]:
    """The engine's results, each with its decision and, where it was edited, its own prompt."""
    for output, prompt, decision in zip(outputs, prompts, decisions, strict=True):
        output.memedit = decision
        if isinstance(prompt, _Edited):
            output.prompt, output.prompt_token_ids = prompt.text, prompt.ids
    return outputs
