"""Which requests carry prompts, where they stand in the body, and how they are put back.

One class per path of OpenAI's API that edits apply to. A path that is not listed is passed on
unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from memedit.prompt import ChatPrompt, TextPrompt


class Surface(Protocol):
    """Reads the prompts out of a request body, and writes rewritten ones back."""

    member: str
    """The member of the body that holds them."""

    def read(self, body: Mapping[str, Any]) -> Sequence[ChatPrompt | TextPrompt]:
        """The prompts, one decision each; empty where the body holds none that can be read."""

    def write(self, body: Mapping[str, Any], prompts: Sequence[Any]) -> Any:
        """The member's new value; ``prompts`` are as many as :meth:`read` gave."""

    def keeps_out(self, body: Mapping[str, Any]) -> str | None:
        """Why evidence may not be put into this request, or ``None`` where it may."""


class ChatCompletions:
    """``POST /v1/chat/completions``."""

    member = "messages"

    def read(self, body: Mapping[str, Any]) -> Sequence[ChatPrompt]:
        """The conversation, where it is a list of messages."""
        messages = body.get(self.member)
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            return []
        return [ChatPrompt(tuple(messages))]

    def write(self, body: Mapping[str, Any], prompts: Sequence[ChatPrompt]) -> Any:
        """The messages of the one conversation."""
        return list(prompts[0].messages)

    def keeps_out(self, body: Mapping[str, Any]) -> str | None:
        """Answers that repeat the prompt would show evidence as if the caller had written it."""
        return _shows_prompt(body)


class Completions:
    """``POST /v1/completions``. Token ids pass: only the engine knows what they say."""

    member = "prompt"

    def read(self, body: Mapping[str, Any]) -> Sequence[TextPrompt]:
        """The prompt, or the prompts where it is a list of texts."""
        prompt = body.get(self.member)
        if isinstance(prompt, str):
            return [TextPrompt(prompt)]
        if isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
            return [TextPrompt(text) for text in prompt]
        return []

    def write(self, body: Mapping[str, Any], prompts: Sequence[TextPrompt]) -> Any:
        """A text for a text, a list for a list."""
        texts = [prompt.text for prompt in prompts]
        return texts[0] if isinstance(body.get(self.member), str) else texts

    def keeps_out(self, body: Mapping[str, Any]) -> str | None:
        """As for chat; a suffix also means that the text goes on behind the answer."""
        return _shows_prompt(body) or ("suffix is set" if body.get("suffix") else None)


_SHOWING = (
    "echo",
    "prompt_logprobs",
    "continue_final_message",
    "return_token_ids",
    "return_prompt_text",
)

SURFACES: Mapping[str, Surface] = {
    "/v1/chat/completions": ChatCompletions(),
    "/v1/completions": Completions(),
}


def _shows_prompt(body: Mapping[str, Any]) -> str | None:
    for member in _SHOWING:
        # 0 is set as well: prompt_logprobs of 0 are the prompt's own tokens.
        if (value := body.get(member)) is not None and value is not False:
            return f"{member} is set, and the answer would show the evidence"
    return None
