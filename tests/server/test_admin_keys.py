"""Admin keys and the audit log, as files that several processes share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from memedit.errors import AccessFileError, EditConflict, InvalidInput
from memedit.server.audit import Audit
from memedit.server.keys import ROLES, Keys


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory.sqlite3"


def test_a_key_opens_until_it_is_revoked(memory: Path) -> None:
    keys, elsewhere = Keys(memory), Keys(memory)
    assert not keys.exist()
    key, secret = keys.add(" ci ", "write", ("a", "b"))
    assert elsewhere.find(secret) == key
    assert (key.name, key.role, key.namespaces) == ("ci", "write", ("a", "b"))
    keys.revoke(key.id)
    assert elsewhere.find(secret) is None
    assert elsewhere.exist()
    (left,) = elsewhere.all()
    assert left.revoked_at is not None
    for gone in (key.id, "nobody"):
        with pytest.raises(InvalidInput, match="memedit keys list"):
            keys.revoke(gone)


def test_the_file_holds_a_hash_and_is_for_its_owner_alone(memory: Path) -> None:
    keys = Keys(memory)
    _, secret = keys.add("ci", "read")
    text = keys.path.read_text()
    assert secret.rpartition("-")[2] not in text
    assert sha256(secret.encode()).hexdigest() in text
    assert (keys.path.stat().st_mode & 0o777) == 0o600
    assert len(secret.split("-", 2)[2]) == 43  # 256 bits


def test_roles_include_those_before_them_and_namespaces_do_not(memory: Path) -> None:
    keys = Keys(memory)
    for place, role in enumerate(ROLES):
        key, _ = keys.add("k", role, ("a",))
        assert [key.may(other) for other in ROLES] == [n <= place for n in range(len(ROLES))]
        assert key.grants("a")
        assert not key.grants("ab")
        assert not key.grants("")
    everywhere, _ = keys.add("k", "read")
    assert everywhere.grants("anything")


@pytest.mark.parametrize(
    "wrong", ["", "-", "mek", "mek--", "mek-{id}", "mek-{id}-", "mek-{id}-\udc80", "{id}", "\0"]
)
def test_what_is_no_key_opens_nothing(memory: Path, wrong: str) -> None:
    keys = Keys(memory)
    key, _ = keys.add("ci", "read")
    assert keys.find(wrong.replace("{id}", key.id)) is None


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "\x1b[31m"])
def test_names_that_are_none(memory: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="printable"):
        Keys(memory).add(name, "read")
    assert not Keys(memory).exist()


def test_keys_made_at_once_are_all_there(memory: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: Keys(memory).add(f"k{n}", "read"), range(24)))
    assert {key.id for key, _ in made} == {key.id for key in Keys(memory).all()}


def test_a_file_that_cannot_be_used_is_an_error(memory: Path) -> None:
    keys = Keys(memory)
    _, secret = keys.add("ci", "read")
    keys.path.chmod(0o602)
    with pytest.raises(AccessFileError, match="chmod 600"):
        keys.find(secret)
    keys.path.chmod(0o600)
    for text in ("", "{}", "[1]", '[{"id": "x"}]'):
        keys.path.write_text(text)
        with pytest.raises(AccessFileError, match="damaged"):
            keys.find(secret)
    with pytest.raises(AccessFileError, match="folder"):
        Keys(memory.parent / "nowhere" / "memory").add("ci", "read")


def test_a_change_has_a_line_before_and_one_after(memory: Path) -> None:
    keys, audit = Keys(memory), Audit(memory)
    key, _ = keys.add("ci", "write")

    def outcomes() -> list[str]:
        return [line["outcome"] for line in audit.lines()]

    with audit.change("add", key=key, namespace="a", request="r1") as change:
        assert outcomes() == ["begun"]
        change.edits = ["ed-1"]
    with (
        pytest.raises(EditConflict),
        audit.change("add", key=key, namespace="b", request="r2"),
    ):
        raise EditConflict("no")
    with pytest.raises(OSError), audit.change("add", key=key, namespace="b", request="r3"):
        raise OSError("disk")
    assert outcomes() == ["begun", "done", "begun", "refused", "begun", "failed"]
    assert [line["edits"] for line in audit.lines("a")] == [[], ["ed-1"]]
    assert (audit.path.stat().st_mode & 0o777) == 0o600


def test_a_line_that_was_cut_off_hides_no_other(memory: Path) -> None:
    audit = Audit(memory)
    assert list(audit.lines()) == []
    audit.write("add", "done", namespace="a")
    with audit.path.open("ab") as file:
        file.write(b'{"at": \n')
    audit.write("add", "done", namespace="b")
    assert [line["namespace"] for line in audit.lines()] == ["a", "b"]
    audit.path.unlink()
    audit.path.mkdir()
    with pytest.raises(AccessFileError):
        audit.write("add", "done")
    with pytest.raises(AccessFileError):
        list(audit.lines())


_WRITER = """
import sys
from memedit.server.audit import Audit
audit = Audit(sys.argv[1])
for n in range(60):
    audit.write("add", "done", namespace=sys.argv[2], edits=[f"ed-{n}"] * 400)
"""


def test_processes_share_one_log(memory: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(memory), name], env=environ)
        for name in ("one", "two", "three")
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    raw = Audit(memory).path.read_text().splitlines()
    assert len(raw) == 180
    lines = [json.loads(line) for line in raw]
    for name in ("one", "two", "three"):
        own = [line["edits"] for line in lines if line["namespace"] == name]
        assert own == [[f"ed-{n}"] * 400 for n in range(60)]
