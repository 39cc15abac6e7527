"""vLLM checks API keys behind its middleware: memedit asks the same check first."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.adapters import vllm_server as adapter
from memedit.config import variable
from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.server.keys import Keys

ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture
def app(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's own stack of middleware, memedit's in it, around a route that echoes."""
    register = pytest.importorskip(
        "vllm.entrypoints.serve.middleware.register", reason="vLLM is not installed"
    )
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    path = tmp_path / "memory.sqlite3"
    monkeypatch.setenv(variable("memory", "path"), str(path))
    with EditMemory(path, encoder) as memory:
        memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
    app = FastAPI()

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    app.add_route("/v1/chat/completions", echo, methods=["POST"])
    app.add_route("/health", echo, methods=["GET"])
    arguments = Namespace(
        allowed_origins=["*"],
        allow_credentials=False,
        allowed_methods=["*"],
        allowed_headers=["*"],
        api_key=["key-one", "key-two"],
        enable_request_id_headers=True,
        middleware=[adapter.MIDDLEWARE],
    )
    register.init_entrypoints_middleware(arguments, app, ("generate",))
    return app


def ask(
    app: Any, method: str, path: str, headers: dict[str, str], **members: Any
) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            content = json.dumps(ASK | members) if method == "POST" else None
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(run())


def test_who_has_no_key_learns_nothing(app: Any) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic key-one"},
        {"authorization": "key-one"},
        {"x-memedit-namespace": "bad name"},
        {"x-memedit-bypass": "1"},
    ):
        got = ask(app, "POST", "/v1/chat/completions", headers)
        assert got.status_code == 401
        assert "Lyon" not in got.text
        assert not [name for name in got.headers if name.startswith("x-memedit")]


@pytest.mark.parametrize("key", ["key-one", "key-two"])
def test_who_has_a_key_gets_the_edits(app: Any, key: str) -> None:
    got = ask(app, "POST", "/v1/chat/completions", {"authorization": f"Bearer {key}"})
    assert got.status_code == 200
    assert got.headers["x-memedit-edits"] == "capital"
    assert "Lyon" in got.json()["messages"][-1]["content"]


def test_what_needs_no_key_still_needs_none(app: Any) -> None:
    assert ask(app, "GET", "/health", {}).status_code == 200
    got = ask(
        app,
        "OPTIONS",
        "/v1/chat/completions",
        {"origin": "http://a", "access-control-request-method": "POST"},
    )
    assert got.status_code == 200


def test_memedits_keys_are_asked_for_beside_vllms(app: Any, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "memory.sqlite3")
    bound = {"x-memedit-key": keys.add("team", "read", ("team",))[1]}
    everywhere = {"x-memedit-key": keys.add("prometheus", "read")[1]}
    vllms = {"authorization": "Bearer key-one"}
    wanted: list[tuple[dict[str, str], dict[str, Any], int]] = [
        (vllms, {}, 200),
        (vllms, {"namespace": "team"}, 403),
        (vllms, {"explain": True}, 403),
        (vllms | bound, {"namespace": "team", "explain": True}, 200),
        (vllms | bound, {"namespace": "other"}, 403),
        # Without vLLM's key it is vLLM that refuses, and memedit says nothing.
        (everywhere, {"namespace": "team"}, 401),
    ]
    for headers, member, status in wanted:
        got = ask(app, "POST", "/v1/chat/completions", headers, memedit=member)
        assert got.status_code == status, (headers, member, got.text)
        assert ("Lyon" in got.text) == (member == {})
    got = ask(app, "POST", "/v1/chat/completions", vllms | everywhere, memedit={"explain": True})
    assert got.json()["memedit"]["edits"] == ["capital"]
    for headers, status in (
        (vllms | everywhere, 200),
        (vllms | bound, 403),
        (vllms, 401),
        (everywhere, 401),
    ):
        assert ask(app, "GET", "/memedit/metrics", headers).status_code == status
