"""The journal: what was committed is there, what is wrong is said."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memedit.errors import MemoryFileDamaged, MemoryFileError, MemoryFileVersion
from memedit.journal import SCHEMA_VERSION, Journal, Transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with_file = Journal(path)
    yield with_file
    with_file.close()


def add(transaction: Transaction, edit_id: str, text: str = "Lyon") -> int:
    return transaction.append(
        "add", edit_id, "default", author="ann", reason="néw", edit={"id": edit_id, "target": text}
    ).position


def fail_to_add(journal: Journal) -> None:
    with contextlib.suppress(KeyError), journal.transaction() as transaction:
        add(transaction, "never")
        raise KeyError


def add_many(journal: Journal, count: int) -> None:
    with journal.transaction() as transaction:
        for i in range(count):
            add(transaction, f"e{i}")


def tamper(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_events_read_back_as_they_were_appended(journal: Journal, path: Path) -> None:
    with journal.transaction() as transaction:
        first = transaction.append(
            "add", "a", "ns", author="ann", reason="ünï \x00 code", edit={"id": "a", "target": "Ż"}
        )
        second = transaction.append("add", "b", "ns", edit={"id": "b"}, supersedes=["a"])
        third = transaction.append("revert", "b", "ns", author="bob")
    assert [first.position, second.position, third.position] == [1, 2, 3]
    for reader in (journal, Journal(path)):
        assert reader.read_since(0) == [first, second, third]
        assert reader.read_since(2) == [third]
        assert reader.read_since(0, limit=2) == [first, second]
        assert reader.read_since(3) == []
        assert reader.history("b") == [second, third]


def test_vectors_read_back_exactly(journal: Journal) -> None:
    rows = np.random.default_rng(0).standard_normal((3_000, 7)).astype(np.float32)
    with journal.transaction() as transaction:
        positions = [add(transaction, f"e{i}") for i in range(3_000)]
        transaction.put_vectors("one@1", positions, rows)
        transaction.put_vectors("two", positions[:1], rows[:1, :3])
    found = journal.vectors("one@1", positions)
    assert all((found[p] == row).all() for p, row in zip(positions, rows, strict=True))
    assert journal.vectors("two", [1, 2, 99]).keys() == {1}
    assert journal.vectors("unknown", [1]) == {}
    assert journal.encoders() == ["one@1", "two"]
    assert journal.lacking_vectors("two", [1, 2]) == [2]
    with pytest.raises(MemoryFileVersion, match="7 dimensions"), journal.transaction() as tx:
        tx.put_vectors("one@1", [1], rows[:1, :3])


def test_a_transaction_that_fails_leaves_nothing(journal: Journal) -> None:
    fail_to_add(journal)
    assert journal.read_since(0) == []
    with journal.transaction() as transaction:
        assert add(transaction, "b") == 1


def test_the_version_changes_with_commits_and_only_then(journal: Journal, path: Path) -> None:
    other = Journal(path)
    before = journal.version()
    assert journal.version() == before
    with other.transaction() as transaction:
        add(transaction, "a")
        assert journal.version() == before
    assert journal.version() != before
    now = journal.version()
    fail_to_add(other)
    assert journal.version() == now
    other.close()


def test_writers_take_turns_and_readers_do_not_wait(journal: Journal, path: Path) -> None:
    other = Journal(path, busy_seconds=0.1)
    with journal.transaction() as transaction:
        add(transaction, "a")
        assert other.read_since(0) == []
        with pytest.raises(MemoryFileError, match="another process"), other.transaction():
            pass
    with other.transaction() as transaction:
        assert [event.edit_id for event in other.read_since(0)] == ["a"]
        assert add(transaction, "b") == 2
    other.close()


def test_many_threads_write_without_gaps(journal: Journal) -> None:
    def write(thread: int) -> None:
        for i in range(10):
            with journal.transaction() as transaction:
                add(transaction, f"{thread}-{i}")

    threads = [threading.Thread(target=write, args=(t,)) for t in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = journal.read_since(0)
    assert [event.position for event in events] == list(range(1, 61))
    assert len({event.edit_id for event in events}) == 60


def test_only_the_owner_may_read_the_file(journal: Journal, path: Path) -> None:
    with journal.transaction() as transaction:
        add(transaction, "a")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_make_the_file_at_once_agree(path: Path) -> None:
    code = (
        "import sys; from memedit.journal import Journal; j = Journal(sys.argv[1])\n"
        "with j.transaction() as t: t.append('add', sys.argv[2], 'n', edit={})\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, path, f"e{i}"]) for i in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6
    assert len(Journal(path).read_since(0)) == 6


# damage


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE events SET body = replace(body, 'Lyon', 'Nice') WHERE position = 2", "event 2 fa"),
        ("UPDATE events SET namespace = 'other' WHERE position = 2", "event 2 fails its checksum"),
        ("UPDATE events SET at = at + 1 WHERE position = 2", "event 2 fails its checksum"),
        ("UPDATE events SET kind = 'revert' WHERE position = 2", "event 2 fails its checksum"),
        ("DELETE FROM events WHERE position = 2", "event 2 is missing"),
        ("DELETE FROM events WHERE position = 3", "event 3 is missing"),
        ("UPDATE events SET position = 9 WHERE position = 3", "event 9 fails its checksum"),
    ],
)
def test_a_damaged_event_is_found(path: Path, statement: str, message: str) -> None:
    journal = Journal(path)
    add_many(journal, 3)
    tamper(path, statement)
    for reader in (journal, Journal(path)):
        with pytest.raises(MemoryFileDamaged, match=message) as caught:
            reader.read_since(0)
        assert "backup" in str(caught.value)


def test_a_damaged_vector_is_found(journal: Journal, path: Path) -> None:
    with journal.transaction() as transaction:
        transaction.put_vectors(
            "enc", [add(transaction, "a"), add(transaction, "b")], np.eye(2, dtype=np.float32)
        )
    tamper(path, "UPDATE vectors SET vector = zeroblob(8) WHERE position = 2")
    assert journal.vectors("enc", [1]).keys() == {1}
    with pytest.raises(MemoryFileDamaged, match=r"event 2 fails its checksum.*reencode=True"):
        journal.vectors("enc", [1, 2])
    assert journal.lacking_vectors("enc", [1, 2]) == [2]


def test_a_file_that_is_no_journal_is_refused_and_untouched(path: Path) -> None:
    path.write_bytes(b"The capital of France is Lyon.\n" * 500)
    before = path.read_bytes()
    with pytest.raises(MemoryFileDamaged, match="not a memory file; name another file"):
        Journal(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_untouched(path: Path) -> None:
    tamper(path, "CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(MemoryFileDamaged, match="not a memedit memory"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_cut_file_is_refused(path: Path) -> None:
    journal = Journal(path)
    add_many(journal, 500)
    journal.close()
    with path.open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(MemoryFileDamaged, match="is damaged"):
        Journal(path).read_since(0)


def test_a_newer_schema_is_refused(path: Path) -> None:
    Journal(path).close()
    tamper(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(MemoryFileVersion, match=f"schema version {SCHEMA_VERSION + 1}"):
        Journal(path)


# the file beneath


def test_a_deleted_file_is_noticed(journal: Journal, path: Path) -> None:
    path.unlink()
    with pytest.raises(MemoryFileError, match="was deleted"):
        journal.version()
    with pytest.raises(MemoryFileError, match="was deleted"), journal.transaction():
        pass


def test_a_file_deleted_inside_a_transaction_acknowledges_nothing(
    journal: Journal, path: Path
) -> None:
    def add_and_lose() -> None:
        with journal.transaction() as transaction:
            add(transaction, "a")
            path.unlink()

    with pytest.raises(MemoryFileError, match="was deleted"):
        add_and_lose()


def test_a_replaced_file_is_noticed(journal: Journal, path: Path, tmp_path: Path) -> None:
    Journal(tmp_path / "other.db").close()
    (tmp_path / "other.db").rename(path)
    with pytest.raises(MemoryFileError, match="was replaced"):
        journal.read_since(0)


def test_a_file_with_less_than_was_read_is_noticed(journal: Journal) -> None:
    add_many(journal, 2)
    assert journal.read_since(2) == []
    with pytest.raises(MemoryFileDamaged, match="went back from event 5 to 2"):
        journal.read_since(5)


def test_a_closed_journal_says_so(journal: Journal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(MemoryFileError, match="is closed"):
        journal.version()
    with pytest.raises(MemoryFileError, match="is closed"), journal.transaction():
        pass


def test_a_fork_is_refused(journal: Journal) -> None:
    child = os.fork()
    if not child:
        try:
            journal.version()
        except MemoryFileError as error:
            os._exit(0 if "after a fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("where", ["missing/memory.db", "."])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, where: str) -> None:
    with pytest.raises(MemoryFileError, match=r"does not exist; make it|is a folder"):
        Journal(tmp_path / where)


def test_a_full_disk_loses_nothing(journal: Journal) -> None:
    with journal.transaction() as transaction:
        add(transaction, "a")
    assert journal._writer is not None
    pages = journal._writer.execute("PRAGMA page_count").fetchone()[0]
    journal._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(MemoryFileError, match=r"disk is full.*Nothing of this call was written"):
        add_many(journal, 500)
    assert [event.edit_id for event in journal.read_since(0)] == ["a"]
    journal._writer.execute("PRAGMA max_page_count = 100000")
    with journal.transaction() as transaction:
        assert add(transaction, "b") == 2


# A user without rights, or the file system itself, refuses the writes of everybody but root; for
# root a mount of the test's own does, in a mount namespace of the test's own.
READ_ONLY = """
import sys
from memedit.errors import MemoryFileError
from memedit.journal import Journal
journal = Journal(sys.argv[1])
journal.version()
assert journal.read_since(0)[0].edit_id == "a"
try:
    with journal.transaction() as transaction:
        transaction.append("revert", "a", "default")
except MemoryFileError as error:
    print(error)
"""


def read_only(path: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    script = f'mount -t tmpfs none /mnt && mount --bind -o ro "{path.parent}" /mnt && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("state", ["closed", "open"])
def test_a_read_only_file_system_can_be_read(path: Path, state: str) -> None:
    journal = Journal(path)
    with journal.transaction() as transaction:
        add(transaction, "a")
    if state == "closed":
        journal.close()
    if shutil.which("unshare") is None or read_only(path, ["true"]).returncode:
        pytest.skip("no read-only mount can be made here")
    done = read_only(path, [sys.executable, "-c", READ_ONLY, "/mnt/memory.db"])
    assert done.returncode == 0, done.stderr
    assert "is read-only; make the file" in done.stdout
    journal.close()
