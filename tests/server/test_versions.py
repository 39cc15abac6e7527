"""A request that a version of the weights answers: another model's name, and no byte besides."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.assemble import Parts
from memedit.config import Config, IKEConfig, MemoryConfig
from memedit.edits import Edit, structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.router import Router
from memedit.routes.ike import IKE
from memedit.server.app import Served
from memedit.server.asgi import Scope
from memedit.server.freshness import Stamp
from memedit.server.middleware import Serving
from tests.server.front import Mentioned
from tests.server.scripted import Answer, Scripted

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
FRANCE = structured("France", "The capital of {} is", "Lyon", id="france")
ITALY = structured("Italy", "The capital of {} is", "Oslo", id="italy")
SPAIN = structured("Spain", "The capital of {} is", "Nice", id="spain")
MALTA = structured("Malta", "The capital of {} is", "Bath", id="malta", route="ike")
CRETE = structured("Crete", "The capital of {} is", "Rome", id="crete", route="grace")


class Held:
    """A version of some edits that takes texts alone.

    Attributes:
        followed: how often it was told to look at the memory.
    """

    def __init__(self, *edits: Edit) -> None:
        self._ids = {edit.id for edit in edits}
        self.followed = 0

    def follow(self, scope: Scope, stamp: Stamp | None) -> None:
        assert scope["type"] == "http"
        self.followed += 1

    async def serving(
        self, scope: Scope, body: Mapping[str, Any], edits: Sequence[Edit], *, chat: bool
    ) -> Serving | None:
        known = {edit.id for edit in edits} <= self._ids and not chat
        return Serving("secret", "v1", "base") if known else None


def answering(path: str, body: Any) -> Answer:
    if path == "/tokenize":
        return 200, {"count": 7, "tokens": []}
    usage = {"prompt_tokens": 7, "completion_tokens": 1}
    model = body.get("model", "base")
    name = "v1" if model == "secret" else model
    choice = {"text": "a", "model": model}
    return 200, {"model": name, "choices": [choice], "usage": usage}


class Asking:
    """A served application with a version, and what was asked of the application."""

    def __init__(self, client: httpx.AsyncClient, app: Scripted, held: Held) -> None:
        self.client, self.app, self.held = client, app, held

    async def __call__(
        self, raw: str, path: str = TEXT, encoding: str = "utf-8"
    ) -> tuple[httpx.Response, dict[str, Any]]:
        """The response, and the body that the application got."""
        response = await self.client.post(path, content=raw.encode(encoding))
        asked = self.app.bodies(path)
        return response, asked[-1] if asked else {}


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Asking]:
    encoder = HashEncoder()
    config = Config(memory=MemoryConfig(path=tmp_path / "memory.sqlite3"))
    memory = EditMemory(config.memory.path, encoder)
    memory.add([FRANCE, ITALY, SPAIN, MALTA, CRETE])
    routes = {IKE.name: IKE(IKEConfig(), encoder)}
    app, held = Scripted(answering), Held(FRANCE, ITALY, MALTA, CRETE)
    parts = Parts(memory, Router(memory, Mentioned()), routes)
    served = Served(app, parts, config, versions=held)
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield Asking(client, app, held)
    await served.aclose()


def told(response: httpx.Response) -> tuple[str, str, str]:
    """Route, edits, and the model that the response names."""
    headers = response.headers
    model = response.json()["model"]
    assert response.json()["choices"][0]["model"] == model
    return headers["x-memedit-route"], headers.get("x-memedit-edits", ""), model


async def test_the_name_alone_is_another(ask: Asking) -> None:
    raw = '{"prompt":"The capital of France is",  "seed": 1.0, "model" : "base"}'
    response, body = await ask(raw)
    assert told(response) == ("weights", "france", "base")
    assert body == {**json.loads(raw), "model": "secret"}
    assert response.json()["usage"]["memedit_evidence_tokens"] == 0
    response, body = await ask('{"prompt": "The capital of France is"}')
    assert (told(response)[2], body["model"]) == ("base", "secret")
    assert ask.held.followed == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
async def test_a_body_is_read_in_every_encoding_that_servers_read(
    ask: Asking, encoding: str
) -> None:
    response, body = await ask('{"prompt": "Is it France?", "model": "base"}', encoding=encoding)
    assert (told(response), body["model"]) == (("weights", "france", "base"), "secret")
    response, body = await ask('{"prompt": "Is it Spain?", "model": "base"}', encoding=encoding)
    assert (told(response)[:2], "Nice" in body["prompt"]) == (("ike", "spain"), True)


async def test_all_prompts_of_a_request_or_none(ask: Asking) -> None:
    response, body = await ask('{"prompt": ["Is it France?", "Is it Italy?"], "model": "base"}')
    assert told(response) == ("weights", "france,italy", "base")
    for others in ('"Is it Spain?"', '"Is it far?"'):
        response, body = await ask(f'{{"prompt": ["Is it France?", {others}], "model": "base"}}')
        assert told(response)[0] == "ike"
        assert (body["model"], "Lyon" in body["prompt"][0]) == ("base", True)
    response, body = await ask('{"prompt": "Is it far?", "model": "base"}')
    assert (told(response), body["model"]) == (("passthrough", "", "base"), "base")


async def test_what_a_version_does_not_take_the_memory_answers(ask: Asking) -> None:
    turn = '"messages": [{"role": "user", "content": "Is it France?"}]'
    response, body = await ask(f'{{{turn}, "model": "base"}}', CHAT)
    assert (told(response)[:2], body["model"]) == (("ike", "france"), "base")
    named = '{"prompt": "Is it France?", "model": "base", "memedit": {"route": "ike"}}'
    assert told((await ask(named))[0])[0] == "ike"


async def test_an_edit_that_says_who_answers_it_is_not_answered_by_the_weights(
    ask: Asking,
) -> None:
    for prompt in ('"Is it Malta?"', '"Is it Crete?"', '["Is it France?", "Is it Malta?"]'):
        response, body = await ask(f'{{"prompt": {prompt}, "model": "base"}}')
        assert (told(response)[0], body["model"]) == ("ike", "base")


async def test_the_explanation_says_so(ask: Asking) -> None:
    raw = '{"prompt": "Is it France?", "model": "base", "memedit": {"explain": true}}'
    response, _ = await ask(raw)
    explained = response.json()["memedit"]
    assert (explained["route"], explained["decisions"][0]["route"]) == ("weights", "weights")
    assert response.json()["model"] == "base"
