"""What makes opening a large memory quick: what was made of its journal, on disk beside its file.

Two kinds of file: the edits that stand alone (:class:`memedit.records.Plain`) with the position
up to which the journal was read, and per namespace an index and two lexicons. A snapshot is a cache
of the journal and never trusted over it: it is checked to the last byte, must be of this journal
(:meth:`memedit.journal.Journal.seal`), the edits' also of this version of the code, is brought to
what the journal says when it is loaded, and left aside where anything is in doubt. Small
namespaces have none: making them anew takes less than reading them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memedit.indexes.growing import GrowingIndex
from memedit.indexes.snapshot import Loaded, Stamp, differences, load, save, sweep
from memedit.journal import Journal
from memedit.lexicon import SubjectLexicon
from memedit.names import Names
from memedit.protocols import Ids, Index
from memedit.records import COLUMNS, Plain

LEAST = 10_000
"""Edits from which on a namespace has a snapshot."""

CHANGED = 0.02
"""Share of the edits that have come or gone since the last snapshot for a new one to be written."""

_LEXICON = "lexicon"
_TARGETS = "targets"
_SEAL = "seal"
_MAGIC = b"memedit edits 1\n"
_LENGTH = struct.Struct(">Q")
_DIGEST = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """A namespace's index and lexicons as they were saved, less what is not active any more.

    Attributes:
        index: lacks the rows of ``missing``.
        lexicon: lacks the names of ``nameless``.
        targets: lacks their targets.
        missing: positions of the active edits whose rows have to be added, shape (n,).
        nameless: positions of the active edits whose names have to be added, shape (n,).
    """

    index: Index
    lexicon: SubjectLexicon
    targets: SubjectLexicon
    missing: Ids
    nameless: Ids


class Snapshots:
    """The snapshots of one memory file, in a folder beside it.

    Args:
        journal: the memory's file.
        kind: of the indexes; see :data:`memedit.indexes.KINDS`.
        encoder: the name of the encoder whose vectors they hold.
    """

    def __init__(self, journal: Journal, kind: str, encoder: str) -> None:
        self._journal = journal
        self._folder = journal.path.with_name(f"{journal.path.name}.index")
        self._kind = kind
        self._encoder = encoder
        # What a namespace's last snapshot is of, and how many edits it holds.
        self._saved: dict[str, tuple[str, int]] = {}
        self._edits_at = 0  # the position of the last snapshot of edits

    def load_edits(self) -> tuple[Plain, int]:
        """The edits that stood alone at a position, and that position; none and 0 in doubt."""
        try:
            data = self._edits.read_bytes()
        except OSError:
            return Plain(), 0
        try:
            plain, position = self._read_edits(data)
        except (ValueError, KeyError, TypeError, struct.error) as error:
            log.warning("the states of edits are made anew: %s: %s", self._edits, error)
            return Plain(), 0
        self._edits_at = position
        return plain, position

    def _read_edits(self, data: bytes) -> tuple[Plain, int]:
        body = memoryview(data)[:-_DIGEST]
        if hashlib.blake2b(body, digest_size=_DIGEST).digest() != data[-_DIGEST:]:
            raise ValueError("it is cut off or damaged")
        if not data.startswith(_MAGIC):
            raise ValueError("it has another format")
        at = len(_MAGIC) + _LENGTH.size
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        header: dict[str, Any] = json.loads(data[at : at + length])
        if header["code"] != _code():
            raise ValueError("another version of memedit made it")
        position = int(header["position"])
        if position < 1 or header["seal"] != self._journal.seal(position):
            raise ValueError("it is of another journal")
        if not self._journal.is_whole():
            raise ValueError("the journal lacks an event")
        at += length
        columns = {}
        for name, dtype in COLUMNS.items():
            # A copy lies where searches want it: they would copy a column that is out of line.
            columns[name] = np.frombuffer(data, np.dtype(dtype), header["count"], at).copy()
            at += columns[name].nbytes
        return Plain(header["namespaces"], columns), position

    def save_edits(self, plain: Plain, position: int) -> None:
        """Writes the edits that stand alone, where they are many and enough has happened since.

        A snapshot that cannot be written is logged and left: nothing depends on it.

        Args:
            plain: the edits.
            position: how far the journal has been read for them.
        """
        if len(plain) < LEAST or position - self._edits_at < CHANGED * position:
            return
        header = {
            "code": _code(),
            "position": position,
            "seal": self._journal.seal(position),
            "namespaces": plain.namespaces,
            "count": len(plain),
        }
        described = json.dumps(header).encode()
        columns = plain.columns()
        data = b"".join(
            [_MAGIC, _LENGTH.pack(len(described)), described]
            + [columns[name].tobytes() for name in COLUMNS]
        )
        new = self._edits.with_name(f".{self._edits.name}.{os.getpid()}.new")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            sweep(self._edits)
            with new.open("wb") as file:
                file.write(data)
                file.write(hashlib.blake2b(data, digest_size=_DIGEST).digest())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._edits)
        except OSError as error:
            log.warning("the states of edits are not saved: %s", error)
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        else:
            self._edits_at = position

    def has(self, namespace: str) -> bool:
        """Whether there is a snapshot of a namespace, good or not."""
        return self._file(namespace).exists()

    def load(self, namespace: str, dim: int, active: Ids, position: int) -> Restored | None:
        """The namespace from its snapshot, or ``None`` where it has to be made anew.

        Args:
            namespace: which.
            dim: length of the vectors.
            active: positions of the namespace's active edits, ascending, shape (n,).
            position: how far the journal has been read.
        """
        file = self._file(namespace)
        loaded = load(file, self._kind, dim, self._stamp(position))
        if not isinstance(loaded, Loaded):
            log.warning("an index is made anew: %s", loaded.reason)
            return None
        try:
            if loaded.beside[_SEAL].decode() != self._journal.seal(loaded.position):
                raise ValueError("it is of another journal")
            lexicon = SubjectLexicon.from_bytes(loaded.beside[_LEXICON])
            targets = SubjectLexicon.from_bytes(loaded.beside[_TARGETS])
        except (KeyError, ValueError) as error:
            log.warning("an index is made anew: %s: %s", file, error)
            return None
        missing, stale = differences(loaded.index, active)
        loaded.index.remove(stale)
        named = np.fromiter(lexicon.positions(), np.int64)
        for gone in np.setdiff1d(named, active).tolist():
            lexicon.remove(gone)
            targets.remove(gone)
        self._saved[namespace] = (_kind(loaded.index), len(active) - len(missing))
        nameless = np.setdiff1d(active, named, assume_unique=True)
        return Restored(loaded.index, lexicon, targets, missing, nameless)

    def save(self, namespace: str, index: Index, names: Names, position: int) -> None:
        """Writes the snapshot of a namespace where it is large, and has changed enough.

        The caller lets nobody change index and names meanwhile. A snapshot that cannot be
        written is logged and left: nothing depends on it.
        """
        count = len(index)
        kind, before = self._saved.get(namespace, ("", 0))
        same = kind == _kind(index) and abs(count - before) < CHANGED * count
        if count < LEAST or same:
            return
        beside = {
            _LEXICON: names.lexicon.to_bytes(),
            _TARGETS: names.targets.to_bytes(),
            _SEAL: self._journal.seal(position).encode(),
        }
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            save(index, self._file(namespace), self._stamp(position), beside)  # type: ignore[arg-type]
        except OSError as error:
            log.warning("the index of %s is not saved: %s", namespace, error)
        else:
            self._saved[namespace] = (_kind(index), count)

    def forget(self) -> None:
        """Removes every snapshot, so that all is made anew."""
        self._saved.clear()
        self._edits_at = 0
        if self._folder.is_dir():
            for file in (self._edits, *self._folder.glob("*.index")):
                file.unlink(missing_ok=True)

    @property
    def _edits(self) -> Path:
        return self._folder / "edits"

    def _file(self, namespace: str) -> Path:
        return self._folder / f"{namespace}.index"

    def _stamp(self, position: int) -> Stamp:
        return Stamp(self._encoder, position, self._journal.seal(1))


@functools.cache
def _code() -> str:
    """Tells the code that reads edits: another one may tell facts apart by other words."""
    here = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted([*here.glob("*.py"), *here.glob("*.json")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _kind(index: Index) -> str:
    """What answers now: an index that grows is first of one kind and then of another."""
    return type(index.current if isinstance(index, GrowingIndex) else index).__name__
