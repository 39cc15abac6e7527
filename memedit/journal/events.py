"""Events: what can happen to an edit, and how it is written down."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from memedit.errors import MemoryFileVersion
from memedit.protocols import Vectors

EventKind = Literal["add", "revert", "restore", "consolidate"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an edit.

    Attributes:
        position: its number in the journal, from 1, without gaps, never reused.
        at: seconds since the epoch, by the clock of the machine that wrote it; never before the
            event in front of it.
        kind: ``add``, ``revert``, ``restore`` (a revert undone) or ``consolidate`` (its fact is in
            the weights of ``version`` from now on, or in none again where that is empty).
        edit_id: the edit that it happened to.
        namespace: where that edit lives.
        author, reason: free text of whoever did it.
        edit: the edit's fields as :meth:`memedit.edits.Edit.to_mapping` gives them, on ``add``.
        supersedes: ids of the edits in force that an ``add`` replaced.
        joins: ids of edits that state the same fact in other words, in force or not, on ``add``
            and ``restore``.
        beside: on ``add``, whether the edit is meant to stand beside others of the same fact.
        valid_from, expires_at: on ``add``, seconds since the epoch, where the edit has them.
        version: on ``consolidate``.
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
    joins: tuple[str, ...] = ()
    beside: bool = False
    valid_from: float | None = None
    expires_at: float | None = None
    version: str = ""


COLUMNS = "position, at, kind, edit_id, namespace, body, checksum"
"""The columns of ``events``, in the order that :func:`event_of_row` takes them."""


class Transaction:
    """Appends events; made by :meth:`Journal.transaction`, whose block must still be open.

    Args:
        connection: it is inside a transaction.
        now: the time to write down.
    """

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self._next = last_position(connection) + 1
        row = connection.execute(
            "SELECT at FROM events WHERE position = ?", (self._next - 1,)
        ).fetchone()
        self.now = float(now if row is None else max(now, row[0]))

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
        joins: Sequence[str] = (),
        beside: bool = False,
        valid_from: float | None = None,
        expires_at: float | None = None,
        version: str = "",
    ) -> Event:
        """Appends one event; it counts once the transaction's block has ended."""
        event = Event(
            position=self._next,
            at=self.now,
            kind=kind,
            edit_id=edit_id,
            namespace=namespace,
            author=author,
            reason=reason,
            edit=edit,
            supersedes=tuple(supersedes),
            joins=tuple(joins),
            beside=beside,
            valid_from=valid_from,
            expires_at=expires_at,
            version=version,
        )
        row = (event.position, event.at, kind, edit_id, namespace, _body(event))
        self._connection.execute(
            f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (*row, checksum_of_row(row)),
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
                (number, position, blob, checksum_of_vector(position, encoder, blob))
                for position, blob in zip(
                    map(int, positions), (row.tobytes() for row in rows), strict=True
                )
            ),
        )

    def keep_vectors(self, encoder: str, positions: Iterable[int]) -> None:
        """Drops every vector but those of one encoder at these positions."""
        run = self._connection.execute
        run("CREATE TEMP TABLE kept (position INTEGER PRIMARY KEY)")
        self._connection.executemany("INSERT INTO kept VALUES (?)", ((p,) for p in positions))
        run(
            "DELETE FROM vectors WHERE position NOT IN (SELECT position FROM kept) OR encoder NOT "
            "IN (SELECT id FROM encoders WHERE name = ?)",
            (encoder,),
        )
        run("DELETE FROM encoders WHERE id NOT IN (SELECT encoder FROM vectors)")
        run("DROP TABLE kept")

    def mark(self, namespace: str, name: str) -> dict[str, Any] | None:
        """What was put under this name, or ``None``; a damaged mark counts as none."""
        return mark_of(self._connection, namespace, name)

    def put_mark(self, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        """Puts JSON data under a name, in the place of what is there."""
        row = (namespace, name, self.now, json.dumps(body, separators=(",", ":")))
        self._connection.execute(
            "INSERT OR REPLACE INTO marks (namespace, name, at, body, checksum) "
            "VALUES (?, ?, ?, ?, ?)",
            (*row, checksum_of_row(row)),
        )


def _body(event: Event) -> str:
    """The parts of an event that have no column of their own, those that are set, as JSON."""
    parts = {
        "edit": event.edit,
        "author": event.author,
        "reason": event.reason,
        "supersedes": list(event.supersedes),
        "joins": list(event.joins),
        "beside": event.beside,
        "valid_from": event.valid_from,
        "expires_at": event.expires_at,
        "version": event.version,
    }
    said = {name: part for name, part in parts.items() if part or isinstance(part, float)}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def event_of_row(row: Sequence[Any]) -> Event | None:
    """The event of a row of :data:`COLUMNS`; ``None`` where it fails its checksum."""
    position, at, kind, edit_id, namespace, body, checksum = row
    if checksum != checksum_of_row(row[:-1]):
        return None
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
        joins=tuple(parts.get("joins", ())),
        beside=bool(parts.get("beside")),
        valid_from=parts.get("valid_from"),
        expires_at=parts.get("expires_at"),
        version=parts.get("version", ""),
    )


def mark_of(connection: sqlite3.Connection, namespace: str, name: str) -> dict[str, Any] | None:
    """What was put under a name, or ``None``; a damaged mark counts as none."""
    row = connection.execute(
        "SELECT namespace, name, at, body, checksum FROM marks WHERE namespace = ? AND name = ?",
        (namespace, name),
    ).fetchone()
    if row is None or row[-1] != checksum_of_row(row[:-1]):
        return None
    found: dict[str, Any] = json.loads(row[3])
    return found


def last_position(connection: sqlite3.Connection) -> int:
    """The position of the newest event; 0 where there is none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0])


def checksum_of_row(row: Sequence[Any]) -> bytes:
    """Over all columns but the checksum; JSON keeps a float exactly."""
    return blake2b(json.dumps(list(row)).encode(), digest_size=8).digest()


def checksum_of_vector(position: int, encoder: str, blob: bytes) -> bytes:
    """Over the vector and what it belongs to."""
    return blake2b(f"{position}\0{encoder}\0".encode() + blob, digest_size=8).digest()
