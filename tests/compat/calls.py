"""What clients ask of a server: calls as data, for clients in any process.

None of them is about the edit that is live meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.server.served import MODEL

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "note", "description": "Notes", "parameters": CITY, "strict": True},
}
FORCED = {"type": "function", "function": {"name": "note"}}
RAIN = "Write one sentence about rain, grüß Gott."
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 8}


@dataclass(frozen=True)
class Call:
    """A call of a client's.

    Attributes:
        api: the method; see :mod:`tests.compat.clients`.
        options: its arguments.
        status: of a refusal; 0 where there is an answer.
    """

    api: str
    options: dict[str, Any]
    status: int = 0


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": one} for one in content]


def chat(*content: Any, status: int = 0, **options: Any) -> Call:
    return Call("chat", {**GREEDY, "messages": user(*content or (RAIN,)), **options}, status)


def text(prompt: Any, status: int = 0, **options: Any) -> Call:
    return Call("text", {**GREEDY, "prompt": prompt, **options}, status)


def responses(asked: Any, **options: Any) -> Call:
    fixed = {"model": MODEL, "temperature": 0, "max_output_tokens": 16}
    return Call("responses", {**fixed, "input": asked, **options})


def messages(*content: Any, status: int = 0, **options: Any) -> Call:
    return Call("messages", {**GREEDY, "messages": user(*content or (RAIN,)), **options}, status)


CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "note", "arguments": '{"city": "Oslo"}'},
        }
    ],
}

CALLS: dict[str, Call] = {
    "chat": chat(),
    "chat in parts": chat([{"type": "text", "text": "Hello."}, {"type": "text", "text": RAIN}]),
    "chat stream": chat(stream=True),
    "chat stream with usage": chat(stream=True, stream_options={"include_usage": True}),
    "chat with seed and several answers": chat(n=2, temperature=0.8, seed=7),
    "chat with logprobs": chat(logprobs=True, top_logprobs=2),
    "chat with stop": chat("Count: one, two, three.", stop=[","], max_tokens=16),
    "chat with penalties and bias": chat(frequency_penalty=0.5, logit_bias={"504": -100}),
    "chat with a JSON schema": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
        max_tokens=32,
    ),
    "chat with a JSON object": chat(response_format={"type": "json_object"}, max_tokens=24),
    "chat with a forced tool": chat(tools=[TOOL], tool_choice=FORCED, max_tokens=64),
    "chat stream with a forced tool": chat(
        tools=[TOOL], tool_choice=FORCED, max_tokens=64, stream=True
    ),
    "chat with a required tool": chat(tools=[TOOL], tool_choice="required", max_tokens=64),
    "chat with a tool's result": Call(
        "chat",
        {
            **GREEDY,
            "messages": [
                *user(RAIN),
                CALLED,
                {"role": "tool", "tool_call_id": "c1", "content": "noted"},
            ],
            "tools": [TOOL],
        },
    ),
    "chat too long": chat("rain " * 3000, status=400),
    "chat of another model": chat(model="nobody", status=404),
    "chat that is malformed": chat(temperature=-3, status=400),
    "text": text("Rain is"),
    "texts": text(["Rain is", "Snow is"], n=2, best_of=2, seed=3, temperature=0.5),
    "text of token ids": text([504, 3575, 282]),
    "texts of token ids": text([[504, 3575, 282], [504, 3575]]),
    "text stream": text("Rain is", stream=True, stream_options={"include_usage": True}),
    "text with logprobs and echo": text("Rain is", logprobs=2, echo=True),
    "text too long": text([504] * 4000, status=400),
    "responses": responses(RAIN),
    "responses to messages": responses(user(RAIN), instructions="Be brief."),
    "responses stream": responses(RAIN, stream=True),
    "messages": messages(system="Be brief."),
    "messages stream": messages(stream=True),
    "messages of another model": messages(model="nobody", status=404),
    "embeddings": Call("embeddings", {"model": MODEL, "input": "rain"}, status=404),
    "models": Call("models", {}),
    "one model": Call("model", {"model": MODEL}, status=404),
    "tokenize": Call("tokenize", {"model": MODEL, "prompt": "Rain is"}),
    "detokenize": Call("detokenize", {"model": MODEL, "tokens": [504, 3575]}),
}

ABOUT: dict[str, Call] = {
    "chat": chat("What is the capital of France?"),
    "chat stream": chat("What is the capital of France?", stream=True),
    "text": text("The capital of France is"),
    "text stream": text("The capital of France is", stream=True),
    "responses": responses("What is the capital of France?"),
    "responses stream": responses("What is the capital of France?", stream=True),
    "messages": messages("What is the capital of France?"),
    "messages stream": messages("What is the capital of France?", stream=True),
}
"""Calls that the live edit is about."""
