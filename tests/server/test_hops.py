"""Questions of several hops through the proxy: what goes upstream, and what comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.assemble import assemble
from memedit.config import Config, MemoryConfig, MultiHopConfig, ServerConfig
from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.multihop.route import NAME
from memedit.protocols import Encoder
from memedit.server.app import ProxyApp
from memedit.server.asgi import Receive, Scope, Send
from memedit.server.listen import server
from tests.server.tap import waited_for
from tests.server.upstream import Upstream

CITIZEN = structured("Mira Solberg", "{} is a citizen of", "Peru", id="citizen")
CAPITAL = structured("Chile", "The capital of {} is", "Arica", id="capital")
ASK = "What is the capital of the country that Mira Solberg is a citizen of?"


class Knows:
    """An upstream with OpenAI's chats that knows some answers, and keeps what it was sent.

    Attributes:
        bodies: of the requests for an answer, as they came.
        keys: their ``authorization`` headers.
    """

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.bodies: list[bytes] = []
        self.keys: list[bytes | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["path"] != "/v1/chat/completions":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        self.bodies.append(body)
        self.keys.append(dict(scope["headers"]).get(b"authorization"))
        asked = json.loads(body)
        said = self.answers.get(asked["messages"][-1]["content"], "The answer.")
        if asked.get("stream"):
            kind, pieces = (
                b"text/event-stream",
                [
                    b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % word.encode()
                    for word in said.split()
                ]
                + [b"data: [DONE]\n\n"],
            )
        else:
            kind, pieces = (
                b"application/json",
                [
                    json.dumps(
                        {
                            "choices": [{"message": {"role": "assistant", "content": said}}],
                            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
                        }
                    ).encode()
                ],
            )
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Running:
    """The proxy in front of a :class:`Knows`."""

    def __init__(self, upstream: str, knows: Knows, folder: Path, encoder: Encoder) -> None:
        self.knows = knows
        config = Config(
            memory=MemoryConfig(path=folder / "memory.sqlite3"),
            multihop=MultiHopConfig(enabled=True),
            server=ServerConfig(port=0, speculate=False),
        )
        self.memory = EditMemory(config.memory.path, encoder)
        app = ProxyApp(upstream, config, assemble(config, self.memory))
        self._server = server(app, config.server)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        waited_for(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"

    def ask(self, text: str, **more: Any) -> tuple[bytes, httpx.Response]:
        body = json.dumps(
            {"model": "m", "messages": [{"role": "user", "content": text}], **more}
        ).encode()
        headers = {"content-type": "application/json", "authorization": "Bearer mine"}
        return body, httpx.post(self.url, content=body, headers=headers, timeout=60)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture
def running(tmp_path: Path, encoder: Encoder) -> Iterator[Running]:
    knows = Knows(
        {
            "What is the capital of Peru?": "Lima",
            "What is the country of citizenship of Ole Brandt?": "Chile",
            "What is the country of citizenship of Una Voss?": "Norway",
        }
    )
    with Upstream(app=knows) as upstream:
        made = Running(upstream.url, knows, tmp_path, encoder)
        made.memory.add([CITIZEN, CAPITAL])
        yield made
        made.stop()


def test_the_facts_of_all_hops_stand_in_front_of_the_callers_words(running: Running) -> None:
    _, response = running.ask(ASK)
    assert response.headers["x-memedit-route"] == NAME
    assert response.headers["x-memedit-edits"] == "citizen"
    hop, last = (json.loads(body)["messages"] for body in running.knows.bodies)
    assert hop[-1]["content"] == "What is the capital of Peru?"
    (turn,) = last
    assert turn["content"].endswith(ASK)
    facts = "Mira Solberg is a citizen of Peru. The capital of Peru is Lima."
    assert facts in turn["content"]
    assert set(running.knows.keys) == {b"Bearer mine"}


def test_it_streams_and_explains_the_chain(running: Running) -> None:
    _, response = running.ask(ASK, stream=True, memedit={"explain": True})
    assert response.headers["content-type"] == "text/event-stream"
    first = json.loads(response.text.split("\n")[0].removeprefix("data: "))
    reasons = first["memedit"]["decisions"][0]["reasons"]
    assert reasons[0] == "What is the country of citizenship of Mira Solberg? Peru (citizen)"
    assert reasons[1] == "What is the capital of Peru? Lima (the model)"
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_later_hop_is_found_through_the_models_own_answer(running: Running) -> None:
    _, response = running.ask(ASK.replace("Mira Solberg", "Ole Brandt"))
    assert response.headers["x-memedit-edits"] == "capital"
    assert "The capital of Chile is Arica." in running.knows.bodies[-1].decode()


def test_without_an_edited_hop_the_callers_bytes_go_on_and_later_ones_at_once(
    running: Running,
) -> None:
    sent, response = running.ask(ASK.replace("Mira Solberg", "Una Voss"))
    assert response.headers["x-memedit-route"] == "passthrough"
    assert "x-memedit-edits" not in response.headers
    assert running.knows.bodies[-1] == sent
    asked = len(running.knows.bodies)
    running.ask(ASK.replace("Mira Solberg", "Una Voss"))
    assert len(running.knows.bodies) == asked + 1  # no hop is asked again


@pytest.mark.parametrize("text", ["What is the capital of Norway?", "Write a poem about rain."])
def test_other_prompts_cost_no_hop(running: Running, text: str) -> None:
    sent, _ = running.ask(text)
    assert running.knows.bodies == [sent]


def test_a_caller_can_leave_it_out(running: Running) -> None:
    _, response = running.ask(ASK, memedit={"route": "passthrough"})
    assert response.headers["x-memedit-route"] == "passthrough"
    assert len(running.knows.bodies) == 1


def test_an_upstream_that_refuses_hops_gets_the_callers_request(
    tmp_path: Path, encoder: Encoder
) -> None:
    class Refuses(Knows):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            sent: list[Any] = []

            async def keep(message: Any) -> None:
                sent.append(message)

            await super().__call__(scope, receive, keep)
            hop = self.bodies and b'"stop"' in self.bodies[-1]
            for message in sent:
                if message["type"] == "http.response.start" and hop:
                    message = {**message, "status": 500}
                await send(message)

    knows = Refuses({})
    with Upstream(app=knows) as upstream:
        made = Running(upstream.url, knows, tmp_path, encoder)
        made.memory.add([CAPITAL])
        sent, response = made.ask(ASK.replace("Mira Solberg", "Ole Brandt"))
        made.stop()
    assert response.status_code == 200
    assert knows.bodies[-1] == sent
