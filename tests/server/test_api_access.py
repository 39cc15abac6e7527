"""Who gets to the edits API, and that nobody else learns anything."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from memedit.edits import sentence
from memedit.errors import AccessFileError
from memedit.server.door import ROLE, Door
from memedit.server.keys import ROLES
from tests.server.edits_api import EDITS, Api, CountingEncoder, code

SECRET = "The capital of France is Lyon."
MINE, THEIRS = "mine", "theirs"


class Guarded(Api):
    """An API with an edit in either of two namespaces; it counts what is encoded."""

    def __init__(self, path: Path) -> None:
        self.encoder = CountingEncoder()
        super().__init__(path, self.encoder)
        self.memory.add(sentence(SECRET, id="known"), namespace=THEIRS)
        self.memory.add(sentence("Iron floats.", id="own"), namespace=MINE)
        self.memory.add(sentence("Water burns.", id="reverted"), namespace=THEIRS)
        self.memory.revert("reverted")
        self.encoder.calls.clear()

    def operations(self) -> list[tuple[str, str, str]]:
        """Method, path and role of everything that the router of the API answers."""
        found = []
        for route in self.app.routes:
            assert isinstance(route, APIRoute), f"{route} is not guarded by a role"
            extra = route.openapi_extra or {}
            assert extra[ROLE] in ROLES
            found += [(method, route.path, extra[ROLE]) for method in route.methods]
        return found


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path / "memory.sqlite3") as api:
        yield api


BODIES: dict[str, Any] = {
    f"{EDITS}/search": {"query": "France"},
    f"{EDITS}/explain": {"prompt": "What is the capital of France?"},
    f"{EDITS}/{{edit_id}}/supersede": {"target": "Nice"},
    EDITS: {"statement": SECRET},
}


def call(client: TestClient, method: str, path: str, edit_id: str, **options: Any) -> Any:
    """One operation, with a body that it would take."""
    url = path.replace("{edit_id}", edit_id)
    if path.endswith("/import"):
        headers = {"content-type": "application/jsonl", **options.pop("headers", {})}
        line = json.dumps({"statement": SECRET}).encode()
        return client.request(method, url, content=line, headers=headers, **options)
    body = {"json": BODIES[path]} if path in BODIES else {}
    return client.request(method, url, **body, **options)


def test_the_operations_are_those_that_are_meant_to_be(api: Guarded) -> None:
    found = set(api.operations())
    assert len(found) == len(api.operations()) == 17
    assert {
        operation for operation in found if operation[0] == "GET" and operation[2] != "read"
    } == {("GET", f"{EDITS}/audit", "admin")}
    assert all(
        role == "write" for method, path, role in found if path not in BODIES and method == "POST"
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer sk-123"},
        {"authorization": "Bearer mek-00000000-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        {"x-memedit-key": ""},
        {"x-memedit-key": "mek"},
        {"x-memedit-key": "mek-"},
        {"x-memedit-key": "wrong id"},
        {"x-memedit-key": "wrong secret"},
        {"x-memedit-key": "revoked"},
        {"x-memedit-key": "in x-memedit-key, wrong", "authorization": "good"},
        {"authorization": "Basic good"},
        {"x-api-key": "sk-ant"},
        {"x-api-key": "wrong secret"},
        {"x-api-key": "revoked"},
        {"x-other": "in no header of a key"},
        {"x-memedit-key": "in x-memedit-key, wrong", "x-api-key": "in no header of a key"},
    ],
    ids=str,
)
def test_who_has_no_good_key_gets_nothing(api: Guarded, headers: dict[str, str]) -> None:
    key, good = api.key()
    gone, revoked = api.key()
    api.keys.revoke(gone.id)
    named = {
        "wrong id": good.replace(key.id, "0" * 8),
        "wrong secret": f"{good[:-1]}{'A' if good[-1] != 'A' else 'B'}",
        "revoked": revoked,
        "good": f"Bearer {good}",
        "Basic good": f"Basic {good}",
        "in no header of a key": good,
    }
    client = api.bare(**{name: named.get(value, value) for name, value in headers.items()})
    before = api.memory.stats()["events"]
    everything = [*api.operations(), ("OPTIONS", EDITS, ""), ("GET", f"{EDITS}/a/b", "")]
    answers = set()
    for method, path, _ in everything:
        for edit_id in ("known", "nobody"):
            response = call(client, method, path, edit_id)
            assert code(response, 401) == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
            answers.add(response.text)
    assert len(answers) == 1
    assert api.encoder.calls == []
    assert api.memory.stats()["events"] == before
    assert not api.audit.path.exists()


@pytest.mark.parametrize("role", ["read", "write"])
def test_a_key_does_what_its_role_allows_and_no_more(api: Guarded, role: Any) -> None:
    client = api.client(role, THEIRS)
    before = api.memory.stats()["events"]
    answers = set()
    refused = [o for o in api.operations() if ROLES.index(o[2]) > ROLES.index(role)]
    assert refused
    for method, path, _ in refused:
        for edit_id in ("known", "nobody"):
            response = call(client, method, path, edit_id)
            assert code(response, 403) == "not_permitted"
            answers.add(response.text)
    assert api.encoder.calls == []
    assert api.memory.stats()["events"] == before
    assert "known" not in "".join(answers)
    for method, path, needed in api.operations():
        if ROLES.index(needed) <= ROLES.index(role):
            response = call(client, method, path, "known")
            assert response.status_code in (200, 201, 409), (method, path, response.text)


def test_a_key_of_another_namespace_learns_nothing(api: Guarded) -> None:
    for role in ROLES:
        client = api.client(role, MINE)
        before = api.memory.stats()["events"]
        answers = set()
        for method, path, needed in api.operations():
            for edit_id in ("known", "nobody"):
                for where in (
                    {"headers": {"x-memedit-namespace": THEIRS}},
                    {"params": {"namespace": THEIRS}},
                ):
                    response = call(client, method, path, edit_id, **where)
                    assert code(response, 403) == "not_permitted", (method, path)
                    answers.add((needed, response.text))
        assert len(answers) == len(ROLES)
        assert api.encoder.calls == []
        assert api.memory.stats()["events"] == before


def test_an_edit_of_another_namespace_is_as_one_that_is_not_there(api: Guarded) -> None:
    client = api.client("admin", MINE)
    own = [o for o in api.operations() if "{edit_id}" in o[1]]
    assert len(own) == 6
    for method, path, _ in own:
        for hidden in ("known", "reverted"):
            got = call(client, method, path, hidden)
            none = call(client, method, path, "n" * len(hidden))
            assert code(got, 404) == "edit_not_found"
            assert got.text == none.text.replace("n" * len(hidden), hidden)
            got.headers.pop("x-request-id"), none.headers.pop("x-request-id")
            assert got.headers == none.headers
    cursor = api.client("admin", THEIRS).get(f"{EDITS}?state=all&limit=1").json()["next_cursor"]
    assert code(client.get(f"{EDITS}?state=all&cursor={cursor}"), 400) == "invalid_cursor"
    assert api.memory.get("known").state == "active"


def test_a_bound_key_cannot_find_out_ids_by_choosing_them(api: Guarded) -> None:
    """Ids are unique in a whole memory, so "this id is taken" would tell of other namespaces."""
    client = api.client("write", MINE)
    for edit_id in ("known", "nobody", f"{THEIRS}:x"):
        for params in ({}, {"dry_run": True}):
            response = client.post(
                EDITS, json={"statement": "Ice is hot.", "id": edit_id}, params=params
            )
            assert code(response, 400) == "invalid_edit"
            assert "taken" not in response.text
    made = client.post(EDITS, json={"statement": "Ice is hot.", "id": f"{MINE}:ice"})
    assert made.status_code == 201
    lines = "".join(
        json.dumps({"statement": f"The code of {edit_id} is X.", "id": edit_id}) + "\n"
        for edit_id in ("known", "nobody")
    )
    report = client.post(
        f"{EDITS}/import", content=lines.encode(), headers={"content-type": "application/jsonl"}
    )
    assert report.json()["added"] == 2
    assert api.memory.get("known").namespace == THEIRS
    found = {edit["id"] for edit in client.get(EDITS).json()["data"]}
    assert not {"known", "nobody"} & found


def test_the_namespace_is_the_named_one_or_the_keys_or_the_servers(api: Guarded) -> None:
    def space(client: TestClient, **options: Any) -> Any:
        return client.post(EDITS, json={"statement": "Ice is hot."}, **options).json()["namespace"]

    assert space(api.client("write", MINE)) == MINE
    everywhere = api.client("write")
    assert space(everywhere) == "default"
    assert space(everywhere, headers={"x-memedit-namespace": "one"}) == "one"
    assert space(everywhere, params={"namespace": "two"}) == "two"
    both = {"headers": {"x-memedit-namespace": "one"}, "params": {"namespace": "two"}}
    assert code(everywhere.post(EDITS, json={}, **both), 400) == "invalid_request"
    of_two = api.client("write", MINE, THEIRS)
    assert code(of_two.get(EDITS), 403) == "not_permitted"
    assert space(of_two, params={"namespace": THEIRS}) == THEIRS


def test_a_key_may_come_as_other_servers_keys_do(api: Guarded) -> None:
    _, secret = api.key("read", MINE)
    assert api.bare(authorization=f"Bearer {secret}").get(EDITS).status_code == 200
    assert api.bare(**{"x-api-key": secret}).get(EDITS).status_code == 200
    # vLLM's own key beside it, as behind its key check.
    both = api.bare(**{"authorization": "Bearer sk-vllm", "x-memedit-key": secret})
    assert both.get(EDITS).status_code == 200


def test_a_revoked_key_is_refused_from_the_next_request_on(api: Guarded) -> None:
    key, secret = api.key("read", MINE)
    client = api.bare(**{"x-memedit-key": secret})
    assert client.get(EDITS).status_code == 200
    api.keys.revoke(key.id)  # by another object, as by another process
    assert code(client.get(EDITS), 401) == "invalid_api_key"
    _, secret = api.key("read", MINE)
    assert api.bare(**{"x-memedit-key": secret}).get(EDITS).status_code == 200


def test_the_body_of_who_is_refused_is_not_read(api: Guarded) -> None:
    """Else a stranger could keep the server reading."""
    read = []

    async def run(headers: list[tuple[bytes, bytes]]) -> int:
        sent = []

        async def receive() -> dict[str, Any]:
            read.append(1)
            return {"type": "http.request", "body": b"x" * 2**16, "more_body": len(read) < 99}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": EDITS,
            "query_string": b"",
            "headers": headers,
            "root_path": "",
        }
        await api.app(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(run([])) == 401
    _, reader = api.key("read", MINE)
    assert asyncio.run(run([(b"x-memedit-key", reader.encode())])) == 403
    assert read == []
    _, writer = api.key("write", MINE)
    good = [(b"x-memedit-key", writer.encode()), (b"content-type", b"application/json")]
    assert asyncio.run(run(good)) == 413


def test_keys_that_others_may_write_or_that_are_damaged_open_nothing(
    api: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    client = api.client("read", MINE)
    api.keys.path.chmod(0o622)
    assert code(client.get(EDITS), 503) == "memory_unavailable"
    assert "chmod 600" in caplog.text
    api.keys.path.chmod(0o600)
    assert client.get(EDITS).status_code == 200
    api.keys.path.write_text("[{]")
    answer = client.get(EDITS)
    assert code(answer, 503) == "memory_unavailable"
    assert str(api.keys.path) not in answer.text
    with pytest.raises(AccessFileError, match="damaged"):
        Api(api.config.memory.path)


def test_a_change_that_cannot_be_noted_is_not_made(api: Guarded) -> None:
    client = api.client("write", MINE)
    api.audit.path.mkdir()
    before = api.memory.stats()["events"]
    answer = client.post(EDITS, json={"statement": "Ice is hot."})
    assert code(answer, 503) == "memory_unavailable"
    assert api.memory.stats()["events"] == before


def test_the_audit_log_holds_who_and_what_and_no_text(api: Guarded) -> None:
    key, secret = api.key("write", MINE, name="ci")
    client = api.bare(**{"x-memedit-key": secret})
    words = ("Zanzibar", "because of Quetzal", "by Xerxes")
    made = client.post(
        EDITS,
        json={
            "statement": f"The capital of {words[0]} is Rome.",
            "reason": words[1],
            "author": words[2],
        },
        headers={"x-request-id": "req-7"},
    )
    assert made.headers["x-request-id"] == "req-7"
    edit_id = made.json()["id"]
    client.post(f"{EDITS}/{edit_id}/revert")
    client.post(f"{EDITS}/{edit_id}/revert")
    api.bare(**{"x-memedit-key": api.key("read", MINE)[1]}).post(f"{EDITS}/{edit_id}/restore")
    text = api.audit.path.read_text()
    for hidden in (*words, secret, secret.rpartition("-")[2], "Rome"):
        assert hidden not in text
    assert (api.audit.path.stat().st_mode & 0o777) == 0o600
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("add", "begun"),
        ("add", "done"),
        ("revert", "begun"),
        ("revert", "done"),
        ("revert", "begun"),
        ("revert", "refused"),
        ("restore", "denied"),
    ]
    assert lines[1] | {"at": ""} == {
        "at": "",
        "key": key.id,
        "name": "ci",
        "action": "add",
        "outcome": "done",
        "namespace": MINE,
        "edits": [edit_id],
        "request": "req-7",
    }
    assert lines[0]["request"] == "req-7"
    assert lines[3]["edits"] == [edit_id]
    shown = api.client("admin", MINE).get(f"{EDITS}/audit", params={"limit": 4}).json()
    assert [line["outcome"] for line in shown["data"]] == ["begun", "done"] * 2
    rest = api.client("admin", MINE).get(f"{EDITS}/audit", params={"cursor": shown["next_cursor"]})
    assert [line["outcome"] for line in rest.json()["data"]] == ["begun", "refused"]
    assert api.client("admin", THEIRS).get(f"{EDITS}/audit").json()["data"] == []


# inference


class Upstream:
    """An application that notes the headers that reach it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append({k.decode(): v.decode() for k, v in scope["headers"]})
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def test_inference_needs_no_key_and_the_header_only_what_a_key_grants(api: Guarded) -> None:
    upstream = Upstream()
    client = TestClient(Door(upstream, api.app))

    def ask(**headers: str) -> int:
        response = client.post("/v1/chat/completions", json={}, headers=headers)
        if response.status_code != 200:
            assert code(response, 403) == "not_permitted"
        return response.status_code

    named = {"x-memedit-namespace": THEIRS}
    assert (ask(), ask(**named)) == (200, 200)  # no key was ever made: as it always was
    mine, theirs = api.key("read", MINE)[1], api.key("read", THEIRS)
    assert ask() == 200
    assert ask(**{"x-memedit-namespace": "default"}) == 200
    assert ask(**named) == 403
    assert ask(**named, authorization="Bearer sk-upstream") == 403
    assert ask(**named, **{"x-memedit-key": mine}) == 403
    assert ask(**named, **{"x-memedit-key": theirs[1]}) == 200
    assert ask(**named, authorization=f"Bearer {theirs[1]}") == 200
    api.keys.revoke(theirs[0].id)
    assert ask(**named, **{"x-memedit-key": theirs[1]}) == 403
    assert len(upstream.seen) == 6
    assert api.encoder.calls == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-memedit-key", "{}"),
        ("x-memedit-key", "not one"),
        ("authorization", "bearer {}"),
        ("authorization", "Bearer mek-half"),
        ("authorization", "{}"),
        ("authorization", "Basic {}"),
        ("authorization", "basic {basic}"),
        ("x-api-key", "{}"),
        ("X-Api-Key", " {}"),
        ("x-api-key", "mek-half"),
        ("api-key", "{}"),
        ("x-goog-api-key", "{}"),
        ("cookie", "a=b; key={}; c=d"),
        ("referer", "http://edits.test/?key={}&x=1"),
    ],
)
def test_memedit_keys_never_reach_the_upstream(api: Guarded, name: str, value: str) -> None:
    upstream = Upstream()
    client = TestClient(Door(upstream, api.app))
    _, secret = api.key()
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    others = {"authorization": "Bearer sk-1", "x-api-key": "sk-2", "cookie": "a=b", "x-a": "mek-a"}
    others.pop(name.lower(), None)
    client.get("/v1/models", headers={**others, name: value.format(secret, basic=basic)})
    (seen,) = upstream.seen
    assert name.lower() not in seen
    assert {key: seen[key] for key in others} == others
    # Nor as the first message of a connection of another kind.
    with (
        contextlib.suppress(WebSocketDisconnect),
        client.websocket_connect("/v1/realtime", headers={name: value.format(secret, basic=basic)}),
    ):
        pass
    assert name.lower() not in upstream.seen[1]


def test_what_is_no_key_of_memedits_goes_on(api: Guarded) -> None:
    upstream = Upstream()
    headers = {
        "authorization": "Basic dXNlcjptZWs=",
        "x-api-key": "smek-0123abcd",
        "x-a": "mek-0123abcd-short",
        "x-b": "Basic =",
    }
    TestClient(Door(upstream, api.app)).get("/v1/models", headers=headers)
    assert {name: upstream.seen[0][name] for name in headers} == headers


@pytest.mark.parametrize("path", ["/v1/editsx", "/v1/edit", "/v2/v1/edits", "/V1/edits"])
def test_only_the_api_is_taken_from_the_upstream(api: Guarded, path: str) -> None:
    upstream = Upstream()
    assert TestClient(Door(upstream, api.app)).get(path).text == "ok"
    assert code(TestClient(Door(upstream, api.app)).get(EDITS), 401) == "invalid_api_key"
    assert len(upstream.seen) == 1
