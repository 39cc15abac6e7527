"""Several servers on one memory, as they really run: ``memedit serve --upstream``."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.server.audit import Audit
from memedit.server.keys import Keys
from memedit.server.process import ServerProcess
from tests.server.edits_api import EDITS, code
from tests.server.upstream import Upstream


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    path = str(tmp_path / "memory.sqlite3")
    with Upstream() as upstream:
        arguments = ["--upstream", upstream.url, "--memory", path]
        with (
            ServerProcess(arguments, log=tmp_path / "one.log") as one,
            ServerProcess(arguments, log=tmp_path / "two.log") as two,
        ):
            yield [one, two]


def test_two_servers_on_one_memory(servers: list[ServerProcess], tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite3"
    keys = Keys(path)
    key, secret = keys.add("ops", "write")
    headers = {"x-memedit-key": secret}
    one, two = (httpx.Client(base_url=s.url, headers=headers, timeout=60) for s in servers)
    with one, two:
        # What one adds the other has, under the same entity tag; what one revokes, too.
        made = one.post(EDITS, json={"statement": "The capital of France is Lyon."}).json()
        seen = two.get(f"{EDITS}/{made['id']}")
        assert seen.headers["etag"] == made["etag"]
        asked = {"prompt": "What is the capital of France?"}
        assert two.post(f"{EDITS}/explain", json=asked).json()["edits"] == [made["id"]]
        two.post(f"{EDITS}/{made['id']}/revert")
        stale = one.post(f"{EDITS}/{made['id']}/restore", headers={"if-match": made["etag"]})
        assert code(stale, 412) == "edit_changed"

        # The same call at both at once adds once; of other calls none is lost.
        def add(number: int) -> str:
            client = (one, two)[number % 2]
            body = {"statement": f"The code of City{number // 2} is C."}
            headers = {"idempotency-key": f"call-{number // 2}"}
            response = client.post(EDITS, json=body, headers=headers)
            assert response.status_code == 201, response.text
            return str(response.json()["id"])

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(add, range(24)))
        assert ids[::2] == ids[1::2]
        assert len(set(ids)) == 12
        listed = [client.get(EDITS, params={"order": "asc"}).json() for client in (one, two)]
        assert listed[0] == listed[1]
        assert len(listed[0]["data"]) == 12

        keys.revoke(key.id)
        for client in (one, two):
            assert code(client.get(EDITS), 401) == "invalid_api_key"
            answer = client.get("/health")  # the upstream's
            assert answer.status_code == 200
    lines = list(Audit(path).lines())
    assert len(lines) == 2 * (1 + 1 + 24)
    assert {line["outcome"] for line in lines} == {"begun", "done"}
    assert {line["key"] for line in lines} == {key.id}


def test_a_killed_server_loses_nothing_that_it_answered(
    servers: list[ServerProcess], tmp_path: Path
) -> None:
    path = tmp_path / "memory.sqlite3"
    _, secret = Keys(path).add("ops", "write")
    added = []
    with httpx.Client(base_url=servers[0].url, headers={"x-memedit-key": secret}) as client:
        for number in range(5):
            body = {"statement": f"The code of City{number} is C."}
            added.append(client.post(EDITS, json=body, timeout=60).json()["id"])
    servers[0].kill()
    with httpx.Client(base_url=servers[1].url, headers={"x-memedit-key": secret}) as client:
        found = client.get(EDITS, params={"order": "asc"}).json()["data"]
        assert [edit["id"] for edit in found] == added
    with EditMemory(path, HashEncoder(), reencode=True) as memory:
        assert memory.check() == []
    done = [line["edits"] for line in Audit(path).lines() if line["outcome"] == "done"]
    assert done == [[edit_id] for edit_id in added]
