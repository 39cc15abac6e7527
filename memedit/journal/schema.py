"""The layout of a memory file, and the way from each older layout to it.

Four tables:

- ``events``: what happened, one row per event, numbered without gaps by ``position``, each with a
  checksum over all of its columns;
- ``encoders``: the encoders whose vectors the file holds;
- ``vectors``: one float32 row per added edit and encoder, with its own checksum, so that
  rebuilding an index encodes nothing;
- ``marks``: what has been done under a name: the results of calls with an idempotency key, and
  how far imports have come.
"""

from __future__ import annotations

import contextlib
import sqlite3

APPLICATION_ID = 0x6D656D45
"""SQLite's ``application_id`` of a memory file: "memE"."""

SCHEMA_VERSION = 2
"""SQLite's ``user_version`` of the files that this code writes."""

# 8 KiB pages hold five 384-dimensional vectors with little waste; 4 KiB pages hold two.
PAGE_SIZE = 8192

_FIRST = """
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

_MARKS = """
CREATE TABLE marks (
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    at        REAL NOT NULL,
    body      TEXT NOT NULL,
    checksum  BLOB NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;
"""

_STEPS = (_FIRST, _MARKS)
"""What leads from version n to version n + 1: files of version 1 hold events of the kinds add and
revert, and read the same in version 2, whose events know more kinds and more parts."""

READABLE = range(1, SCHEMA_VERSION + 1)
"""Versions that can be read as they are where the file cannot be written."""


def version_of(connection: sqlite3.Connection) -> int:
    """The file's schema version; 0 for a file without one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file is a database that nobody has put anything into yet."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(application == 0 and tables == 0)


def migrate(connection: sqlite3.Connection) -> int:
    """Brings a blank file, or one of an older version, to the present version, in one transaction.

    Of several processes that come at once, one does it and the others find it done.

    Returns:
        The version that the file had; the present one where there was nothing to do.

    Raises:
        sqlite3.Error: the file cannot be written; it is as it was.
    """
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        before = version_of(connection)
        if before or is_blank(connection):
            for step in _STEPS[before:]:
                for statement in filter(None, map(str.strip, step.split(";"))):
                    connection.execute(statement)
            if before < SCHEMA_VERSION:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
    return before
