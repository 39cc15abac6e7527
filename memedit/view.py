"""What the journal says, held in main memory: states, and per namespace an index and a lexicon.

A :class:`View` changes in two ways only: by reading events from the journal, and by the clock,
when an edit begins or expires. Who writes events reads them back through it like everybody else,
so that two processes on one file cannot come to different states.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from memedit.arguments import check_namespace
from memedit.edits import Edit
from memedit.errors import MemoryFileVersion
from memedit.indexes import make_index
from memedit.indexes.growing import GrowingIndex
from memedit.journal import Journal
from memedit.moments import Moment, seconds
from memedit.planning import Answers, Stated, positions_of
from memedit.protocols import Candidate, EditRecord, Encoder, Index, Vectors
from memedit.names import Named, Names
from memedit.snapshots import LEAST, Restored, Snapshots
from memedit.timeline import Timeline, stored_edit

MAX_MENTIONED = 16
"""Most edits that are candidates because the query has their subject's name."""

CHUNK = 10_000
"""Events that are read at once."""

# Most edits about one subject that a new one is compared with, the newest.
_ABOUT = 64
# Up to this many mentioned edits are compared with the query one by one; beyond it, going down
# the index's ranking until enough of them have come by is cheaper.
_MENTIONED_ONE_BY_ONE = 256


@dataclass(slots=True)
class Namespace:
    """What one namespace's active edits are found by."""

    index: Index | None = None  # made with the first vector, which tells its length
    names: Names = field(default_factory=Names)
    unnamed: set[int] = field(default_factory=set)  # active edits whose subject is not known
    active: dict[int, EditRecord] = field(default_factory=dict)  # by position
    # What states a fact and is not found by the lexicon: edits that are proposed, consolidated, or
    # without a known subject.
    aside: Stated = field(default_factory=Stated)
    answers: Answers = field(default_factory=Answers)


class Facts:
    """What a planner asks about one namespace; used while the view's lock is held."""

    def __init__(self, timeline: Timeline, namespace: str, space: Namespace) -> None:
        self._timeline = timeline
        self._namespace = namespace
        self._space = space

    def record(self, edit_id: str) -> EditRecord | None:
        """The edit of this id, of whatever namespace."""
        return self._timeline.records.get(edit_id)

    def in_same_words(self, edit: Edit) -> list[EditRecord]:
        """The live or proposed edits that state this edit's fact in the same words."""
        return self._timeline.same_facts(edit, self._namespace)

    def about(self, edit: Edit) -> list[EditRecord]:
        """The newest of the live or proposed edits that share a name with this one."""
        space = self._space
        positions = sorted(positions_of(space.names.lexicon, edit), reverse=True)
        found = [space.active[position] for position in positions[:_ABOUT]]
        return found + list(islice(space.aside.about(edit), _ABOUT))

    def answering(self, name: str) -> list[EditRecord]:
        """The active edits with this target, of those that rules know relations of."""
        return self._space.answers.find(name)


class View:
    """The edits of one journal as they stand now. Whoever looks inside holds :attr:`lock`.

    Args:
        path: the journal's file; made where there is none.
        encoder: what queries and edits are compared by.
        index: a kind of :data:`memedit.indexes.KINDS`.
        reencode: make vectors with ``encoder`` for the edits that have none of it.
        clock: what tells the time, in seconds since the epoch.

    Raises:
        MemoryFileError: the file cannot be opened, is damaged or has another version.
        MemoryFileVersion: also where its vectors are another encoder's and ``reencode`` is off.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: Encoder,
        index: str,
        reencode: bool,
        clock: Callable[[], float],
    ) -> None:
        self.encoder = encoder
        self.clock = clock
        self.lock = threading.RLock()
        self.journal = Journal(path, clock=clock)
        self.timeline = Timeline()
        self.namespaces: dict[str, Namespace] = {}
        self._index_kind = index
        self._position = 0
        self._version: tuple[int, int] | None = None  # of the journal, as it was last read
        self._opened = False
        self._closed = False
        self._snapshots = Snapshots(self.journal.path, index, encoder.name)
        try:
            if reencode:
                self.reencode()
            self.refresh()
        except BaseException:
            self.journal.close()
            raise
        self._opened = True

    def close(self) -> None:
        """Closes the file, and saves snapshots of what has changed; harmless a second time."""
        with self.lock:
            if not self._closed:
                self.save_snapshots()
            self._closed = True
            for space in self.namespaces.values():
                if isinstance(space.index, GrowingIndex):
                    space.index.close()
        self.journal.close()

    def rebuild(self) -> None:
        """Makes vectors again that are missing or damaged, and everything here from the journal."""
        self.reencode()
        with self.lock:
            self._snapshots.forget()
            self.timeline = Timeline()
            self.namespaces = {}
            self._position = 0
            self._version = None
            self.refresh()
            for space in self.namespaces.values():
                if isinstance(space.index, GrowingIndex):
                    space.index.wait()
            self.save_snapshots()

    # reading events

    def refresh(self, known: Mapping[int, Vectors] | None = None) -> bool:
        """Takes in what was committed since the last look; returns whether there was anything.

        Args:
            known: vectors of new edits by position, where the caller has made them.

        Raises:
            MemoryFileError: the file is damaged, or was deleted or replaced beneath the memory.
        """
        with self.lock:
            return self._refresh(known or {})

    def _refresh(self, known: Mapping[int, Vectors]) -> bool:
        version = self.journal.version()
        now = self.clock()
        if version == self._version and not self.timeline.is_due(now):
            return False
        self._version = None
        changed = self.timeline.advance(now)
        position = self._position
        # A snapshot serves whoever takes up all at once; without one that would only take room.
        restoring = not self._opened and self._snapshots.exist()
        while events := self.journal.read_since(position, CHUNK):
            self.timeline.read(events)
            self.timeline.advance(now)
            position = events[-1].position
            changed = True
            if not restoring:
                self._settle(known)
                self._position = position
        self._settle(known, position if restoring else None)
        self._position = position
        self._version = version  # only now: a failure above has to show again at the next look
        return changed

    def _settle(self, known: Mapping[int, Vectors], position: int | None = None) -> None:
        """Brings the namespaces to what the timeline says. May be repeated after it failed.

        Args:
            known: vectors of new edits.
            position: how far the journal has been read, where a snapshot may serve.
        """
        coming: dict[str, list[EditRecord]] = {}
        going: dict[str, list[EditRecord]] = {}
        records = self.timeline.settle()
        for record in records:
            space = self.namespaces.setdefault(record.namespace, Namespace())
            is_held = record.position in space.active
            if record.state == "active" and not is_held:
                coming.setdefault(record.namespace, []).append(record)
            elif record.state != "active" and is_held:
                going.setdefault(record.namespace, []).append(record)
        # All that can fail comes before the first change of a namespace.
        restored = {name: self._restored(name, some, position) for name, some in coming.items()}
        vectors = self.vectors(
            [
                record
                for name, some in coming.items()
                for record in some
                if (held := restored[name]) is None or record.position in held.missing
            ],
            known,
        )
        for name, some in going.items():
            self._let_go(self.namespaces[name], some)
        for name, some in coming.items():
            self._take_up(self.namespaces[name], some, vectors, restored[name])
        for record in records:
            space = self.namespaces[record.namespace]
            if record.position in space.active:
                space.active[record.position] = record
            named = bool(record.edit.names) and record.state == "active"
            if record.state in ("active", "proposed", "consolidated") and not named:
                space.aside.add(record)
            elif record.edit.id in space.aside:
                space.aside.remove(record.edit.id)
        self.timeline.settled()

    @staticmethod
    def _let_go(space: Namespace, records: Sequence[EditRecord]) -> None:
        for record in records:
            space.names.remove(record.position)
            space.unnamed.discard(record.position)
            space.answers.remove(record)
            del space.active[record.position]
        if space.index is not None:
            space.index.remove(np.array([record.position for record in records], dtype=np.int64))

    def _restored(
        self, namespace: str, records: Sequence[EditRecord], position: int | None
    ) -> Restored | None:
        """A namespace from its snapshot, where it has nothing yet and there is a good one."""
        if position is None or self.namespaces[namespace].active or len(records) < LEAST:
            return None
        (row,) = self.vectors(records[:1]).values()
        first = next(iter(self.timeline.records.values()))
        active = {record.position: record for record in records}
        stamp = self._snapshots.stamp(first, position)
        return self._snapshots.load(namespace, len(row), active, stamp)

    def _take_up(
        self,
        space: Namespace,
        records: Sequence[EditRecord],
        vectors: Mapping[int, Vectors],
        restored: Restored | None,
    ) -> None:
        records = sorted(records, key=lambda record: record.position)
        lacking = [record.position for record in records if record.position in vectors]
        if restored is not None:
            space.index, space.names = restored.index, Names(restored.lexicon)
            lacking = [position for position in lacking if position in restored.missing]
        if lacking:
            rows = np.stack([vectors[position] for position in lacking])
            if space.index is None:
                space.index = make_index(self._index_kind, rows.shape[1])
            space.index.add(np.array(lacking, dtype=np.int64), rows)
        for record in records:
            if restored is None:
                space.names.add(record.position, record.edit.names)
            if not record.edit.names:
                space.unnamed.add(record.position)
            space.answers.add(record)
            space.active[record.position] = record

    def vectors(
        self,
        records: Sequence[EditRecord],
        known: Mapping[int, Vectors] | None = None,
        *,
        may_lack: bool = False,
    ) -> dict[int, Vectors]:
        """A row of shape (dim,) per record: as known, as stored, or else encoded now.

        Raises:
            MemoryFileVersion: while the memory is being opened, where rows would be encoded.
            MemoryFileDamaged: a stored vector fails its checksum.
        """
        known = known or {}
        rows = {r.position: known[r.position] for r in records if r.position in known}
        absent = {r.position: r for r in records if r.position not in rows}
        if not absent:
            return rows
        rows.update(self.journal.vectors(self.encoder.name, absent))
        if lacking := [record for position, record in absent.items() if position not in rows]:
            if not (self._opened or may_lack):
                others = ", ".join(
                    repr(name) for name in self.journal.encoders() if name != self.encoder.name
                )
                raise MemoryFileVersion(
                    f"{self.journal.path} holds edits without vectors of the encoder "
                    f"{self.encoder.name!r} (it has those of {others or 'none'}); open it with "
                    "that encoder, or with reencode=True to store vectors of this one too"
                )
            # Another process has added these with another encoder: rare, few, and live for the
            # next request all the same.
            fresh = self.encoder.encode([record.edit.key for record in lacking])
            rows.update(zip((record.position for record in lacking), fresh, strict=True))
        return rows

    def reencode(self) -> None:
        """Stores vectors of this encoder for the added edits that have none, or damaged ones."""
        position = 0
        while events := self.journal.read_since(position, CHUNK):
            position = events[-1].position
            keys = {e.position: stored_edit(e).key for e in events if e.kind == "add"}
            lacking = self.journal.lacking_vectors(self.encoder.name, keys)
            if lacking:
                vectors = self.encoder.encode([keys[p] for p in lacking])
                with self.journal.transaction() as transaction:
                    transaction.put_vectors(self.encoder.name, lacking, vectors)

    def save_snapshots(self) -> None:
        """Saves what is worth it, as it was last read; the caller has the lock."""
        first = next(iter(self.timeline.records.values()), None)
        if first is None:
            return
        stamp = self._snapshots.stamp(first, self._position)
        for name, space in self.namespaces.items():
            if space.index is not None:
                self._snapshots.save(name, space.index, space.names.lexicon, stamp)

    # finding

    def facts(self, namespace: str) -> Facts:
        """What a planner asks about a namespace."""
        return Facts(self.timeline, namespace, self.namespaces.get(namespace) or Namespace())

    def space(self, namespace: str) -> Namespace | None:
        """The namespace as of now, or ``None`` where it has no active edit."""
        check_namespace(namespace)
        with self.lock:
            self.refresh()
            space = self.namespaces.get(namespace)
            return space if space is not None and space.active else None

    def candidates_of(
        self, space: Namespace, named: Sequence[Named], query: Vectors | None, k: int
    ) -> list[Candidate]:
        """The candidates of one query, those it names first.

        Args:
            space: where to look.
            named: the edits whose subject it names.
            query: its vector, where it was encoded.
            k: most edits without a known subject.
        """
        live = [one for one in named if one.position in space.active]
        known = [one for one in live if one.likeness is None]
        cosines: dict[int, float] = {}
        if len(known) > MAX_MENTIONED and query is not None:
            cosines = dict(self._closest(space, query, {one.position: one for one in known}))
            live = [one for one in live if one.likeness is not None or one.position in cosines]
        found = [
            Candidate(
                space.active[one.position].edit,
                None if one.position not in cosines else clipped(cosines[one.position]),
                (one.start, one.end),
                one.likeness,
            )
            for one in live
        ]
        if space.unnamed and query is not None:
            found += [
                Candidate(space.active[position].edit, clipped(cosine))
                for position, cosine in self._closest(space, query, space.unnamed)[:k]
            ]
        return found

    def _closest(
        self, space: Namespace, query: Vectors, positions: Collection[int]
    ) -> list[tuple[int, float]]:
        """The :data:`MAX_MENTIONED` of these positions that are closest to the query."""
        if not positions or space.index is None:
            return []
        if len(positions) <= _MENTIONED_ONE_BY_ONE:
            rows = self.vectors([space.active[position] for position in positions])
            scored = [(position, float(row @ query)) for position, row in rows.items()]
            return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:MAX_MENTIONED]
        depth = 4 * _MENTIONED_ONE_BY_ONE
        while True:
            scores, ids = space.index.search(query[None, :], depth)
            ranked = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
            hits = [pair for pair in ranked if pair[0] in positions][:MAX_MENTIONED]
            if len(hits) == MAX_MENTIONED or depth >= len(space.index):
                return hits
            depth *= 4

    def close_ids(self, edit_id: str) -> list[str]:
        """At most three ids that somebody may have meant by this one."""
        ids = self.timeline.records
        longer = [known for known in ids if known.startswith(edit_id)] if edit_id else []
        if longer:
            return longer[:3]
        # The newest only: comparing with a million would take half a minute.
        newest = list(ids)[-2_000:]
        return difflib.get_close_matches(edit_id, newest, n=3, cutoff=0.7)

    def timeline_at(self, moment: Moment) -> Timeline:
        """What had been written until a moment, in the states of that moment."""
        until = seconds(moment, "as_of")
        past = Timeline()
        position = 0
        while events := self.journal.read_since(position, CHUNK):
            written = [event for event in events if event.at <= until]
            past.read(written)
            position = events[-1].position
            if len(written) < len(events):
                break
        past.advance(until)
        past.settle()
        return past

    def search_past(
        self, text: str, k: int, records: Sequence[EditRecord]
    ) -> list[tuple[EditRecord, float]]:
        """The ``k`` of these records that are closest to a text, by comparing with each."""
        if not records:
            return []
        query = self.encoder.encode([text])[0]
        best: list[tuple[EditRecord, float]] = []
        for start in range(0, len(records), CHUNK):
            some = records[start : start + CHUNK]
            rows = self.vectors(some, may_lack=True)
            best += [(record, clipped(float(rows[record.position] @ query))) for record in some]
            best = sorted(best, key=lambda pair: (-pair[1], pair[0].position))[:k]
        return best


def clipped(score: float) -> float:
    """Clipped: rounding puts the product of equal unit vectors a little above 1."""
    return max(-1.0, min(1.0, float(score)))
