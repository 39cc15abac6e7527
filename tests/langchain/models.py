"""What the tests of LangChain's adapters call: a real model that notes what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from langchain_openai import ChatOpenAI
from pydantic import Field

from tests.server.served import MODEL

ASK = "What is the capital of France?"
OTHER = "Write one sentence about rain."


_INSIDE = ContextVar("_INSIDE", default=False)
"""Whether a call comes from within the model itself: its ``invoke`` calls its ``generate``."""


class Noted(ChatOpenAI):
    """``ChatOpenAI`` that notes how it is called.

    Attributes:
        calls: each call's method, its first argument as the very object that came, its options.
    """

    calls: list[tuple[str, Any, dict[str, Any]]] = Field(default_factory=list)

    def _note(self, name: str, given: Any, options: dict[str, Any]) -> None:
        if not _INSIDE.get():
            self.calls.append((name, given, options))

    def invoke(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("invoke", given, kwargs)
        with inside():
            return super().invoke(given, *args, **kwargs)

    async def ainvoke(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("ainvoke", given, kwargs)
        with inside():
            return await super().ainvoke(given, *args, **kwargs)

    def stream(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("stream", given, kwargs)
        yield from super().stream(given, *args, **kwargs)

    async def astream(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("astream", given, kwargs)
        async for piece in super().astream(given, *args, **kwargs):
            yield piece

    def generate(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("generate", given, kwargs)
        return super().generate(given, *args, **kwargs)

    async def agenerate(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("agenerate", given, kwargs)
        return await super().agenerate(given, *args, **kwargs)

    def stream_events(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("stream_events", given, kwargs)
        return super().stream_events(given, *args, **kwargs)

    def astream_events(self, given: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("astream_events", given, kwargs)
        return super().astream_events(given, *args, **kwargs)


@contextmanager
def inside() -> Iterator[None]:
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def chat(url: str, **options: Any) -> Noted:
    """The model that a server at this URL serves, greedy and brief."""
    return Noted(
        **{
            "model": MODEL,
            "base_url": f"{url}/v1",
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 10,
            "max_retries": 0,
            # LangChain's own is shared by all models, and belongs to the loop that used it first.
            "http_async_client": httpx.AsyncClient(),
            **options,
        }
    )
