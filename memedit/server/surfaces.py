"""Which requests carry prompts, where they stand in the body, and how they are put back.

One class per path that edits apply to. A path that is not listed is passed on unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.server.asgi import error_body

Body = Mapping[str, Any]
Prompt = ChatPrompt | TextPrompt
Count = tuple[str, dict[str, Any]]
"""A path that counts tokens, and the body to send there."""


class Surface(Protocol):
    """Reads the prompts out of a request body, and writes rewritten ones back."""

    member: str
    """The member of the body that holds them."""

    markable: bool
    """Whether a request holds one prompt, and vLLM's members that mark it for a codebook."""

    def read(self, body: Body) -> Sequence[Prompt]:
        """The prompts, one decision each; empty where the body holds none that can be read."""

    def tokens(self, body: Body) -> Sequence[Sequence[int]]:
        """The prompts of a body that gives them as token ids; empty where it does not."""

    def write(self, body: Body, prompts: Sequence[Any]) -> Any:
        """The member's new value; ``prompts`` are as many as :meth:`read` gave."""

    def keeps_out(self, body: Body) -> str | None:
        """Why evidence may not be put into this request, or ``None`` where it may."""

    def repeatable(self, body: Body) -> bool:
        """Whether a call that is cut off leaves nothing behind upstream."""

    def counts(self, body: Body) -> Sequence[Count]:
        """The requests that together count the tokens of the caller's own prompts, if any."""

    def error(self, message: str, kind: str, status: int) -> dict[str, Any]:
        """An error in this API's form."""


class _OpenAI:
    """What most of these APIs have in common."""

    markable = False

    def tokens(self, body: Body) -> Sequence[Sequence[int]]:
        """None: prompts are made of texts."""
        return ()

    def keeps_out(self, body: Body) -> str | None:
        """Answers that repeat the prompt would show evidence as if the caller had written it."""
        return _shows_prompt(body)

    def repeatable(self, body: Body) -> bool:
        """Unless something is to be stored."""
        return not body.get("store")

    def error(self, message: str, kind: str, status: int) -> dict[str, Any]:
        """As OpenAI's."""
        return error_body(message, kind, status if status >= 500 else None)


class ChatCompletions(_OpenAI):
    """``POST /v1/chat/completions``."""

    member = "messages"
    markable = True

    def read(self, body: Body) -> Sequence[ChatPrompt]:
        """The conversation, where it is a list of messages."""
        return _conversation(body.get(self.member))

    def write(self, body: Body, prompts: Sequence[ChatPrompt]) -> Any:
        """The messages of the one conversation."""
        return list(prompts[0].messages)

    def counts(self, body: Body) -> Sequence[Count]:
        """VLLM's ``/tokenize``, with whatever else decides on the chat's rendering."""
        return [("/tokenize", _only(body, "messages", *_RENDERING))]


class BatchChatCompletions(ChatCompletions):
    """``POST /v1/chat/completions/batch`` of vLLM: a list of conversations, one decision each."""

    markable = False

    def read(self, body: Body) -> Sequence[ChatPrompt]:
        """The conversations; none where one of them cannot be read."""
        chats = body.get(self.member)
        if not isinstance(chats, list):
            return []
        found = [_conversation(chat) for chat in chats]
        return [chat[0] for chat in found] if all(found) else []

    def write(self, body: Body, prompts: Sequence[ChatPrompt]) -> Any:
        """A list of lists of messages."""
        return [list(prompt.messages) for prompt in prompts]

    def counts(self, body: Body) -> Sequence[Count]:
        """One count a conversation."""
        rendering = _only(body, *_RENDERING)
        return [("/tokenize", {"messages": chat, **rendering}) for chat in body[self.member]]


class Completions(_OpenAI):
    """``POST /v1/completions``: a text, texts, token ids, or lists of token ids."""

    member = "prompt"

    def read(self, body: Body) -> Sequence[TextPrompt]:
        """The prompt, or the prompts where it is a list of texts."""
        prompt = body.get(self.member)
        if isinstance(prompt, str):
            return [TextPrompt(prompt)]
        if isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt):
            return [TextPrompt(text) for text in prompt]
        return []

    def tokens(self, body: Body) -> Sequence[Sequence[int]]:
        """The ids of each prompt."""
        prompt = body.get(self.member)
        if not isinstance(prompt, list) or not prompt:
            return ()
        if _are_ids(prompt):
            return [prompt]
        return (
            prompt if all(isinstance(ids, list) and ids and _are_ids(ids) for ids in prompt) else ()
        )

    def write(self, body: Body, prompts: Sequence[Any]) -> Any:
        """A text for a text, a list for a list; token ids where they are given instead."""
        values = [p.text if isinstance(p, TextPrompt) else p for p in prompts]
        asked = body.get(self.member)
        is_one = isinstance(asked, str) or (isinstance(asked, list) and _are_ids(asked))
        return values[0] if is_one else values

    def keeps_out(self, body: Body) -> str | None:
        """As for chat; a suffix also means that the text goes on behind the answer."""
        return super().keeps_out(body) or ("suffix is set" if body.get("suffix") else None)

    def counts(self, body: Body) -> Sequence[Count]:
        """One count a text; token ids count themselves."""
        options = _only(body, "model", "add_special_tokens")
        return [("/tokenize", {"prompt": prompt.text, **options}) for prompt in self.read(body)]


class Responses(_OpenAI):
    """``POST /v1/responses``: a text, or a list of items of which some are messages."""

    member = "input"

    def read(self, body: Body) -> Sequence[ChatPrompt]:
        """The messages among the items, in the places where they stand."""
        asked = body.get(self.member)
        if isinstance(asked, str):
            return [ChatPrompt(({"role": "user", "content": asked},))]
        return _conversation(asked)

    def write(self, body: Body, prompts: Sequence[ChatPrompt]) -> Any:
        """A text for a text, where it is still one turn."""
        items = list(prompts[0].messages)
        return (
            items[0]["content"] if isinstance(body[self.member], str) and len(items) == 1 else items
        )

    def keeps_out(self, body: Body) -> str | None:
        """As for chat, and where the response lists the messages that it was made from."""
        if body.get("enable_response_messages"):
            return "enable_response_messages is set, and the answer would show the evidence"
        return super().keeps_out(body)

    def repeatable(self, body: Body) -> bool:
        """Only where nothing is stored: by default a response is."""
        return body.get("store") is False and not body.get("background")

    def counts(self, body: Body) -> Sequence[Count]:
        """As for chat, where all items are plain messages and nothing else is put before them."""
        if body.get("previous_response_id") or body.get("tools") or body.get("prompt"):
            return ()
        turns = [] if not body.get("instructions") else [_system(body["instructions"])]
        (prompt,) = self.read(body)
        for item in prompt.messages:
            if item.get("type", "message") != "message" or not isinstance(item.get("content"), str):
                return ()
            turns.append({"role": item.get("role"), "content": item["content"]})
        options = _only(body, "model", "chat_template_kwargs")
        return [("/tokenize", {"messages": turns, **options})]


class Messages(_OpenAI):
    """``POST /v1/messages``, Anthropic's API."""

    member = "messages"

    def read(self, body: Body) -> Sequence[ChatPrompt]:
        """The conversation. A user turn of nothing but tool results asks nothing by itself."""
        found = _conversation(body.get(self.member))
        return [ChatPrompt(tuple(_tool_turn(m) for m in prompt.messages)) for prompt in found]

    def write(self, body: Body, prompts: Sequence[ChatPrompt]) -> Any:
        """The messages, tool results as the user's again."""
        return [m.get("_turn", m) for m in prompts[0].messages]

    def counts(self, body: Body) -> Sequence[Count]:
        """The API's own count."""
        said = _only(body, "model", "messages", "system", "tools", "tool_choice", "thinking")
        return [("/v1/messages/count_tokens", said)]

    def error(self, message: str, kind: str, status: int) -> dict[str, Any]:
        """As Anthropic's."""
        return {"type": "error", "error": {"type": kind, "message": message}}


_SHOWING = (
    "echo",
    "prompt_logprobs",
    "continue_final_message",
    "return_token_ids",
    "return_prompt_text",
)
_RENDERING = ("model", "tools", "add_generation_prompt", "chat_template", "chat_template_kwargs")

SURFACES: Mapping[str, Surface] = {
    "/v1/chat/completions": ChatCompletions(),
    "/v1/chat/completions/batch": BatchChatCompletions(),
    "/v1/completions": Completions(),
    "/v1/messages": Messages(),
    "/v1/responses": Responses(),
}


def _conversation(messages: object) -> Sequence[ChatPrompt]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return []
    return [ChatPrompt(tuple(messages))]


def _tool_turn(message: Message) -> Message:
    """A turn of nothing but tool results under the role that it has elsewhere."""
    content = message.get("content")
    if not isinstance(content, list) or not content or message.get("role") != "user":
        return message
    if all(isinstance(b, dict) and b.get("type") == "tool_result" for b in content):
        return {"role": "tool", "_turn": message}
    return message


def _system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _are_ids(values: Sequence[object]) -> bool:
    return all(type(value) is int for value in values)


def _only(body: Body, *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def _shows_prompt(body: Body) -> str | None:
    for member in _SHOWING:
        # 0 is set as well: prompt_logprobs of 0 are the prompt's own tokens.
        if (value := body.get(member)) is not None and value is not False:
            return f"{member} is set, and the answer would show the evidence"
    return None
