"""The durable truth: an append-only journal of events in one SQLite file.

Everything else that the memory holds (index, lexicon, records) can be thrown away and rebuilt
from here. Three tables:

- ``events``: what happened, one row per edit added or reverted, numbered without gaps by
  ``position``, each with a checksum over all of its columns;
- ``encoders``: the encoders whose vectors the file holds;
- ``vectors``: one float32 row per added edit and encoder, with its own checksum, so that
  rebuilding an index encodes nothing.

The file is in WAL mode with full synchronisation: when :meth:`Journal.transaction` ends without
an exception, its events survive the death of the process and of the machine. Beside ``FILE``
SQLite keeps ``FILE-wal`` and ``FILE-shm`` while somebody has it open; they belong to it.

One connection reads and another one writes, each behind its own lock, so that a writer that waits
for another process never holds up a reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from memedit.errors import MemoryFileDamaged, MemoryFileError, MemoryFileVersion
from memedit.protocols import Vectors

APPLICATION_ID = 0x6D656D45
"""SQLite's ``application_id`` of a memory file: "memE"."""

SCHEMA_VERSION = 1
"""SQLite's ``user_version`` of the files that this code writes."""

EventKind = Literal["add", "revert"]

# 8 KiB pages hold five 384-dimensional vectors with little waste; 4 KiB pages hold two.
_SCHEMA = """
CREATE TABLE events (
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
    at        REAL NOT NULL,
    kind      TEXT NOT NULL,
    edit_id   TEXT NOT NULL,
    namespace TEXT NOT NULL,
    body      TEXT NOT NULL,
    checksum  BLOB NOT NULL
);
CREATE INDEX events_of_edit ON events (edit_id);
CREATE TABLE encoders (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    dim  INTEGER NOT NULL
);
CREATE TABLE vectors (
    encoder  INTEGER NOT NULL REFERENCES encoders (id),
    position INTEGER NOT NULL REFERENCES events (position),
    vector   BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX vector_of_event ON vectors (encoder, position);
"""

_POSITIONS_PER_QUERY = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an edit.

    Attributes:
        position: its number in the journal, from 1, without gaps, never reused.
        at: seconds since the epoch, by the clock of the machine that wrote it.
        kind: ``add`` or ``revert``.
        edit_id: the edit that it happened to.
        namespace: where that edit lives.
        author, reason: free text of whoever did it.
        edit: the edit's fields as :meth:`memedit.edits.Edit.to_mapping` gives them, on ``add``.
        supersedes: ids of the edits that an ``add`` replaced.
    """

    position: int
    at: float
    kind: EventKind
    edit_id: str
    namespace: str
    author: str = ""
    reason: str = ""
    edit: Mapping[str, Any] | None = None
    supersedes: tuple[str, ...] = ()


class Transaction:
    """Appends events; made by :meth:`Journal.transaction`, whose block must still be open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._next = _last_position(connection) + 1

    def append(
        self,
        kind: EventKind,
        edit_id: str,
        namespace: str,
        *,
        author: str = "",
        reason: str = "",
        edit: Mapping[str, Any] | None = None,
        supersedes: Sequence[str] = (),
    ) -> Event:
        """Appends one event; it counts once the transaction's block has ended."""
        event = Event(
            position=self._next,
            at=time.time(),
            kind=kind,
            edit_id=edit_id,
            namespace=namespace,
            author=author,
            reason=reason,
            edit=edit,
            supersedes=tuple(supersedes),
        )
        parts = {
            "edit": edit,
            "author": author,
            "reason": reason,
            "supersedes": list(event.supersedes),
        }
        set_parts = {name: part for name, part in parts.items() if part}
        body = json.dumps(set_parts, ensure_ascii=False, separators=(",", ":"))
        row = (event.position, event.at, kind, edit_id, namespace, body)
        self._connection.execute(
            "INSERT INTO events (position, at, kind, edit_id, namespace, body, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, _checksum_of_event(row)),
        )
        self._next += 1
        return event

    def put_vectors(self, encoder: str, positions: Sequence[int], vectors: Vectors) -> None:
        """Stores what an encoder made of the edits added at these positions.

        Args:
            encoder: the encoder's name.
            positions: of ``add`` events, n of them.
            vectors: shape (n, dim), float32; replaces what was stored under the same name.

        Raises:
            MemoryFileVersion: the file holds vectors of that name and of another length.
        """
        if len(positions) != len(vectors):
            raise ValueError(f"{len(positions)} positions and {len(vectors)} vectors")
        if not len(positions):
            return
        dim = int(vectors.shape[1])
        self._connection.execute(
            "INSERT OR IGNORE INTO encoders (name, dim) VALUES (?, ?)", (encoder, dim)
        )
        number, known = self._connection.execute(
            "SELECT id, dim FROM encoders WHERE name = ?", (encoder,)
        ).fetchone()
        if known != dim:
            raise MemoryFileVersion(
                f"the memory file holds vectors of {encoder!r} with {known} dimensions, and these "
                f"have {dim}; give the changed encoder another name"
            )
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        self._connection.executemany(
            "INSERT OR REPLACE INTO vectors (encoder, position, vector, checksum) "
            "VALUES (?, ?, ?, ?)",
            (
                (number, position, blob, _checksum_of_vector(position, encoder, blob))
                for position, blob in zip(
                    map(int, positions), (row.tobytes() for row in rows), strict=True
                )
            ),
        )


class Journal:
    """One memory file, open for reading and, where it can be written, for appending.

    Usable from several threads and beside other processes on the same file; not across a fork.

    Args:
        path: the file; made with permissions 0600 where there is none. Its folder must exist.
        busy_seconds: how long to wait for another process that is writing.

    Raises:
        MemoryFileError: the file cannot be made, opened or read.
        MemoryFileDamaged: the file is no memory file.
        MemoryFileVersion: a newer memedit wrote it.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_seconds: float = 10.0) -> None:
        self.path = Path(path).absolute()
        self._busy_seconds = busy_seconds
        self._reading = threading.RLock()
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._openings = 0
        self._closed = False
        self._pid = os.getpid()
        with self._translated():
            self._make_file()
            self._reader = self._open_reader()

    # reading

    def version(self) -> tuple[int, int]:
        """A value that differs from an earlier one once another connection has committed.

        Cheap (a ``stat`` and a ``PRAGMA data_version``): meant to be asked at every request.

        Raises:
            MemoryFileError: the file was deleted or replaced, or the journal is closed.
        """
        with self._reading, self._translated():
            stat = self._check_file()
            if self._immutable and self._stamp(stat) != self._opened_as:
                self._reader.close()
                self._reader = self._open_reader()
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            return self._openings, version

    def read_since(self, position: int, limit: int = 10_000) -> list[Event]:
        """At most ``limit`` events after ``position``, in order; empty when there are no more.

        Raises:
            MemoryFileDamaged: an event is missing or fails its checksum, or the file holds less
                than the caller has already read.
        """
        with self._reading, self._translated():
            self._check_file()
            # First, since more may be committed between the two: then there are more rows than
            # it promises, and never fewer.
            last = _last_position(self._reader)
            rows = self._reader.execute(
                "SELECT position, at, kind, edit_id, namespace, body, checksum FROM events "
                "WHERE position > ? ORDER BY position LIMIT ?",
                (position, limit),
            ).fetchall()
        if last < position:
            raise MemoryFileDamaged(
                f"{self.path} went back from event {position} to {last}: an older copy was written "
                "over it while it was open; open the memory again"
            )
        events = [self._event(row) for row in rows]
        for expected, event in enumerate(events, position + 1):
            if event.position != expected:
                raise self._damaged(f"event {expected} is missing")
        if len(events) < limit and last > position + len(events):
            raise self._damaged(f"event {position + len(events) + 1} is missing")
        return events

    def history(self, edit_id: str) -> list[Event]:
        """The events of one edit, in order.

        Raises:
            MemoryFileDamaged: one of them fails its checksum.
        """
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                "SELECT position, at, kind, edit_id, namespace, body, checksum FROM events "
                "WHERE edit_id = ? ORDER BY position",
                (edit_id,),
            ).fetchall()
        return [self._event(row) for row in rows]

    def encoders(self) -> list[str]:
        """Names of the encoders whose vectors the file holds, in the order of their first use."""
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute("SELECT name FROM encoders ORDER BY id").fetchall()
        return [name for (name,) in rows]

    def vectors(self, encoder: str, positions: Iterable[int]) -> dict[int, Vectors]:
        """What ``encoder`` made of the edits added at ``positions``: rows of shape (dim,).

        Positions without a vector of this encoder are left out.

        Raises:
            MemoryFileDamaged: a vector fails its checksum.
        """
        found = self._stored_vectors(encoder, positions)
        if bad := sorted(position for position, row in found.items() if row is None):
            raise MemoryFileDamaged(
                f"{self.path} is damaged: the vector of event {bad[0]} fails its checksum. The "
                "edits themselves are not in doubt: open the memory with reencode=True, which "
                "makes the vectors again"
            )
        return {position: row for position, row in found.items() if row is not None}

    def lacking_vectors(self, encoder: str, positions: Iterable[int]) -> list[int]:
        """Those of ``positions`` that have no undamaged vector of this encoder."""
        positions = list(positions)
        found = self._stored_vectors(encoder, positions)
        return [position for position in positions if found.get(position) is None]

    # writing

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Appends events, all of them or none; durable when the block ends.

        From its beginning to its end no other connection commits: what :meth:`read_since` gives
        inside the block is all there is, so a decision taken on it still holds at the commit.

        Raises:
            MemoryFileError: the file is read-only, its disk is full, another process kept it
                locked, or it was deleted or replaced. Nothing of the block was written then.
        """
        with self._writing, self._translated(nothing_written=True):
            self._check_file()
            if self._immutable:
                raise MemoryFileError(_WAYS_OUT["SQLITE_READONLY"].format(path=self.path))
            if self._writer is None:
                self._writer = self._connect("mode=rw")
                self._writer.execute("PRAGMA synchronous = FULL")
            writer = self._writer
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(writer)
                self._check_file()
                writer.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, a full disk among them.
                with contextlib.suppress(sqlite3.Error):
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file; harmless when it is closed already."""
        with self._writing, self._reading:
            self._closed = True
            if self._pid != os.getpid():
                return  # a fork's copies share the parent's locks: they must not be closed here
            if self._writer is not None:
                self._writer.close()
            self._reader.close()

    # the file

    def _make_file(self) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if self.path.is_dir():
                raise MemoryFileError(f"{self.path} is a folder; name a file in it") from None
        except FileNotFoundError as error:
            raise MemoryFileError(
                f"{self.path} cannot be made: the folder {self.path.parent} does not exist; make it"
            ) from error
        except OSError as error:
            if not self.path.exists():
                raise MemoryFileError(
                    f"{self.path} cannot be made: {error.strerror}; choose another place"
                ) from error

    def _connect(self, query: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?{query}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        self._immutable = False
        try:
            reader = self._connect("mode=rw")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in ("SQLITE_CANTOPEN", "SQLITE_READONLY_CANTINIT"):
                raise
            # A file in WAL mode needs a -shm beside it, which a read-only file system refuses.
            # Without one the file can only be read as it lies there, which is all of it as long
            # as no commits wait in a -wal.
            wal = Path(f"{self.path}-wal")
            if not os.access(self.path, os.R_OK):
                raise
            if wal.exists() and wal.stat().st_size:
                raise MemoryFileError(
                    f"{self.path} lies where nothing can be written, with commits waiting in "
                    f"{wal.name}; open it once where its folder can be written, or copy both files "
                    "to such a place"
                ) from error
            self._immutable = True
            reader = self._connect("immutable=1")
        try:
            self._check_format(reader)
        except BaseException:
            reader.close()
            raise
        stat = self.path.stat()
        self._inode = (stat.st_dev, stat.st_ino)
        self._opened_as = self._stamp(stat)
        self._openings += 1
        return reader

    def _check_format(self, connection: sqlite3.Connection) -> None:
        if _is_blank(connection):
            self._initialise(connection)
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise MemoryFileDamaged(
                f"{self.path} is an SQLite database, but not a memedit memory; name another file"
            )
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise MemoryFileVersion(
                f"{self.path} has schema version {version}, and this memedit reads version "
                f"{SCHEMA_VERSION}; use the memedit that wrote it, or a newer one"
            )

    def _initialise(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA page_size = 8192")
        deadline = time.monotonic() + self._busy_seconds
        while True:
            # SQLite does not wait for its busy timeout when it changes the journal mode, and two
            # processes may make the same file at the same moment.
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _is_blank(connection):
                for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _stamp(stat: os.stat_result) -> tuple[int, int]:
        return stat.st_mtime_ns, stat.st_size

    def _check_file(self) -> os.stat_result:
        if self._closed:
            raise MemoryFileError(f"{self.path} is closed; open it again")
        if self._pid != os.getpid():
            raise MemoryFileError(
                f"{self.path} was opened in process {self._pid} and is used in {os.getpid()} after "
                "a fork, which SQLite does not allow; open the memory in the new process"
            )
        try:
            stat = self.path.stat()
        except FileNotFoundError as error:
            raise MemoryFileError(
                f"{self.path} was deleted while it was open; put it back from a backup, or open "
                "the memory again to start an empty one"
            ) from error
        except OSError as error:
            raise MemoryFileError(f"{self.path} cannot be reached: {error.strerror}") from error
        if (stat.st_dev, stat.st_ino) != self._inode:
            raise MemoryFileError(
                f"{self.path} was replaced by another file while it was open; open the memory again"
            )
        return stat

    @contextmanager
    def _translated(self, nothing_written: bool = False) -> Iterator[None]:
        """Turns SQLite's errors into ours, with the way out."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", None) or ""
            kind: type[MemoryFileError] = MemoryFileError
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                kind = MemoryFileDamaged
            way_out = next(
                (text for start, text in _WAYS_OUT.items() if name.startswith(start)),
                f"{{path}}: {error}",
            ).format(path=self.path, folder=self.path.parent, seconds=self._busy_seconds)
            if nothing_written and kind is MemoryFileError:
                way_out += " Nothing of this call was written."
            raise kind(way_out) from error

    def _damaged(self, what: str) -> MemoryFileDamaged:
        return MemoryFileDamaged(
            f"{self.path} is damaged: {what}; put it back from a backup, or save what can be read "
            "with the .recover command of the sqlite3 tool"
        )

    def _event(self, row: tuple[Any, ...]) -> Event:
        position, at, kind, edit_id, namespace, body, checksum = row
        if checksum != _checksum_of_event(row[:-1]):
            raise self._damaged(f"event {position} fails its checksum")
        parts = json.loads(body)
        return Event(
            position=position,
            at=at,
            kind=kind,
            edit_id=edit_id,
            namespace=namespace,
            author=parts.get("author", ""),
            reason=parts.get("reason", ""),
            edit=parts.get("edit"),
            supersedes=tuple(parts.get("supersedes", ())),
        )

    def _stored_vectors(self, encoder: str, positions: Iterable[int]) -> dict[int, Vectors | None]:
        """Rows by position; ``None`` where the stored one fails its checksum."""
        wanted = sorted(map(int, positions))
        found: dict[int, Vectors | None] = {}
        with self._reading, self._translated():
            self._check_file()
            known = self._reader.execute(
                "SELECT id, dim FROM encoders WHERE name = ?", (encoder,)
            ).fetchone()
            if known is None:
                return {}
            number, dim = known
            for start in range(0, len(wanted), _POSITIONS_PER_QUERY):
                some = wanted[start : start + _POSITIONS_PER_QUERY]
                for position, blob, checksum in self._reader.execute(
                    "SELECT position, vector, checksum FROM vectors "
                    "WHERE encoder = ? AND position IN (SELECT value FROM json_each(?))",
                    (number, json.dumps(some)),
                ):
                    sound = checksum == _checksum_of_vector(position, encoder, blob)
                    row = np.frombuffer(blob, dtype="<f4") if sound else None
                    found[position] = row if row is not None and len(row) == dim else None
        return found


_WAYS_OUT = {
    "SQLITE_FULL": "{path} cannot grow: its disk is full; free some space on it and try again.",
    "SQLITE_READONLY": "{path} is read-only; make the file and its folder writable for this user, "
    "or change the memory where it can be written.",
    "SQLITE_BUSY": "another process has been writing to {path} for {seconds:g} seconds; try again, "
    "and end the process if it hangs.",
    "SQLITE_NOTADB": "{path} is not a memory file; name another file.",
    "SQLITE_CORRUPT": "{path} is damaged; put it back from a backup, or save what can be read with "
    "the .recover command of the sqlite3 tool.",
    "SQLITE_CANTOPEN": "{path} cannot be opened; the file and its folder must be readable and "
    "writable for this user.",
    "SQLITE_PERM": "{path} cannot be opened; the file must be readable and writable for this user.",
    "SQLITE_IOERR": "{path} cannot be read or written: the disk or the file system reports an "
    "error; check that it is there, sound and not full.",
}


def _is_blank(connection: sqlite3.Connection) -> bool:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(application == 0 and tables == 0)


def _last_position(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0])


def _checksum_of_event(row: Sequence[Any]) -> bytes:
    """Over position, time, kind, edit id, namespace and body; JSON keeps a float exactly."""
    return blake2b(json.dumps(list(row)).encode(), digest_size=8).digest()


def _checksum_of_vector(position: int, encoder: str, blob: bytes) -> bytes:
    return blake2b(f"{position}\0{encoder}\0".encode() + blob, digest_size=8).digest()
