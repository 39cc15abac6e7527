"""``memedit keys`` and ``memedit audit``."""

from __future__ import annotations

from pathlib import Path

import pytest

from memedit.server.keys import Keys
from tests.cli.test_commands import Cli


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite3"


@pytest.fixture
def cli(memory: Path) -> Cli:
    return Cli(memory)


def test_a_key_is_shown_once_and_works_until_it_is_revoked(cli: Cli, memory: Path) -> None:
    shown = cli.run("keys", "add", "ci", "--role", "write", "-n", "a", "-n", "b")
    secret = shown.splitlines()[0]
    found = Keys(memory).find(secret)
    assert found is not None
    assert (found.name, found.role, found.namespaces) == ("ci", "write", ("a", "b"))
    listed = cli.run("keys", "list")
    assert found.id in listed
    assert secret not in listed
    assert found.hash not in cli.run("keys", "list", "--json")
    cli.run("keys", "revoke", found.id)
    assert Keys(memory).find(secret) is None
    assert cli.json("keys", "list")[0]["revoked_at"] is not None
    assert "memedit keys list" in cli.json("keys", "revoke", found.id, code=2)["error"]["message"]


def test_a_key_is_for_the_configured_namespace_unless_told_otherwise(cli: Cli) -> None:
    assert cli.json("keys", "add", "a")["namespaces"] == ["default"]
    assert cli.json("keys", "add", "b", "--all-namespaces")["namespaces"] == []
    assert cli.json("keys", "add", "a")["role"] == "read"
    refused = cli.json("keys", "add", "c", "-n", "../x", code=2)
    assert "namespace" in refused["error"]["message"]
    assert len(cli.json("keys", "list")) == 3


def test_the_audit_log_names_keys_that_were_made_and_revoked(cli: Cli) -> None:
    made = cli.json("keys", "add", "a")
    cli.run("keys", "revoke", made["id"])
    lines = cli.json("audit")
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("keys.add", "begun"),
        ("keys.add", "done"),
        ("keys.revoke", "begun"),
        ("keys.revoke", "done"),
    ]
    assert lines[1]["made"] == lines[3]["revoked"] == made["id"]
    assert made["key"] not in cli.run("audit", "--json")
    assert len(cli.json("audit", "--limit", "1")) == 1
    assert cli.json("audit", "--namespace", "x") == []
    assert "keys.revoke" in cli.run("audit")
