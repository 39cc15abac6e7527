"""One memory file: opened, read, written and looked after.

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
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from memedit.errors import MemoryFileDamaged, MemoryFileError, MemoryFileVersion
from memedit.journal.events import (
    COLUMNS,
    Event,
    Transaction,
    checksum_of_vector,
    event_of_row,
    last_position,
    mark_of,
)
from memedit.journal.schema import (
    APPLICATION_ID,
    PAGE_SIZE,
    READABLE,
    SCHEMA_VERSION,
    is_blank,
    migrate,
    version_of,
)
from memedit.protocols import Vectors

_POSITIONS_PER_QUERY = 1_000


class Journal:
    """One memory file, open for reading and, where it can be written, for appending.

    Usable from several threads and beside other processes on the same file; not across a fork.

    Args:
        path: the file; made with permissions 0600 where there is none. Its folder must exist.
        busy_seconds: how long to wait for another process that is writing.
        clock: what tells the time, in seconds since the epoch.

    Raises:
        MemoryFileError: the file cannot be made, opened or read.
        MemoryFileDamaged: the file is no memory file.
        MemoryFileVersion: a newer memedit wrote it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_seconds: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path).absolute()
        self._busy_seconds = busy_seconds
        self._clock = clock
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
            last = last_position(self._reader)
            rows = self._reader.execute(
                f"SELECT {COLUMNS} FROM events "  # noqa: S608
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

    def events_at(self, positions: Iterable[int]) -> list[Event]:
        """The events at these positions, ascending; those that there are none at are left out.

        Raises:
            MemoryFileDamaged: one of them fails its checksum.
        """
        return self._events_among("position", sorted(map(int, positions)))

    def adds(self, edit_ids: Iterable[str]) -> list[Event]:
        """The events that added these edits, ascending.

        Raises:
            MemoryFileDamaged: one of their events fails its checksum.
        """
        found = self._events_among("edit_id", list(edit_ids))
        return sorted((e for e in found if e.kind == "add"), key=lambda event: event.position)

    def ids_from(self, prefix: str, most: int) -> list[str]:
        """At most so many ids of edits that begin with this, in alphabetical order."""
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                "SELECT DISTINCT edit_id FROM events WHERE edit_id >= ? AND edit_id < ? "
                "ORDER BY edit_id LIMIT ?",
                (prefix, prefix + chr(sys.maxunicode), most),
            ).fetchall()
        return [edit_id for (edit_id,) in rows]

    def newest_ids(self, most: int) -> list[str]:
        """Ids of the edits that the newest events happened to, at most so many, oldest first."""
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                "SELECT edit_id FROM events ORDER BY position DESC LIMIT ?", (most,)
            ).fetchall()
        return list(dict.fromkeys(edit_id for (edit_id,) in reversed(rows)))

    def seal(self, position: int) -> str:
        """What tells the journal up to an event from all others, and is empty where that is gone.

        Events never change and each has a checksum over its time and content, so that a copy of
        the file that took another way has another seal from there on.
        """
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                "SELECT checksum FROM events WHERE position IN (1, ?) ORDER BY position",
                (position,),
            ).fetchall()
        return (
            "-".join(checksum.hex() for (checksum,) in rows) if len(rows) > (position > 1) else ""
        )

    def is_whole(self) -> bool:
        """Whether no event is missing; none is read, so that one may be damaged."""
        with self._reading, self._translated():
            self._check_file()
            last = last_position(self._reader)
            (count,) = self._reader.execute("SELECT count(*) FROM events").fetchone()
        return int(count) >= last

    def history(self, edit_id: str) -> list[Event]:
        """The events of one edit, in order.

        Raises:
            MemoryFileDamaged: one of them fails its checksum.
        """
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                f"SELECT {COLUMNS} FROM events "  # noqa: S608
                "WHERE edit_id = ? ORDER BY position",
                (edit_id,),
            ).fetchall()
        return [self._event(row) for row in rows]

    def events_of(self, namespace: str, start: int, limit: int) -> list[Event]:
        """At most ``limit`` events of one namespace, in order, after its first ``start``.

        Raises:
            MemoryFileDamaged: one of them fails its checksum.
        """
        with self._reading, self._translated():
            self._check_file()
            rows = self._reader.execute(
                f"SELECT {COLUMNS} FROM events "  # noqa: S608
                "WHERE namespace = ? ORDER BY position LIMIT ? OFFSET ?",
                (namespace, limit, start),
            ).fetchall()
        return [self._event(row) for row in rows]

    def count_of(self, namespace: str) -> int:
        """How many events of one namespace there are."""
        with self._reading, self._translated():
            self._check_file()
            (count,) = self._reader.execute(
                "SELECT count(*) FROM events WHERE namespace = ?", (namespace,)
            ).fetchone()
        return int(count)

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

    def mark(self, namespace: str, name: str) -> dict[str, Any] | None:
        """What was put under this name by :meth:`Transaction.put_mark`, or ``None``."""
        with self._reading, self._translated():
            self._check_file()
            if version_of(self._reader) < SCHEMA_VERSION:
                return None
            return mark_of(self._reader, namespace, name)

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
                writer = self._connect("mode=rw")
                if version_of(writer) < SCHEMA_VERSION:
                    migrate(writer)
                writer.execute("PRAGMA synchronous = FULL")
                self._writer = writer
            writer = self._writer
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(writer, self._clock())
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

    # looking after it

    def problems(self) -> list[str]:
        """What is wrong with the file, as sentences; empty where every record is sound."""
        found: list[str] = []
        with self._reading, self._translated():
            self._check_file()
            for (line,) in self._reader.execute("PRAGMA integrity_check(20)"):
                if line != "ok":
                    found.append(f"SQLite says: {line}")
            expected = 1
            for row in self._reader.execute(f"SELECT {COLUMNS} FROM events ORDER BY position"):  # noqa: S608
                found += [
                    f"event {n} is missing" for n in range(expected, min(row[0], expected + 9))
                ]
                if event_of_row(row) is None:
                    found.append(f"event {row[0]} fails its checksum")
                expected = row[0] + 1
            if last_position(self._reader) >= expected:
                found.append(f"events from {expected} on are missing")
            for position, name, blob, checksum in self._reader.execute(
                "SELECT position, name, vector, checksum FROM vectors "
                "JOIN encoders ON encoders.id = vectors.encoder"
            ):
                if checksum != checksum_of_vector(position, name, blob):
                    found.append(f"the vector of event {position} by {name} fails its checksum")
        return found

    def counts(self) -> dict[str, int]:
        """How many events, vectors and marks the file holds, and its size in bytes."""
        with self._reading, self._translated():
            self._check_file()
            tables = ["events", "vectors"]
            if version_of(self._reader) == SCHEMA_VERSION:
                tables.append("marks")
            found = {
                table: int(self._reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
                for table in tables
            }
        wal = Path(f"{self.path}-wal")
        waiting = wal.stat().st_size if wal.exists() else 0
        return found | {"bytes": self.path.stat().st_size, "waiting_bytes": waiting}

    def compact(self, encoder: str, keep: Callable[[], Iterable[int]]) -> None:
        """Drops vectors that nobody needs, and gives their space back; every event stays.

        Args:
            encoder: whose vectors stay; those of others go.
            keep: gives the positions whose vectors stay; asked when nobody else can commit.

        Raises:
            MemoryFileError: the file is read-only, or its disk has no room for a second copy of
                it; nothing is lost.
        """
        with self.transaction() as transaction:
            transaction.keep_vectors(encoder, keep())
        with self._writing, self._translated():
            self._check_file()
            assert self._writer is not None
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copies the file as it stands between two commits, while others may read and write.

        Raises:
            MemoryFileError: there is a file of that name, or it cannot be written; then there is
                none.
        """
        path = Path(target).absolute()
        if path.exists():
            raise MemoryFileError(f"{path} exists already; name a file that does not")
        part = path.with_name(f".{path.name}.part")
        try:
            part.unlink(missing_ok=True)
            with self._reading, self._translated():
                self._check_file()
                with contextlib.closing(sqlite3.connect(part)) as copy:
                    self._reader.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")
            part.chmod(0o600)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(path)
        except OSError as error:
            raise MemoryFileError(f"{path} cannot be written: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

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
        if is_blank(connection):
            self._initialise(connection)
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise MemoryFileDamaged(
                f"{self.path} is an SQLite database, but not a memedit memory; name another file"
            )
        version = version_of(connection)
        if version in READABLE:
            if version < SCHEMA_VERSION and not self._immutable:
                # A file that cannot be written is read as it is: an older version lacks nothing
                # that reading needs.
                with contextlib.suppress(sqlite3.OperationalError):
                    migrate(connection)
            return
        raise MemoryFileVersion(
            f"{self.path} has schema version {version}, and this memedit reads versions "
            f"{READABLE[0]} to {READABLE[-1]}; use the memedit that wrote it, or a newer one"
        )

    def _initialise(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
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
        migrate(connection)

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
        event = event_of_row(row)
        if event is None:
            raise self._damaged(f"event {row[0]} fails its checksum")
        return event

    def _events_among(self, column: str, values: Sequence[int | str]) -> list[Event]:
        """The events with these values in a column."""
        events: list[Event] = []
        with self._reading, self._translated():
            self._check_file()
            for start in range(0, len(values), _POSITIONS_PER_QUERY):
                some = json.dumps(values[start : start + _POSITIONS_PER_QUERY])
                rows = self._reader.execute(
                    f"SELECT {COLUMNS} FROM events "  # noqa: S608
                    f"WHERE {column} IN (SELECT value FROM json_each(?)) ORDER BY position",
                    (some,),
                ).fetchall()
                events += map(self._event, rows)
        return events

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
                    sound = checksum == checksum_of_vector(position, encoder, blob)
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
