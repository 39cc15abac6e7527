"""The edits API inside vLLM: behind ``--middleware``, and as an endpoint plug-in."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from memedit.adapters import vllm_server as adapter
from memedit.config import variable
from memedit.edits import structured
from memedit.memory import EditMemory
from memedit.protocols import Encoder
from memedit.server.keys import Keys
from memedit.server.page import PAGE
from tests.conftest import VllmServer
from tests.server.edits_api import EDITS, code
from tests.server.served import MODEL, Served

VLLM_KEY = "sk-vllm"
AT_VLLM = {"authorization": f"Bearer {VLLM_KEY}"}


@pytest.fixture
def path(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory file with one edit, which the configuration names."""
    path = tmp_path / "memory.sqlite3"
    monkeypatch.setenv(variable("memory", "path"), str(path))
    with EditMemory(path, encoder) as memory:
        memory.add(structured("France", "The capital of {} is", "Lyon", id="capital"))
    return path


@pytest.fixture
def stack(path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Builds vLLM's application as its server does: routes, plug-ins, middleware, key check."""
    register = pytest.importorskip(
        "vllm.entrypoints.serve.middleware.register", reason="vLLM is not installed"
    )
    from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins

    def build(*, plugins: str | None, middleware: bool) -> Any:
        if plugins is None:
            monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        else:
            monkeypatch.setenv("VLLM_PLUGINS", plugins)
        app = FastAPI()
        attach_endpoint_plugins(app, ("generate",))
        arguments = Namespace(
            allowed_origins=["*"],
            allow_credentials=False,
            allowed_methods=["*"],
            allowed_headers=["*"],
            api_key=[VLLM_KEY],
            enable_request_id_headers=True,
            middleware=[adapter.MIDDLEWARE] if middleware else [],
        )
        register.init_entrypoints_middleware(arguments, app, ("generate",))
        return TestClient(app, raise_server_exceptions=False)

    monkeypatch.syspath_prepend(str(installed))
    yield build
    adapter._parts.cache_clear()


def test_the_plugin_is_behind_vllms_key_check_and_has_its_own(stack: Any, path: Path) -> None:
    client = stack(plugins="memedit", middleware=False)
    mine = {"x-memedit-key": Keys(path).add("ops", "write")[1]}
    refused = client.get(EDITS, headers=mine)
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    assert code(client.get(EDITS, headers=AT_VLLM), 401) == "invalid_api_key"
    both = AT_VLLM | mine
    assert [edit["id"] for edit in client.get(EDITS, headers=both).json()["data"]] == ["capital"]
    assert client.get(f"{EDITS}/capital", headers=both).json()["target"] == "Lyon"
    made = client.post(EDITS, json={"statement": "Iron floats."}, headers=both)
    assert made.status_code == 201
    assert client.get(made.headers["location"], headers=both).json() == made.json()
    assert client.get(f"{EDITS}/openapi.json", headers=both).status_code == 200
    assert code(client.get(f"{EDITS}/a/b/c", headers=both), 404) == "not_found"


@pytest.mark.parametrize(("plugins", "middleware"), [("memedit", False), (None, True)])
def test_the_page_is_in_either_form_and_needs_no_key(
    stack: Any, plugins: str | None, middleware: bool
) -> None:
    client = stack(plugins=plugins, middleware=middleware)
    page = client.get(PAGE)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert client.get(f"{PAGE}/").text == page.text
    assert client.get(f"{PAGE}/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get(f"{PAGE}/none.js").status_code == 404
    assert client.post(PAGE).status_code in (404, 405)


@pytest.mark.parametrize("plugins", [None, "", "lora_filesystem_resolver"])
def test_a_plugin_that_nobody_asked_for_is_not_there(
    stack: Any, path: Path, plugins: str | None
) -> None:
    client = stack(plugins=plugins, middleware=False)
    headers = AT_VLLM | {"x-memedit-key": Keys(path).add("ops", "write")[1]}
    assert client.get(EDITS, headers=headers).json() == {"detail": "Not Found"}


def test_the_middleware_needs_no_key_of_vllms_for_the_api_and_shows_it_to_no_other(
    stack: Any, path: Path
) -> None:
    client = stack(plugins=None, middleware=True)
    _, secret = Keys(path).add("ops", "read")
    assert code(client.get(EDITS), 401) == "invalid_api_key"
    assert code(client.get(EDITS, headers=AT_VLLM), 401) == "invalid_api_key"
    for headers in ({"x-memedit-key": secret}, {"authorization": f"Bearer {secret}"}):
        found = client.get(EDITS, headers=headers).json()["data"]
        assert [edit["id"] for edit in found] == ["capital"]
        refused = client.post(EDITS, json={"statement": "Iron floats."}, headers=headers)
        assert code(refused, 403) == "not_permitted"
        # An admin key opens nothing of vLLM's.
        assert client.get("/v1/models", headers=headers).status_code == 401


def test_middleware_and_plugin_share_one_memory(stack: Any, path: Path) -> None:
    client = stack(plugins="memedit", middleware=True)
    client.get("/health")  # middleware is made with the first request
    assert adapter._parts.cache_info()[:2] == (1, 1)
    _, secret = Keys(path).add("ops", "read")
    assert client.get(EDITS, headers={"x-memedit-key": secret}).status_code == 200


def test_a_broken_configuration_stops_the_start(
    stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable("memory", "namespace"), "../x")
    with pytest.raises(Exception, match="namespace"):
        stack(plugins="memedit", middleware=False)


@pytest.mark.vllm
def test_a_served_answer_follows_the_api(served: Served) -> None:
    """In both forms: an edit that is added over HTTP answers the next request."""
    keys = Keys(served.memory.stats()["file"])
    _, secret = keys.add("ops", "write")
    try:
        asked = "What is the capital of France?"
        assert served.chat(asked)[0].header("x-memedit-route") == "passthrough"
        with httpx.Client(base_url=served.url, headers={"x-memedit-key": secret}) as client:
            assert code(httpx.get(f"{served.url}{EDITS}"), 401) == "invalid_api_key"
            made = client.post(EDITS, json={"statement": "The capital of France is Lyon."})
            assert made.status_code == 201
            edit_id = made.json()["id"]
            said, _, answer = served.chat(asked)
            assert said.header("x-memedit-edits") == edit_id
            assert "Lyon" in answer["choices"][0]["message"]["content"]
            reverted = client.post(f"{EDITS}/{edit_id}/revert")
            assert reverted.json()["state"] == "reverted"
        assert served.chat(asked)[0].header("x-memedit-route") == "passthrough"
    finally:
        # With no key in its file the server is as the other tests know it.
        keys.path.unlink()


@pytest.mark.vllm
def test_a_real_vllm_serves_the_plugin(vllm_server: VllmServer) -> None:
    """Under a name by which the middleware stays out of it, the API is the plug-in's."""
    keys = Keys(vllm_server.path)
    try:
        mine = {"x-memedit-key": keys.add("ops", "write")[1]}
        with httpx.Client(base_url=vllm_server.plain, timeout=60) as client:
            assert code(client.get(EDITS), 401) == "invalid_api_key"
            made = client.post(EDITS, json={"statement": "Iron floats."}, headers=mine)
            assert made.status_code == 201
            found = client.get(EDITS, headers=mine).json()["data"]
            assert made.json() in found
            asked = {"prompt": "Does iron float?"}
            said = client.post(f"{EDITS}/explain", json=asked, headers=mine)
            assert said.status_code == 200
            assert client.post(f"{EDITS}/{made.json()['id']}/revert", headers=mine).is_success
            assert client.get("/v1/models").json()["data"][0]["id"] == MODEL
        assert f"Route: {EDITS}, Endpoint: edits_api" in vllm_server.log.read_text()
    finally:
        keys.path.unlink()
