"""docs/api.md: its commands run, and its tables are whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from fastapi.routing import APIRoute

from memedit.server.api_errors import CODES
from memedit.server.door import ROLE
from memedit.server.process import free_port
from tests.conftest import ROOT
from tests.server.edits_api import Api
from tests.server.upstream import Upstream
from tests.shell import run

DOCS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_commands_run_and_do_what_is_said(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 8
    memory = tmp_path / "memory.sqlite3"
    script = "set -euo pipefail\n" + "\n".join(f"{block}\necho '=== end'" for block in blocks)
    with Upstream() as upstream:
        environ = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "MEMEDIT_MEMORY_PATH": str(memory),
            "UPSTREAM": upstream.url,
            "PORT": str(free_port()),
        }
        output = run(f"{script}\nkill %1", tmp_path, environ, seconds=300)
    _, keys, added, dry, looked, changed, happened, bulk = output.split("=== end")[:8]
    assert "write in default, staging" in keys
    assert json.loads(added)["id"] == "capital"
    (would,) = json.loads(dry)["data"]
    assert would["supersedes"] == ["capital"]
    listed, one, found, explained = _objects(looked)
    assert listed["data"] == [one]
    assert found["data"][0]["id"] == "capital"
    assert explained["edits"] == ["capital"]
    superseding, refused, reverted, restored = _objects(changed)
    assert superseding["supersedes"] == ["capital"]
    assert refused["error"]["code"] == "edit_changed"
    assert [reverted["state"], restored["state"]] == ["reverted", "superseded"]
    history = _objects(happened.partition("changes")[0])
    assert [event["kind"] for event in history[0]["data"]] == ["add", "revert", "restore"]
    assert len(history[1]["data"]) == 4
    assert history[3]["data"][0]["action"] == "add"
    assert "restore" in happened.partition("changes")[2]
    would, done = _objects(bulk)
    assert (would["dry_run"], would["added"]) == (True, 0)
    assert done["added"] == 1


def _objects(text: str) -> list[dict[str, object]]:
    """The JSON objects of a text, one after the other."""
    found, at, decoder = [], 0, json.JSONDecoder()
    text = text.strip()
    while at < len(text):
        one, at = decoder.raw_decode(text, at)
        found.append(one)
        while at < len(text) and text[at].isspace():
            at += 1
    return found


def test_every_operation_and_every_code_is_in_the_docs(tmp_path: Path) -> None:
    with Api(tmp_path / "memory.sqlite3") as api:
        for route in api.app.routes:
            assert isinstance(route, APIRoute)
            (method,) = route.methods
            role = (route.openapi_extra or {})[ROLE]
            assert f"| `{method} {route.path}` | {role} |" in DOCS
    assert len(re.findall(r"^\| `(?:GET|POST) ", DOCS, re.MULTILINE)) == len(api.app.routes)
    for code, (status, _) in CODES.items():
        assert f"| `{code}` | {status} |" in DOCS
    assert set(re.findall(r"^\| `(\w+)` \| \d", DOCS, re.MULTILINE)) == set(CODES)
