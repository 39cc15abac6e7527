"""What the journal says, held in main memory: states, and per namespace an index and the names.

A :class:`View` changes in two ways only: by reading events from the journal, and by the clock,
when an edit begins or expires. Who writes events reads them back through it like everybody else,
so that two processes on one file cannot come to different states.
"""

from __future__ import annotations

import difflib
import gc
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from memedit.arguments import check_namespace
from memedit.edits import Edit
from memedit.errors import MemoryFileVersion
from memedit.indexes import make_index
from memedit.indexes.growing import GrowingIndex
from memedit.journal import Event, Journal
from memedit.moments import Moment, seconds
from memedit.names import Named, Names
from memedit.planning import Answers, Stated, positions_of
from memedit.protocols import IN_FORCE, Candidate, EditRecord, Encoder, Index, Vectors
from memedit.records import stored_edit
from memedit.snapshots import LEAST, Snapshots
from memedit.timeline import Timeline

MAX_MENTIONED = 16
"""Most edits that are candidates because the query has their subject's name."""

CHUNK = 10_000
"""Events that are read at once."""

# Most edits about one subject that a new one is compared with, the newest.
_ABOUT = 64
# Most edits with one answer that a new one is held against, the newest.
_ANSWERING = 256
# Up to this many mentioned edits are compared with the query one by one; beyond it, going down
# the index's ranking until enough of them have come by is cheaper.
_MENTIONED_ONE_BY_ONE = 256


@dataclass(slots=True)
class Namespace:
    """What one namespace's edits in force are found by."""

    index: Index | None = None  # made with the first vector, which tells its length
    names: Names = field(default_factory=Names)
    unnamed: set[int] = field(default_factory=set)  # edits in force whose subject is not known
    active: set[int] = field(default_factory=set)  # positions
    # What states a fact and is not found by the lexicon: edits that are proposed, or without a
    # known subject.
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
        found = self._timeline.records.at(positions[:_ABOUT])
        return list(found.values()) + list(islice(space.aside.about(edit), _ABOUT))

    def answering(self, name: str) -> list[EditRecord]:
        """The newest of the edits in force with this target, of those that rules know."""
        held = sorted(self._space.answers.find(name), key=lambda r: r.position, reverse=True)
        alone = self._timeline.records.answering(self._namespace, name, _ANSWERING)
        return held[:_ANSWERING] + alone


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
        self.timeline = Timeline(self.journal)
        self.namespaces: dict[str, Namespace] = {}
        self._index_kind = index
        self._position = 0
        self._version: tuple[int, int] | None = None  # of the journal, as it was last read
        self._is_new = True  # nothing has been taken up yet
        self._opened = False
        self._closed = False
        self._snapshots = Snapshots(self.journal, index, encoder.name)
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
            self._is_new = True
            self._version = None
            self.refresh()
            for space in self.namespaces.values():
                if isinstance(space.index, GrowingIndex):
                    space.index.wait()
            self.save_snapshots()

    def problems(self) -> list[str]:
        """What is not as the journal says, as sentences; every event is read again for it."""
        with self.lock:
            self.refresh()
            found = []
            last = self._position
            fresh = self._timeline_of(lambda event: event.position <= last, self.timeline.now)
            self._forget_answers(self.timeline.fold())
            fresh.fold()
            if fresh.records != self.timeline.records:
                found.append("the states in this process are not those of the journal; reopen it")
            for name, space in self.namespaces.items():
                active = set(fresh.records.plain.positions(name).tolist())
                active.update(
                    record.position
                    for record in fresh.records.held()
                    if record.namespace == name and record.state in IN_FORCE
                )
                held = 0 if space.index is None else len(space.index)
                if active != space.active or held != len(active):
                    found.append(f"the index of {name} is not of its edits in force; rebuild it")
        return found

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
        changed = self._open(now) if self._is_new else self._read(known, now)
        self._version = version  # only now: a failure above has to show again at the next look
        return changed

    def _read(self, known: Mapping[int, Vectors], now: float) -> bool:
        """Takes in what came since the last look."""
        changed = self.timeline.advance(now)
        while events := self.journal.read_since(self._position, CHUNK):
            self.timeline.read(events)
            self.timeline.advance(now)
            self._settle(known)
            self._position = events[-1].position
            changed = True
        self._settle(known)
        if alone := self.timeline.fold(at_once=False):
            self._forget_answers(alone)
        return changed

    def _forget_answers(self, records: Iterable[EditRecord]) -> None:
        """Of edits that have no object any more: :class:`~memedit.records.Plain` knows them."""
        for record in records:
            self.namespaces[record.namespace].answers.remove(record)

    def _open(self, now: float) -> bool:
        """Takes everything up, from snapshots as far as these are good. May be repeated."""
        # So many objects are made and so few let go that looking for garbage is half of the time.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._take_everything_up(now)
        finally:
            if collects:
                gc.enable()

    def _take_everything_up(self, now: float) -> bool:
        plain, position = self._snapshots.load_edits()
        self.timeline = Timeline(self.journal, plain)
        self.namespaces = {}
        self.timeline.advance(now)
        others = np.setdiff1d(np.arange(1, position + 1), plain.positions(), assume_unique=True)
        for start in range(0, len(others), CHUNK):
            some = self.journal.events_at(others[start : start + CHUNK].tolist())
            self.timeline.read(some, apart=True)
        while events := self.journal.read_since(position, CHUNK):
            self.timeline.read(events)
            self.timeline.advance(now)
            position = events[-1].position
            self.timeline.settle()
            self.timeline.settled()
            self.timeline.fold(at_once=False)
        self.timeline.settle()
        self.timeline.settled()
        self._position = position
        held: dict[str, list[EditRecord]] = {}
        for record in self.timeline.records.held():
            held.setdefault(record.namespace, []).append(record)
        for namespace in dict.fromkeys([*self.timeline.records.plain.namespaces, *held]):
            self.namespaces[namespace] = self._taken_up(namespace, held.get(namespace, ()))
        self._is_new = False
        return position > 0

    def _taken_up(self, namespace: str, held: Sequence[EditRecord]) -> Namespace:
        """A namespace as it stands, of whose edits these have objects."""
        records = self.timeline.records
        answering = [record.position for record in held if record.state in IN_FORCE]
        plain = records.plain.positions(namespace)
        positions = np.sort(np.concatenate([plain, np.array(answering, np.int64)]))
        space = Namespace(active=set(positions.tolist()))
        missing = nameless = positions
        if self._snapshots.has(namespace) and len(positions) >= LEAST:
            (row,) = self.vectors(list(records.at(positions[:1].tolist()).values())).values()
            restored = self._snapshots.load(namespace, len(row), positions, self._position)
            if restored is not None:
                space.index = restored.index
                space.names = Names(restored.lexicon, restored.targets)
                missing, nameless = restored.missing, restored.nameless
        unknown = np.union1d(missing, nameless)
        # Chunk by chunk, so that vectors are never all in memory beside the index.
        for start in range(0, len(unknown), CHUNK):
            some = records.at(unknown[start : start + CHUNK].tolist())
            for position in np.intersect1d(nameless, list(some)).tolist():
                self._put_names(space, some[position])
            lacking = np.intersect1d(missing, list(some)).tolist()
            self._put_rows(space, self.vectors([some[position] for position in lacking]))
        for record in held:
            if record.state in IN_FORCE:
                space.answers.add(record)
            self._put_aside(space, record)
        return space

    def _settle(self, known: Mapping[int, Vectors]) -> None:
        """Brings the namespaces to what the timeline says. May be repeated after it failed.

        Args:
            known: vectors of new edits.
        """
        coming: dict[str, list[EditRecord]] = {}
        going: dict[str, list[EditRecord]] = {}
        records = self.timeline.settle()
        for record in records:
            space = self.namespaces.setdefault(record.namespace, Namespace())
            is_held = record.position in space.active
            if record.state in IN_FORCE and not is_held:
                coming.setdefault(record.namespace, []).append(record)
            elif record.state not in IN_FORCE and is_held:
                going.setdefault(record.namespace, []).append(record)
        # All that can fail comes before the first change of a namespace.
        vectors = self.vectors([record for some in coming.values() for record in some], known)
        for name, some in going.items():
            self._let_go(self.namespaces[name], some)
        for name, some in coming.items():
            self._take_up(self.namespaces[name], some, vectors)
        for record in records:
            space = self.namespaces[record.namespace]
            if record.state in IN_FORCE:
                space.answers.add(record)
            self._put_aside(space, record)
        self.timeline.settled()

    @staticmethod
    def _put_aside(space: Namespace, record: EditRecord) -> None:
        """Has an edit found by what it states where the lexicon does not find it."""
        in_force = record.state in IN_FORCE
        named = in_force and bool(record.edit.names)
        if (in_force or record.state == "proposed") and not named:
            space.aside.add(record)
        elif record.edit.id in space.aside:
            space.aside.remove(record.edit.id)

    @staticmethod
    def _let_go(space: Namespace, records: Sequence[EditRecord]) -> None:
        for record in records:
            space.names.remove(record.position)
            space.unnamed.discard(record.position)
            space.answers.remove(record)
            space.active.discard(record.position)
        if space.index is not None:
            space.index.remove(np.array([record.position for record in records], dtype=np.int64))

    def _take_up(
        self, space: Namespace, records: Sequence[EditRecord], vectors: Mapping[int, Vectors]
    ) -> None:
        records = sorted(records, key=lambda record: record.position)
        self._put_rows(space, {record.position: vectors[record.position] for record in records})
        for record in records:
            self._put_names(space, record)
            space.active.add(record.position)

    @staticmethod
    def _put_names(space: Namespace, record: EditRecord) -> None:
        if record.edit.names:
            space.names.add(record.position, record.edit.names, record.edit.target)
        else:
            space.unnamed.add(record.position)

    def _put_rows(self, space: Namespace, vectors: Mapping[int, Vectors]) -> None:
        if not vectors:
            return
        rows = np.stack(list(vectors.values()))
        if space.index is None:
            space.index = make_index(self._index_kind, rows.shape[1])
        space.index.add(np.array(list(vectors), dtype=np.int64), rows)

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
        if self._is_new:
            return
        self._forget_answers(self.timeline.fold())
        self._snapshots.save_edits(self.timeline.records.plain, self._position)
        for name, space in self.namespaces.items():
            if space.index is not None:
                self._snapshots.save(name, space.index, space.names, self._position)

    # finding

    def facts(self, namespace: str) -> Facts:
        """What a planner asks about a namespace."""
        return Facts(self.timeline, namespace, self.namespaces.get(namespace) or Namespace())

    def space(self, namespace: str) -> Namespace | None:
        """The namespace as of now, or ``None`` where no edit of it is in force."""
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
        known = [one.position for one in live if one.is_name]
        cosines: dict[int, float] = {}
        if len(known) > MAX_MENTIONED and query is not None:
            cosines = dict(self._closest(space, query, known))
            known_far = set(known) - cosines.keys()
            live = [one for one in live if one.position not in known_far]
        near: list[tuple[int, float]] = []
        if space.unnamed and query is not None:
            near = self._closest(space, query, space.unnamed)[:k]
        positions = [one.position for one in live] + [position for position, _ in near]
        records = self.timeline.records.at(positions)
        found = [
            Candidate(
                records[one.position].edit,
                None if one.position not in cosines else clipped(cosines[one.position]),
                (one.start, one.end),
                one.likeness,
                one.answer,
            )
            for one in live
        ]
        found += [Candidate(records[position].edit, clipped(cosine)) for position, cosine in near]
        return found

    def _closest(
        self, space: Namespace, query: Vectors, positions: Collection[int]
    ) -> list[tuple[int, float]]:
        """The :data:`MAX_MENTIONED` of these positions that are closest to the query."""
        if not positions or space.index is None:
            return []
        if len(positions) <= _MENTIONED_ONE_BY_ONE:
            rows = self.vectors(list(self.timeline.records.at(positions).values()))
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
        if longer := self.journal.ids_from(edit_id, 3) if edit_id else []:
            return longer
        # The newest only: comparing with a million would take half a minute.
        return difflib.get_close_matches(edit_id, self.journal.newest_ids(2_000), n=3, cutoff=0.7)

    def timeline_at(self, moment: Moment) -> Timeline:
        """What had been written until a moment, in the states of that moment."""
        until = seconds(moment, "as_of")
        return self._timeline_of(lambda event: event.at <= until, until)

    def _timeline_of(self, counts: Callable[[Event], bool], now: float) -> Timeline:
        """The journal's first events, those that count, in the states of a moment."""
        made = Timeline(self.journal)
        position = 0
        while events := self.journal.read_since(position, CHUNK):
            written = [event for event in events if counts(event)]
            made.read(written)
            made.settle()
            made.settled()
            made.fold(at_once=False)
            position = events[-1].position
            if len(written) < len(events):
                break
        made.advance(now)
        made.settle()
        made.settled()
        return made

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
