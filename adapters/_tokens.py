"""What engines that tokenize for themselves share: prompts and forced continuations as token ids.

A text becomes tokens as a server does it, with the special tokens that the tokenizer puts in
front; a chat is rendered with the tokenizer's own template, which writes them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from memedit.errors import InvalidInput, Unsupported
from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.protocols import Capability

SEAM = " "
"""Stands between a text and its continuation; a chat's template ends where the answer starts."""


@dataclass(frozen=True, slots=True)
class Forced:
    """A prompt with a continuation, tokenized as one text.

    Attributes:
        ids: all token ids.
        start: the first token that reaches past the prompt's characters, at least 1; the
            continuation is ``ids[start:]``.
    """

    ids: list[int]
    start: int


def capabilities(tokenizer: Any) -> frozenset[Capability]:
    """What a tokenizer allows an engine to do."""
    can: set[Capability] = {"generate"}
    if tokenizer.is_fast:
        can.add("score")  # only these tell where in the text a token stands
    if getattr(tokenizer, "chat_template", None):
        can.add("chat")
        if "score" in can:
            can.add("score_chats")
    return frozenset(can)


def prompt_ids(prompts: Iterable[Any], tokenizer: Any) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        InvalidInput: a chat cannot be rendered.
        Unsupported: the model has no chat template.
    """
    found = []
    for i, prompt in enumerate(prompts):
        text, special = _rendered(i, prompt, tokenizer)
        found.append(list(tokenizer.encode(text, add_special_tokens=special)))
    return found


def forced(prompts: Sequence[Any], continuations: Sequence[str], tokenizer: Any) -> list[Forced]:
    """Each prompt with its continuation; merges across the seam are the tokenizer's own.

    Raises:
        InvalidInput: the two lists do not match, or one of a pair is empty.
        Unsupported: the tokenizer does not tell where its tokens stand.
    """
    check_pairs(prompts, continuations)
    if prompts and not tokenizer.is_fast:
        raise Unsupported("scoring needs a fast tokenizer: this one gives no character offsets")
    found = []
    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        text, special = _rendered(i, prompt, tokenizer)
        whole = text + (SEAM if isinstance(prompt, TextPrompt) else "") + continuation
        encoded = tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True)
        past = [at for at, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(text)]
        if not past or past[0] == 0:
            raise nothing_before(i)
        found.append(Forced(list(encoded["input_ids"][: past[-1] + 1]), past[0]))
    return found


def check_pairs(prompts: Sequence[Any], continuations: Sequence[str]) -> None:
    """Raises InvalidInput where the lists differ in length or a continuation is empty."""
    if len(prompts) != len(continuations):
        raise InvalidInput(
            f"there are {len(prompts)} prompts and {len(continuations)} continuations; "
            "each prompt takes one"
        )
    for i, continuation in enumerate(continuations):
        if not continuation:
            raise InvalidInput(f"continuation {i} is empty; nothing is left to score")


def check_budget(max_tokens: int) -> None:
    """Raises InvalidInput where an answer may not have a single token."""
    if max_tokens < 1:
        raise InvalidInput(f"max_tokens is {max_tokens}; an answer takes at least 1")


def check_fits(lengths: Iterable[int], limit: int, what: str) -> None:
    """Raises InvalidInput for the first length, in tokens, that leaves no room for an answer."""
    for i, length in enumerate(lengths):
        if length >= limit:
            raise InvalidInput(
                f"{what} {i} is {length} tokens long and the model takes {limit}, one of them for "
                "the answer; shorten it, or raise max_model_len where the model allows it"
            )


def wrong_kind(i: int, prompt: object) -> InvalidInput:
    """What is wrong with something that is no prompt."""
    return InvalidInput(
        f"prompt {i} is a {type(prompt).__name__}; expected a ChatPrompt or a TextPrompt"
    )


def nothing_before(i: int) -> InvalidInput:
    """What is wrong with a prompt whose continuation would start the text."""
    return InvalidInput(f"prompt {i} has no tokens; a continuation needs something before it")


def short_name(model: str) -> str:
    """The last part of a folder or hub name: a report names the model, not the machine."""
    return Path(model).resolve().name if Path(model).is_dir() else Path(model).name


def versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _rendered(i: int, prompt: Any, tokenizer: Any) -> tuple[str, bool]:
    """A prompt's text, and whether special tokens are still to be put in front of it."""
    if isinstance(prompt, TextPrompt):
        return prompt.text, True
    if not isinstance(prompt, ChatPrompt):
        raise wrong_kind(i, prompt)
    if not getattr(tokenizer, "chat_template", None):
        raise Unsupported(
            f"prompt {i} is a chat and the model has no chat template; ask it with a TextPrompt"
        )
    messages = [_plain(i, message) for message in prompt.messages]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise InvalidInput(f"prompt {i}: the model's chat template refuses it: {error}") from error
    return str(text), False


def _plain(i: int, message: Message) -> Mapping[str, Any]:
    """The message with its text parts joined, which is the form that every template reads."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    try:
        return {**message, "content": "\n".join(part["text"] for part in content)}
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"prompt {i} has a {message.get('role')} turn that is not all text; "
            "this engine takes texts only"
        ) from error
