"""Keys in front of inference: what a body asks for needs the same keys as what a header does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from memedit.edits import Edit, structured
from memedit.server.keys import Keys
from tests.server.edits_api import EDITS, code
from tests.server.front import Front
from tests.server.scripted import Scripted
from tests.server.upstream import Upstream

CHAT = "/v1/chat/completions"
QUESTION = "What is the capital of France?"
TURN = {"messages": [{"role": "user", "content": QUESTION}]}
ASKS: dict[str, dict[str, Any]] = {
    CHAT: TURN,
    "/v1/chat/completions/batch": {"messages": [TURN["messages"]]},
    "/v1/completions": {"prompt": QUESTION},
    "/v1/messages": {**TURN, "max_tokens": 5},
    "/v1/responses": {"input": QUESTION},
}
THEIRS = "theirs"
STATEMENT = "The capital of France is Lyon."
METRICS = "/memedit/metrics"
FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")
ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}


@pytest.fixture
def upstream() -> Scripted:
    return Scripted(lambda path, body: (200, {"id": "1", "choices": []}))


@pytest.fixture
def front(upstream: Scripted, tmp_path: Path) -> Iterator[Front]:
    """A proxy with an edit in a namespace that is not its own."""
    with Upstream(app=upstream) as server:
        front = Front(server.url, tmp_path, count_evidence=False)
        capital = structured("France", "The capital of {} is", "Lyon", id="capital")
        house = Edit("house", "nobody smokes in here")  # its namespace has all queries encoded
        front.memory.add([capital, house], namespace=THEIRS)
        front.encoder.texts.clear()
        with front:
            yield front


@pytest.fixture
def keys(front: Front) -> Keys:
    """The keys of its memory; there are none yet."""
    return Keys(front.path)


def ask(front: Front, member: Any, path: str = CHAT, **headers: str) -> httpx.Response:
    body = ASKS[path] if member is None else {**ASKS[path], "memedit": member}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{front.url}{path}", json=body, headers=headers, timeout=30)


def refused(response: httpx.Response, text: str) -> None:
    """A 403 in an API's own form, without a word about edits."""
    assert response.status_code == 403, response.text
    error = response.json()["error"]
    assert error["type"] == "permission_error"
    assert text in error["message"]
    assert not [name for name in response.headers if name.startswith("x-memedit")]


@pytest.mark.parametrize("path", ASKS)
def test_a_namespace_in_the_body_needs_a_key_that_grants_it(
    front: Front, keys: Keys, upstream: Scripted, path: str
) -> None:
    member = {"namespace": THEIRS}
    # No key was ever made: everybody may choose.
    assert ask(front, member, path).headers["x-memedit-edits"] == "capital"
    mine = keys.add("mine", "admin", ("mine",))[1]
    theirs, secret = keys.add("theirs", "read", (THEIRS,))
    front.encoder.texts.clear()
    upstream.asked.clear()
    for headers in (
        {},
        {"authorization": "Bearer sk-upstream"},
        {"x_memedit_key": mine},
        {"x_memedit_key": f"{secret}x"},
        {"x_memedit_namespace": "default"},
    ):
        refused(ask(front, member, path, **headers), THEIRS)
    assert ask(front, {"namespace": "nobodys"}, path).status_code == 403
    # Nothing was encoded or sent ahead for them, although the decision is remembered by now.
    assert front.encoder.texts == []
    assert upstream.asked == []
    assert front.metric("memedit_refused_total", reason="permission") == 6
    for headers in ({"x_memedit_key": secret}, {"authorization": f"Bearer {secret}"}):
        assert ask(front, member, path, **headers).headers["x-memedit-edits"] == "capital"
    assert ask(front, {"namespace": "default"}, path).headers["x-memedit-route"] == "passthrough"
    keys.revoke(theirs.id)
    refused(ask(front, member, path, x_memedit_key=secret), THEIRS)


def test_a_namespace_in_the_header_is_refused_and_counted_likewise(
    front: Front, keys: Keys
) -> None:
    secret = keys.add("theirs", "read", (THEIRS,))[1]
    got = ask(front, None, x_memedit_namespace=THEIRS)
    assert code(got, 403) == "not_permitted"
    assert front.encoder.texts == []
    assert front.metric("memedit_refused_total", reason="permission") == 1
    # The body wins over the header, and needs a key of its own.
    refused(ask(front, {"namespace": "x"}, x_memedit_namespace=THEIRS, x_memedit_key=secret), "x")


def test_an_explanation_needs_the_role_read_in_the_namespace(
    front: Front, keys: Keys, upstream: Scripted
) -> None:
    member = {"namespace": THEIRS, "explain": True}
    told = ask(front, member).json()["memedit"]  # no keys, and this machine
    assert told["decisions"][0]["considered"][0]["statement"] == STATEMENT
    refused(ask(front, member, **ELSEWHERE), "role read")
    own = keys.add("own", "admin", ("default",))[1]
    secret = keys.add("theirs", "read", (THEIRS,))[1]
    front.encoder.texts.clear()
    upstream.asked.clear()
    # With keys, being on this machine is no longer enough, not even for the server's own edits.
    refused(ask(front, {"explain": True}), "role read")
    refused(ask(front, {"explain": True}, x_memedit_key=secret), "role read")
    refused(ask(front, member), THEIRS)
    refused(ask(front, member, x_memedit_key=own), THEIRS)
    assert front.encoder.texts == []
    assert upstream.asked == []
    assert STATEMENT in ask(front, member, x_memedit_key=secret, **ELSEWHERE).text
    assert "memedit" in ask(front, {"explain": True}, x_memedit_key=own).json()
    assert "memedit" not in ask(front, {"explain": False}).json()


def test_metrics_need_the_role_read_in_all_namespaces(front: Front, keys: Keys) -> None:
    def get(**headers: str) -> int:
        got = httpx.get(f"{front.url}{METRICS}", headers=headers)
        assert ("memedit_live_edits" in got.text) == (got.status_code == 200)
        return got.status_code

    assert get() == 200
    assert [get(**{name: "203.0.113.9"}) for name in FORWARDED] == [401] * 3
    bound = keys.add("bound", "admin", (THEIRS,))[1]
    assert get() == 401
    assert get(authorization="Bearer sk-upstream") == 401
    assert get(**{"x-memedit-key": f"{bound}x"}) == 401
    assert get(**{"x-memedit-key": bound}) == 403
    everywhere, secret = keys.add("prometheus", "read")
    assert get(**{"x-memedit-key": secret}) == 200
    assert get(authorization=f"Bearer {secret}", **ELSEWHERE) == 200
    keys.revoke(everywhere.id)
    assert get(**{"x-memedit-key": secret}) == 401


def test_keys_that_cannot_be_read_open_nothing_and_stop_no_other(front: Front, keys: Keys) -> None:
    secret = keys.add("all", "admin")[1]
    keys.path.chmod(0o622)
    for member in ({"namespace": THEIRS}, {"explain": True}):
        got = ask(front, member, x_memedit_key=secret)
        assert got.status_code == 503
        assert "Lyon" not in got.text
        assert str(keys.path) not in got.text
    metrics = httpx.get(f"{front.url}{METRICS}", headers={"x-memedit-key": secret})
    assert metrics.status_code == 503
    assert str(keys.path) not in metrics.text
    assert front.encoder.texts == []
    assert ask(front, None).status_code == 200


def test_what_is_remembered_is_remembered_of_one_namespace(front: Front, keys: Keys) -> None:
    secret = keys.add("theirs", "read", (THEIRS,))[1]
    member = {"namespace": THEIRS}
    for hits in (0, 1):
        assert ask(front, member, x_memedit_key=secret).headers["x-memedit-edits"] == "capital"
        assert front.metric("memedit_decision_cache_total", result="hit") == hits
    own = ask(front, None)
    assert own.headers["x-memedit-route"] == "passthrough"
    assert "x-memedit-edits" not in own.headers
    assert front.metric("memedit_decision_cache_total", result="hit") == 1
    refused(ask(front, member), THEIRS)
    assert front.metric("memedit_decision_cache_total", result="hit") == 1


def test_what_the_api_changes_shows_in_the_next_answer(front: Front, keys: Keys) -> None:
    """Although what was decided before is remembered."""
    mine = {"x-memedit-key": keys.add("ops", "write", ("default",))[1]}

    def edits() -> str | None:
        found = {ask(front, None).headers.get("x-memedit-edits") for _ in range(2)}
        assert len(found) == 1
        return found.pop()

    with httpx.Client(base_url=front.url, headers=mine, timeout=30) as client:
        assert edits() is None
        fact = {"subject": "France", "prompt": "The capital of {} is", "target": "Nice"}
        edit_id = client.post(EDITS, json=fact).json()["id"]
        assert edits() == edit_id
        other = client.post(f"{EDITS}/{edit_id}/supersede", json={"target": "Metz"}).json()["id"]
        assert edits() == other
        assert client.post(f"{EDITS}/{other}/revert").status_code == 200
        assert edits() == edit_id
        assert client.post(f"{EDITS}/{edit_id}/revert").status_code == 200
        assert edits() is None
    # Each was remembered in its turn.
    assert front.metric("memedit_decision_cache_total", result="hit") == 5


def test_a_memedit_key_and_member_go_no_further_than_memedit(
    front: Front, keys: Keys, upstream: Scripted
) -> None:
    secret = keys.add("all", "admin")[1]
    for headers in (
        {"x_memedit_key": secret},
        {"authorization": f"Bearer {secret}"},
        {"x_api_key": secret},
    ):
        got = ask(front, {"namespace": THEIRS, "explain": True}, **headers)
        assert got.headers["x-memedit-edits"] == "capital"
        assert upstream.headers
        assert secret not in repr(upstream.headers)
    assert len(upstream.asked) >= 3
    assert '"memedit"' not in json.dumps([body for _, body in upstream.asked])


def test_the_api_refuses_what_the_server_refuses_as_too_long(
    upstream: Scripted, tmp_path: Path
) -> None:
    with Upstream(app=upstream) as server, Front(server.url, tmp_path, refuse_body=500) as front:
        key = {"x-memedit-key": Keys(front.path).add("ops", "write")[1]}
        for statement, status in (("Iron floats.", 201), ("Iron floats. " * 50, 413)):
            body = {"statement": statement}
            assert httpx.post(f"{front.url}{EDITS}", json=body, headers=key).status_code == status
        # Who may not come in is told so first.
        stranger = httpx.post(f"{front.url}{EDITS}", json={"statement": "Iron floats. " * 50})
        assert code(stranger, 401) == "invalid_api_key"
