"""The edits API: what can be done over HTTP, and what is said about it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from memedit.edits import structured
from memedit.protocols import Encoder
from tests.server.edits_api import EDITS, Api, code

LYON = {"statement": "The capital of France is Lyon."}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path / "memory.sqlite3") as api:
        yield api


@pytest.fixture
def client(api: Api) -> TestClient:
    return api.client()


def add(client: TestClient, statement: str, **more: Any) -> dict[str, Any]:
    response = client.post(EDITS, json={"statement": statement, **more})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [edit["id"] for edit in response.json()["data"]]


def pages(client: TestClient, path: str, **params: Any) -> list[list[dict[str, Any]]]:
    """Every page of a list."""
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        response = client.get(path, params={**params, **cursor})
        assert response.status_code == 200, response.text
        body = response.json()
        found.append(body["data"])
        assert body["has_more"] == (body["next_cursor"] is not None)
        if not body["has_more"]:
            return found
        cursor = {"cursor": body["next_cursor"]}


# adding


def test_an_added_edit_is_answered_whole_and_is_in_the_memory(api: Api, client: TestClient) -> None:
    response = client.post(
        EDITS,
        json={
            "id": "capital",
            "subject": "France",
            "prompt": "The capital of {} is",
            "target": "Lyon",
            "aliases": ["La France"],
            "author": "ann",
            "reason": "the ministries moved",
            "expires_at": "2100-01-01",
        },
    )
    assert response.status_code == 201
    made = response.json()
    assert response.headers["location"] == f"{EDITS}/capital"
    assert response.headers["etag"] == made["etag"]
    assert made == client.get(response.headers["location"]).json()
    assert (made["statement"], made["state"]) == ("The capital of France is Lyon.", "active")
    assert (made["author"], made["reason"]) == ("ann", "the ministries moved")
    assert made["expires_at"] == "2100-01-01T00:00:00Z"
    record = api.memory.get("capital")
    assert record.edit == structured(
        "France", "The capital of {} is", "Lyon", id="capital", aliases=["La France"]
    )


def test_the_author_is_the_key_unless_somebody_else_is_named(client: TestClient) -> None:
    assert add(client, LYON["statement"])["author"] == "test"
    assert add(client, "Ann Li leads Acme.", author="")["author"] == ""


def test_a_list_is_added_whole_or_not_at_all(api: Api, client: TestClient) -> None:
    good = {"edits": [LYON, {"question": "Who leads Acme?", "answer": "Ann Li"}]}
    response = client.post(EDITS, json=good)
    assert response.status_code == 201
    assert [edit["target"] for edit in response.json()["data"]] == ["Lyon", "Ann Li"]
    bad = {"edits": [{"statement": "Iron floats."}, {"statement": "<|im_start|>system"}]}
    response = client.post(EDITS, json=bad)
    assert code(response, 400) == "invalid_edit"
    assert response.json()["error"]["message"].startswith("edits.1: ")
    assert len(api.memory) == 2


def test_what_is_there_already_comes_back_under_its_own_id(client: TestClient) -> None:
    first = add(client, LYON["statement"])
    assert add(client, LYON["statement"])["id"] == first["id"]


def test_policies(client: TestClient) -> None:
    first = add(client, "The capital of France is Lyon.")
    otherwise = "The capital of France is Nice."
    refused = client.post(EDITS, json={"statement": otherwise, "policy": "reject"})
    assert code(refused, 409) == "edit_conflict"
    assert first["id"] in refused.json()["error"]["message"]
    beside = add(client, otherwise, policy="keep")
    assert first["id"] in beside["warnings"][0]
    assert client.get(f"{EDITS}/{first['id']}").json()["state"] == "active"
    last = add(client, "The capital of France is Metz.")
    assert set(last["supersedes"]) == {first["id"], beside["id"]}


def test_a_dry_run_says_what_would_happen_and_changes_nothing(api: Api, client: TestClient) -> None:
    first = add(client, LYON["statement"])
    body = {
        "edits": [
            {"statement": "The capital of France is Nice."},
            LYON,
            {"statement": "Iron floats."},
        ]
    }
    before = api.memory.stats()["events"]
    response = client.post(EDITS, params={"dry_run": True}, json=body)
    assert response.status_code == 200
    nice, lyon, iron = response.json()["data"]
    assert (nice["outcome"], nice["supersedes"]) == ("add", [first["id"]])
    assert [other["id"] for other in nice["conflicts"]] == [first["id"]]
    assert nice["conflicts"][0]["target"] == "Lyon"
    # Behind the first of the list, which would be there by then, Lyon is news again.
    assert (lyon["outcome"], iron["outcome"], iron["conflicts"]) == ("add", "add", [])
    refused = client.post(
        EDITS, params={"dry_run": True}, json={**body["edits"][0], "policy": "reject"}
    ).json()["data"]
    assert refused[0]["outcome"] == "refuse"
    assert api.memory.stats()["events"] == before
    assert list(api.audit.lines()) == list(api.audit.lines())[:2]


def test_a_misspelt_parameter_or_member_changes_nothing(api: Api, client: TestClient) -> None:
    assert code(client.post(f"{EDITS}?dryrun=true", json=LYON), 400) == "invalid_request"
    response = client.post(EDITS, json={**LYON, "expires": 1})
    assert code(response, 400) == "invalid_request"
    assert response.json()["error"]["param"] == "expires"
    assert len(api.memory) == 0


def test_an_edit_waits_for_its_time_and_ends_at_it(client: TestClient) -> None:
    later = add(client, LYON["statement"], valid_from=time.time() + 3600)
    assert later["state"] == "proposed"
    soon = add(client, "Ann Li leads Acme.", expires_at=time.time() + 0.2)
    time.sleep(0.3)
    assert client.get(f"{EDITS}/{soon['id']}").json()["state"] == "expired"
    past = client.post(EDITS, json={**LYON, "expires_at": "2001-01-01"})
    assert code(past, 400) == "invalid_edit"


# idempotency


def test_the_same_call_under_the_same_key_adds_once(api: Api, client: TestClient) -> None:
    headers = {"idempotency-key": "call-1"}
    first = client.post(EDITS, json=LYON, headers=headers)
    client.post(f"{EDITS}/{first.json()['id']}/revert")
    again = client.post(EDITS, json=LYON, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert again.json()["state"] == "reverted"
    assert [event.kind for event in api.memory.events("default")] == ["add", "revert"]


def test_an_idempotency_key_is_for_one_call_of_one_caller(api: Api, client: TestClient) -> None:
    headers = {"idempotency-key": "call-1"}
    first = client.post(EDITS, json=LYON, headers=headers).json()
    other = client.post(EDITS, json={"statement": "Iron floats."}, headers=headers)
    assert code(other, 422) == "idempotency_key_reused"
    stranger = api.client().post(EDITS, json={"statement": "Iron floats."}, headers=headers)
    assert stranger.status_code == 201
    assert stranger.json()["id"] != first["id"]
    for bad in ("", "x" * 256, "two words"):
        response = client.post(EDITS, json=LYON, headers={"idempotency-key": bad})
        assert code(response, 400) == "invalid_request"


def test_a_list_under_an_idempotency_key_adds_once(api: Api, client: TestClient) -> None:
    body = {"edits": [LYON, {"statement": "Iron floats."}]}
    both = [client.post(EDITS, json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert both[0].json() == both[1].json()
    assert len(api.memory.events("default")) == 2


def test_superseding_under_an_idempotency_key_supersedes_once(client: TestClient) -> None:
    path = f"{EDITS}/{add(client, LYON['statement'])['id']}/supersede"
    both = [
        client.post(path, json={"target": "Nice"}, headers={"idempotency-key": "k"})
        for _ in range(2)
    ]
    assert both[0].json() == both[1].json()


# looking


def test_pages_hold_every_edit_once_while_others_come_and_go(client: TestClient) -> None:
    made = [add(client, f"The code of City{n} is C{n}.")["id"] for n in range(7)]
    first = client.get(EDITS, params={"limit": 3}).json()
    assert [edit["id"] for edit in first["data"]] == made[:3:-1]
    add(client, "The code of Newtown is N.")
    client.post(f"{EDITS}/{made[4]}/revert")  # the one that the cursor stands on
    rest = client.get(EDITS, params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [edit["id"] for edit in rest["data"]] == made[3:0:-1]
    whole = pages(client, EDITS, limit=2, order="asc", state="all")
    assert [edit["id"] for page in whole for edit in page][:7] == made
    assert {len(page) for page in whole} == {2}


def test_a_cursor_is_for_the_list_it_came_from(client: TestClient) -> None:
    for n in range(3):
        add(client, f"The code of City{n} is C{n}.")
    cursor = client.get(EDITS, params={"limit": 1}).json()["next_cursor"]
    for wrong in (
        {"cursor": cursor, "order": "asc"},
        {"cursor": cursor, "state": "all"},
        {"cursor": "!"},
        {"cursor": "W10"},
        {"cursor": cursor[:-4]},
    ):
        assert code(client.get(EDITS, params=wrong), 400) == "invalid_cursor"
    history = client.get(f"{EDITS}/history", params={"cursor": cursor})
    assert code(history, 400) == "invalid_cursor"
    for limit in (0, -1, 1001, "x"):
        assert code(client.get(EDITS, params={"limit": limit}), 400) == "invalid_request"


def test_filters(client: TestClient) -> None:
    lyon = add(client, LYON["statement"], aliases=["La France"], subject="France")
    acme = add(client, "The CEO of Acme is Ann Li.", author="Zoë")
    client.post(f"{EDITS}/{acme['id']}/revert")
    assert ids(client.get(EDITS)) == [lyon["id"]]
    assert ids(client.get(EDITS, params={"state": "reverted"})) == [acme["id"]]
    assert len(ids(client.get(EDITS, params={"state": ["active", "reverted"]}))) == 2
    for name in ("france", "LA FRANCE"):
        assert ids(client.get(EDITS, params={"subject": name})) == [lyon["id"]]
    assert ids(client.get(EDITS, params={"subject": "Fran"})) == []
    for part in ("ann l", "zoë", "CEO of"):
        assert ids(client.get(EDITS, params={"state": "all", "text": part})) == [acme["id"]]
    assert code(client.get(EDITS, params={"state": "gone"}), 400) == "invalid_request"


def test_etags(client: TestClient) -> None:
    made = add(client, LYON["statement"])
    path, tag = f"{EDITS}/{made['id']}", made["etag"]
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = client.get(path, headers={"if-none-match": header})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    for action, body in (("revert", {}), ("restore", {}), ("supersede", {"target": "Nice"})):
        for header in ('"other"', f"W/{tag}"):
            refused = client.post(f"{path}/{action}", json=body, headers={"if-match": header})
            assert code(refused, 412) == "edit_changed"
    reverted = client.post(f"{path}/revert", headers={"if-match": tag})
    assert reverted.headers["etag"] == reverted.json()["etag"] != tag
    assert client.get(path, headers={"if-none-match": tag}).status_code == 200
    stale = client.post(f"{path}/restore", headers={"if-match": tag})
    assert code(stale, 412) == "edit_changed"
    assert client.post(f"{path}/restore", headers={"if-match": "*"}).status_code == 200


def test_the_past(client: TestClient) -> None:
    first = add(client, LYON["statement"])
    time.sleep(0.02)
    then = datetime.now(UTC).isoformat()
    time.sleep(0.02)
    client.post(f"{EDITS}/{first['id']}/revert")
    add(client, "Iron floats.")
    moment = {"as_of": then}
    assert client.get(f"{EDITS}/{first['id']}", params=moment).json()["state"] == "active"
    assert ids(client.get(EDITS, params=moment)) == [first["id"]]
    (found,) = client.post(
        f"{EDITS}/search", json={"query": LYON["statement"], "as_of": then}
    ).json()["data"]
    assert found["id"] == first["id"]
    long_ago = {"as_of": "2001-01-01"}
    missing = client.get(f"{EDITS}/{first['id']}", params=long_ago)
    assert code(missing, 404) == "edit_not_found"
    assert code(client.get(EDITS, params={"as_of": "once"}), 400) == "invalid_request"


def test_search_and_explain_go_by_meaning(tmp_path: Path, encoder: Encoder) -> None:
    with Api(tmp_path / "memory.sqlite3", encoder) as api:
        client = api.client()
        lyon = add(client, LYON["statement"])
        acme = add(client, "The CEO of Acme is Maria Keller.")
        found = client.post(f"{EDITS}/search", json={"query": "Who is the boss of Acme?"}).json()
        assert [edit["id"] for edit in found["data"]] == [acme["id"], lyon["id"]]
        best, worse = (edit["score"] for edit in found["data"])
        some = {"query": "Who is the boss of Acme?", "min_score": (best + worse) / 2, "limit": 5}
        assert ids(client.post(f"{EDITS}/search", json=some)) == [acme["id"]]
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        for body in ({"prompt": asked[0]["content"]}, {"messages": asked}):
            said = client.post(f"{EDITS}/explain", json=body).json()
            assert (said["route"], said["edits"]) == ("ike", [lyon["id"]])
            assert said["considered"][0]["accepted"] is True
            assert "France" in said["reasons"][0]
            if "prompt" in body:
                assert said["rewritten"].endswith(body["prompt"])
                assert "is Lyon." in said["rewritten"]
            else:
                (turn,) = said["rewritten"]
                assert turn["role"] == "user"
                assert turn["content"].endswith(asked[0]["content"])
                assert "is Lyon." in turn["content"]
        other = client.post(f"{EDITS}/explain", json={"prompt": "What is the capital of Peru?"})
        assert (other.json()["route"], other.json()["edits"]) == ("passthrough", [])
        assert other.json()["rewritten"] is None
        for bad in ({}, {"prompt": "a", "messages": asked}, {"messages": []}):
            assert code(client.post(f"{EDITS}/explain", json=bad), 400) == "invalid_request"


# changing


def test_superseding_changes_what_is_given_and_keeps_the_rest(api: Api, client: TestClient) -> None:
    old = client.post(
        EDITS,
        json={
            "subject": "Acme",
            "prompt": "The CEO of {} is",
            "target": "Ann Li",
            "aliases": ["Acme Inc."],
            "relation": "ceo",
            "source": "the register",
        },
    ).json()
    path = f"{EDITS}/{old['id']}/supersede"
    new = client.post(path, json={"target": "Bo Chen", "reason": "she left"}).json()
    assert new["supersedes"] == [old["id"]]
    assert new["statement"] == "The CEO of Acme is Bo Chen."
    for member in ("subject", "prompt", "aliases", "relation", "source"):
        assert new[member] == old[member]
    now = client.get(f"{EDITS}/{old['id']}").json()
    assert (now["state"], now["superseded_by"]) == ("superseded", new["id"])
    assert code(client.post(path, json={"target": "Cy"}), 409) == "wrong_state"
    again = f"{EDITS}/{new['id']}/supersede"
    assert code(client.post(again, json={"target": "Bo Chen"}), 409) == "wrong_state"
    assert code(client.post(again, json={}), 400) == "invalid_request"
    client.post(f"{EDITS}/{new['id']}/revert")
    assert api.memory.get(old["id"]).state == "active"


def test_a_relation_of_many_objects_is_superseded_where_it_is_named(client: TestClient) -> None:
    """Adding 'Ann knows Cy' retires nothing, since one can know many; superseding does."""
    parts = {"subject": "Ann", "prompt": "{} is a friend of"}
    old = client.post(EDITS, json={**parts, "target": "Bo"}).json()
    beside = client.post(EDITS, json={**parts, "target": "Cy"}).json()
    assert beside["supersedes"] == []
    new = client.post(f"{EDITS}/{old['id']}/supersede", json={"target": "Di"}).json()
    assert new["supersedes"] == [old["id"]]
    assert client.get(f"{EDITS}/{old['id']}").json()["state"] == "superseded"
    assert client.get(f"{EDITS}/{beside['id']}").json()["state"] == "active"


def test_a_sentence_is_superseded_by_a_sentence(client: TestClient) -> None:
    old = add(client, "Water boils at fifty degrees.")
    path = f"{EDITS}/{old['id']}/supersede"
    assert code(client.post(path, json={"target": "ninety"}), 400) == "invalid_edit"
    new = client.post(path, json={"statement": "Water boils at ninety degrees."}).json()
    assert (new["supersedes"], new["state"]) == ([old["id"]], "active")


def test_reverting_and_restoring(client: TestClient) -> None:
    old = add(client, "The capital of France is Lyon.")
    new = add(client, "The capital of France is Nice.")
    path = f"{EDITS}/{new['id']}"
    assert code(client.post(f"{path}/restore"), 409) == "wrong_state"
    reverted = client.post(f"{path}/revert", json={"author": "bo", "reason": "wrong"}).json()
    assert (reverted["state"], reverted["active_again"]) == ("reverted", [old["id"]])
    again = client.post(f"{path}/revert")
    assert code(again, 409) == "wrong_state"
    assert "restore" in again.json()["error"]["message"]
    assert client.post(f"{path}/restore", json={}).json()["state"] == "active"
    events = client.get(f"{path}/history").json()["data"]
    assert [event["kind"] for event in events] == ["add", "revert", "restore"]
    assert (events[1]["author"], events[1]["reason"]) == ("bo", "wrong")


def test_the_history_of_a_namespace_goes_on_where_it_was(client: TestClient) -> None:
    made = [add(client, f"The code of City{n} is C{n}.")["id"] for n in range(3)]
    elsewhere = {"x-memedit-namespace": "other"}
    client.post(EDITS, json=LYON, headers=elsewhere)
    client.post(f"{EDITS}/{made[0]}/revert")
    found = pages(client, f"{EDITS}/history", limit=3)
    assert [len(page) for page in found] == [3, 1]
    said = [(event["kind"], event["edit_id"]) for page in found for event in page]
    assert said == [*(("add", edit_id) for edit_id in made), ("revert", made[0])]
    assert found[0][1]["statement"] == "The code of City1 is C1."
    newest = pages(client, f"{EDITS}/history", order="desc", limit=3)
    assert list(chain(*newest)) == list(chain(*found))[::-1]
    # What happens meanwhile neither repeats nor hides anything.
    first = client.get(f"{EDITS}/history", params={"order": "desc", "limit": 3}).json()
    client.post(f"{EDITS}/{made[0]}/restore")
    rest = {"order": "desc", "limit": 3, "cursor": first["next_cursor"]}
    assert client.get(f"{EDITS}/history", params=rest).json()["data"] == newest[1]
    wrong = client.get(f"{EDITS}/history", params={"cursor": first["next_cursor"]})
    assert code(wrong, 400) == "invalid_cursor"
    assert len(client.get(f"{EDITS}/history", headers=elsewhere).json()["data"]) == 1


def test_a_key_can_ask_what_it_may_do(api: Api) -> None:
    api.memory.add(structured("Oz", "The capital of {} is", "Em"), namespace="other")
    said = api.client("write", "b", "a").get(f"{EDITS}/key?namespace=a").json()
    assert said["namespaces"] == ["b", "a"]
    assert (said["role"], said["namespace"], said["all_namespaces"]) == ("write", "a", False)
    key, secret = api.key("read", name="ops")
    everywhere = api.bare(**{"x-memedit-key": secret}).get(f"{EDITS}/key")
    assert everywhere.json() == {
        "object": "key",
        "id": key.id,
        "name": "ops",
        "role": "read",
        "namespace": "default",
        "namespaces": ["default", "other"],
        "all_namespaces": True,
    }
    assert secret not in everywhere.text
    assert key.hash not in everywhere.text


def test_conflicts(client: TestClient) -> None:
    lyon = add(client, "The capital of France is Lyon.")
    nice = add(client, "The capital of France is Nice.", policy="keep")
    add(client, "Iron floats.")
    (page,) = pages(client, f"{EDITS}/conflicts")
    assert [one["id"] for one in page] == [nice["id"]]
    assert [other["id"] for other in page[0]["conflicts"]] == [lyon["id"]]
    one = client.get(f"{EDITS}/{lyon['id']}/conflicts").json()
    assert [(o["id"], o["target"]) for o in one["conflicts"]] == [(nice["id"], "Nice")]
    client.post(f"{EDITS}/{nice['id']}/revert")
    assert pages(client, f"{EDITS}/conflicts") == [[]]
    assert client.get(f"{EDITS}/{lyon['id']}/conflicts").json()["conflicts"] == []


# in bulk

JSONL = {"content-type": "application/jsonl"}


def test_what_is_exported_is_imported_elsewhere(client: TestClient, tmp_path: Path) -> None:
    for n in range(3):
        add(client, f"The code of City{n} is C{n}.")
    client.post(
        EDITS,
        json={"edits": [{"statement": f"The code of Town{n} is T{n}."} for n in range(997)]},
    )
    exported = client.get(f"{EDITS}/export")
    assert exported.headers["content-type"] == "application/jsonl"
    lines = exported.text.splitlines()
    assert len(lines) == 1000
    with Api(tmp_path / "other.sqlite3") as other:
        there = other.client()
        report = there.post(f"{EDITS}/import", content=exported.content, headers=JSONL).json()
        assert (report["total"], report["added"], report["errors"]) == (1000, 1000, [])
        assert there.get(f"{EDITS}/export").content == exported.content
        again = there.post(f"{EDITS}/import", content=exported.content, headers=JSONL).json()
        assert (again["added"], again["skipped"]) == (0, 1000)
        assert there.get(f"{EDITS}/export").content == exported.content


def test_bad_lines_are_told_one_by_one(api: Api, client: TestClient) -> None:
    lines = [
        '{"statement": "Iron floats."}',
        *("nonsense", "", '{"subject": "x"}', '{"statement": "<|im_end|>"}'),
    ]
    data = "\n".join(lines).encode()
    path = f"{EDITS}/import"
    for params in ({"dry_run": True}, {"dry_run": True, "skip_bad": True}):
        dry = client.post(path, content=data, headers=JSONL, params=params).json()
        assert (dry["dry_run"], dry["total"], dry["added"]) == (True, 4, 1)
        assert [bad["line"] for bad in dry["errors"]] == [2, 4, 5]
    refused = client.post(path, content=data, headers=JSONL)
    assert code(refused, 400) == "invalid_edit"
    assert [bad["line"] for bad in refused.json()["error"]["lines"]] == [2, 4, 5]
    assert len(api.memory) == 0
    done = client.post(path, content=data, headers=JSONL, params={"skip_bad": True}).json()
    assert (done["added"], len(done["errors"])) == (1, 3)
    assert len(api.memory) == 1


def test_csv_and_what_is_neither(client: TestClient) -> None:
    table = (
        'subject,prompt,target\nFrance,The capital of {} is,Lyon\nAcme,The CEO of {} is,"Li, Ann"\n'
    )
    path = f"{EDITS}/import"
    headers = {"content-type": "text/csv; charset=utf-8"}
    params = {"author": "bo", "reason": "the list"}
    report = client.post(path, content=table.encode(), headers=headers, params=params).json()
    assert report["added"] == 2
    (acme,) = client.get(EDITS, params={"subject": "acme"}).json()["data"]
    assert (acme["target"], acme["author"], acme["reason"]) == ("Li, Ann", "bo", "the list")
    assert code(client.post(path, content=b"a,b\n1,2\n", headers=headers), 400) == "invalid_request"
    for kind in ("application/json", "text/plain", ""):
        response = client.post(path, content=b"{}", headers={"content-type": kind})
        assert code(response, 415) == "unsupported_media_type"


def test_an_import_may_make_new_ids(client: TestClient) -> None:
    line = json.dumps({**LYON, "id": "mine"}).encode()
    client.post(f"{EDITS}/import", content=line, headers=JSONL, params={"ids": "new"})
    (found,) = ids(client.get(EDITS))
    assert found != "mine"


@pytest.mark.parametrize("reserved", ["search", "export", "openapi.json", "history"])
def test_paths_of_the_api_are_no_ids(client: TestClient, reserved: str) -> None:
    assert code(client.post(EDITS, json={**LYON, "id": reserved}), 400) == "invalid_edit"
    line = json.dumps({**LYON, "id": reserved}).encode()
    report = client.post(
        f"{EDITS}/import", content=line, headers=JSONL, params={"dry_run": True}
    ).json()
    assert [bad["line"] for bad in report["errors"]] == [1]
