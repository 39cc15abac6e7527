"""What makes opening a large memory quick: its indexes and lexicons, on disk beside its file.

A snapshot is a cache of the journal and never trusted over it: it is checked to the last byte
(see ``memedit.indexes.snapshot``), brought to the journal's active edits when it is loaded, and
left aside where anything is in doubt. Small namespaces have none: making them anew takes less
than reading them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memedit.indexes.growing import GrowingIndex
from memedit.indexes.snapshot import Loaded, Stamp, differences, load, save
from memedit.lexicon import SubjectLexicon
from memedit.protocols import EditRecord, Index

LEAST = 10_000
"""Edits from which on a namespace has a snapshot."""

CHANGED = 0.02
"""Share of the edits that have come or gone since the last snapshot for a new one to be written."""

_LEXICON = "lexicon"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restored:
    """A namespace's index and lexicon as they were saved, less what is not active any more.

    Attributes:
        index: lacks the rows of ``missing``.
        lexicon: holds all active edits.
        missing: positions of the active edits whose rows have to be added.
    """

    index: Index
    lexicon: SubjectLexicon
    missing: frozenset[int]


class Snapshots:
    """The snapshots of one memory file, in a folder beside it.

    Args:
        memory: the memory's file.
        kind: of the indexes; see :data:`memedit.indexes.KINDS`.
        encoder: the name of the encoder whose vectors they hold.
    """

    def __init__(self, memory: Path, kind: str, encoder: str) -> None:
        self._folder = memory.with_name(f"{memory.name}.index")
        self._kind = kind
        self._encoder = encoder
        # What a namespace's last snapshot is of, and how many edits it holds.
        self._saved: dict[str, tuple[str, int]] = {}

    def exist(self) -> bool:
        """Whether any namespace has one."""
        return any(self._folder.glob("*.index"))

    def load(
        self, namespace: str, dim: int, active: Mapping[int, EditRecord], stamp: Stamp
    ) -> Restored | None:
        """The namespace from its snapshot, or ``None`` where it has to be made anew.

        Args:
            namespace: which.
            dim: length of the vectors.
            active: the namespace's active edits by position.
            stamp: the journal, and where it is now.
        """
        if len(active) < LEAST:
            return None
        file = self._file(namespace)
        loaded = load(file, self._kind, dim, stamp)
        if not isinstance(loaded, Loaded):
            if file.exists():
                log.warning("an index is made anew: %s", loaded.reason)
            return None
        try:
            lexicon = SubjectLexicon.from_bytes(loaded.beside[_LEXICON])
        except (KeyError, ValueError) as error:
            log.warning("an index is made anew: %s: its lexicon: %s", file, error)
            return None
        missing, stale = differences(loaded.index, np.fromiter(active, np.int64, len(active)))
        loaded.index.remove(stale)
        _bring_up(lexicon, active)
        self._saved[namespace] = (_kind(loaded.index), len(active) - len(missing))
        return Restored(loaded.index, lexicon, frozenset(missing.tolist()))

    def save(self, namespace: str, index: Index, lexicon: SubjectLexicon, stamp: Stamp) -> None:
        """Writes the snapshot of a namespace where it is large, and has changed enough.

        The caller lets nobody change index and lexicon meanwhile. A snapshot that cannot be
        written is logged and left: nothing depends on it.
        """
        count = len(index)
        kind, before = self._saved.get(namespace, ("", 0))
        same = kind == _kind(index) and abs(count - before) < CHANGED * count
        if count < LEAST or same:
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            save(index, self._file(namespace), stamp, {_LEXICON: lexicon.to_bytes()})  # type: ignore[arg-type]
        except OSError as error:
            log.warning("the index of %s is not saved: %s", namespace, error)
        else:
            self._saved[namespace] = (_kind(index), count)

    def forget(self) -> None:
        """Removes every snapshot, so that all is made anew."""
        self._saved.clear()
        if self._folder.is_dir():
            for file in self._folder.glob("*.index"):
                file.unlink(missing_ok=True)

    def stamp(self, first: EditRecord, position: int) -> Stamp:
        """What tells the journal, by its first edit, and where it is.

        Args:
            first: the journal's oldest edit.
            position: the last one that has been read.
        """
        born = f"{first.edit.id} {first.created_at!r}".encode()
        return Stamp(self._encoder, position, hashlib.sha256(born).hexdigest()[:32])

    def _file(self, namespace: str) -> Path:
        return self._folder / f"{namespace}.index"


def _kind(index: Index) -> str:
    """What answers now: an index that grows is first of one kind and then of another."""
    return type(index.current if isinstance(index, GrowingIndex) else index).__name__


def _bring_up(lexicon: SubjectLexicon, active: Mapping[int, EditRecord]) -> None:
    """Makes a saved lexicon hold the names of exactly these edits."""
    held = set(lexicon.positions())
    for position in held - active.keys():
        lexicon.remove(position)
    for position, record in active.items():
        if position not in held and record.edit.names:
            lexicon.add(position, record.edit.names)
