"""Clients that people have, each asked in the same words and each answering with JSON.

An answer is what the client made of it, as plain data: an object, a list of a stream's events, or
``{"refused": status, "said": message}``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import anthropic
import openai

from memedit.config import cache_folder
from tests.compat.calls import Call


class Client(Protocol):
    """Asks a server."""

    @property
    def apis(self) -> frozenset[str]:
        """The methods that it has."""

    def ask(self, url: str, call: Call) -> Any:
        """What comes of a call to the server at this URL, which is given without ``/v1``."""


class OpenAIClient:
    """OpenAI's own client."""

    _METHODS: Mapping[str, Callable[[openai.OpenAI], Callable[..., Any]]] = {
        "chat": lambda client: client.chat.completions.create,
        "text": lambda client: client.completions.create,
        "responses": lambda client: client.responses.create,
        "embeddings": lambda client: client.embeddings.create,
        "models": lambda client: client.models.list,
        "model": lambda client: lambda model: client.models.retrieve(model),
        "tokenize": lambda client: _posting(client, "/tokenize"),
        "detokenize": lambda client: _posting(client, "/detokenize"),
    }
    apis = frozenset(_METHODS)

    def ask(self, url: str, call: Call) -> Any:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            try:
                return dumped(self._METHODS[call.api](client)(**call.options))
            except openai.APIStatusError as error:
                return {"refused": error.status_code, "said": error.message, "body": error.body}


def _posting(client: openai.OpenAI, path: str) -> Callable[..., Any]:
    root = client.with_options(base_url=str(client.base_url).removesuffix("v1/"))
    return lambda **options: root.post(path, body=options, cast_to=object)


class AnthropicClient:
    """Anthropic's own client."""

    apis = frozenset({"messages"})

    def ask(self, url: str, call: Call) -> Any:
        with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            try:
                # Its newest releases have no argument for the temperature, and the API has.
                options = dict(call.options)
                extra = {"temperature": options.pop("temperature")}
                return dumped(client.messages.create(**options, extra_body=extra))
            except anthropic.APIStatusError as error:
                return {"refused": error.status_code, "said": error.message, "body": error.body}


def dumped(answer: Any) -> Any:
    """An answer as plain data."""
    if isinstance(answer, (openai.Stream, anthropic.Stream)):
        return [event.model_dump(mode="json") for event in answer]
    return answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer


class LiteLLMClient:
    """LiteLLM as a client, in a process and an environment of its own.

    Args:
        folder: the environment.
    """

    apis = frozenset({"chat", "text", "responses", "messages", "embeddings"})

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def home() -> Path:
        """Where its environment is looked for, besides where ``benchmarks/proxy.py`` makes one."""
        return cache_folder() / "benchmarks" / "litellm"

    @classmethod
    def folder(cls) -> Path | None:
        """An environment that somebody has made for it."""
        found = sorted(cls.home().parent.glob("litellm*/bin/python"))
        return found[-1].parent.parent if found else None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [self._folder / "bin" / "python", Path(__file__).with_name("litellm_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def ask(self, url: str, call: Call) -> Any:
        line = json.dumps({"url": url, "api": call.api, "options": call.options})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "LiteLLM's process ended"
        told = json.loads(answer)
        assert not isinstance(told, dict) or "failed" not in told, told
        return told
