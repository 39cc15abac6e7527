"""The memory of edits: what a served model should answer with, durable and searchable.

:class:`EditMemory` is the only writer. What it holds in main memory (a timeline of records, one
index and one lexicon per namespace) changes in two ways only: by reading events from the journal,
and by the clock, when an edit begins or expires. A call that adds or reverts writes events and
then reads them back like everybody else's, so that two processes on one file cannot come to
different states.

Of the edits that state one fact the one that began last answers, of those that are not reverted
and not expired (:mod:`memedit.timeline`); so what ends an edit brings back what it had replaced.

>>> from memedit.edits import structured
>>> from memedit.encoders import HashEncoder
>>> with EditMemory(path, HashEncoder()) as memory:
...     memory.add(structured("France", "The capital of {} is", "Lyon"))[0].state
'active'
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np

from memedit.conflicts import knows_encoder, same_target
from memedit.edits import Edit, from_mapping
from memedit.errors import (
    EditChanged,
    EditConflict,
    EditNotFound,
    InvalidEdit,
    InvalidInput,
    KeyReused,
    MemeditError,
    MemoryFileVersion,
    WrongState,
)
from memedit.indexes import check_kind, make_index
from memedit.indexes.growing import GrowingIndex
from memedit.journal import Event, Journal, Transaction
from memedit.lexicon import Mention, SubjectLexicon
from memedit.planning import (
    ON_CONFLICT,
    Answers,
    Conflict,
    OnConflict,
    Pending,
    Planned,
    Planner,
    Proposal,
    Stated,
    positions_of,
    texts_compared,
)
from memedit.protocols import Candidate, EditRecord, Encoder, Index, State, Vectors
from memedit.snapshots import LEAST, Restored, Snapshots
from memedit.timeline import Timeline, stored_edit

DEFAULT_NAMESPACE = "default"
"""The namespace of whoever names none."""

MAX_MENTIONED = 16
"""Most edits that join the candidates of a query only because their subject is mentioned."""

MAX_NOTE = 2_000
"""Longest author or reason, in characters."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CHUNK = 10_000
# Most edits about one subject that a new one is compared with, the newest.
_ABOUT = 64
_SHOWN_PROBLEMS = 20
# Up to this many mentioned edits are compared with the query one by one; beyond it, going down
# the index's ranking until enough of them have come by is cheaper.
_MENTIONED_ONE_BY_ONE = 256


@dataclass(slots=True)
class _Namespace:
    """What one namespace's active edits are found by."""

    index: Index | None = None  # made with the first vector, which tells its length
    lexicon: SubjectLexicon = field(default_factory=SubjectLexicon)
    active: dict[int, EditRecord] = field(default_factory=dict)  # by position
    # What states a fact and is not found by the lexicon: edits that are proposed, consolidated, or
    # without a known subject.
    aside: Stated = field(default_factory=Stated)
    answers: Answers = field(default_factory=Answers)


@dataclass(slots=True, eq=False)
class _Call:
    """One call of :meth:`EditMemory.add` on its way into a transaction."""

    proposals: Sequence[Proposal]
    namespace: str
    author: str
    reason: str
    on_conflict: OnConflict
    vectors: Vectors
    relations: dict[str, Vectors]
    mark: tuple[str, str] | None = None  # name and digest of an idempotency key
    skip_bad: bool = False
    then: Callable[[Transaction], None] | None = None
    planned: list[Planned] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False


Moment = float | datetime | str
"""Seconds since the epoch, a datetime (UTC where it names no zone), or such a time in ISO 8601."""


class _Facts:
    """What a planner asks about one namespace; used while the memory's lock is held."""

    def __init__(self, timeline: Timeline, namespace: str, space: _Namespace) -> None:
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
        positions = sorted(positions_of(space.lexicon, edit), reverse=True)
        found = [space.active[position] for position in positions[:_ABOUT]]
        return found + list(islice(space.aside.about(edit), _ABOUT))

    def answering(self, name: str) -> list[EditRecord]:
        """The active edits with this target, of those that rules know relations of."""
        return self._space.answers.find(name)


class EditMemory:
    """The edits of one memory file. Thread-safe; several processes may share the file.

    Every method that reads first takes in what other processes have committed.

    Args:
        path: the journal's file; made where there is none.
        encoder: what queries and edits are compared by; the caller keeps and closes it.
        index: a kind of :data:`memedit.indexes.KINDS`.
        reencode: make vectors with ``encoder`` for the edits that have none of it (or damaged
            ones) and store them; without it such a file is refused.
        clock: what tells the time, in seconds since the epoch.

    Raises:
        MemoryFileError: the file cannot be opened, is damaged or has another version.
        MemoryFileVersion: also where its vectors are another encoder's and ``reencode`` is off.
        ConfigError: there is no such kind of index.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: Encoder,
        *,
        index: str = "auto",
        reencode: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_kind(index)
        self._encoder = encoder
        self._index_kind = index
        self._lock = threading.RLock()
        self._position = 0
        self._version: tuple[int, int] | None = None  # of the journal, as it was last read
        self._timeline = Timeline()
        self._namespaces: dict[str, _Namespace] = {}
        self._waiting: list[_Call] = []
        self._waiting_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._opened = False
        self._closed = False
        self._clock = clock
        self._journal = Journal(path, clock=clock)
        self._snapshots = Snapshots(self._journal.path, index, encoder.name)
        try:
            if reencode:
                self._reencode()
            self.refresh()
        except BaseException:
            self._journal.close()
            raise
        self._opened = True

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: str | None = None) -> Self:
        """The memory in this file, with a sentence encoder of its own.

        Args:
            path: the journal's file; made where there is none.
            model: a sentence-transformers folder or hub name; the packaged MiniLM by default.

        Raises:
            MemoryFileError: as for the class itself.
        """
        from memedit.encoders import SentenceEncoder

        return cls(path, SentenceEncoder(model))

    @functools.cached_property
    def _compares(self) -> bool:
        """Whether the encoder is the one that conflicts were trained with."""
        return knows_encoder(self._encoder.name)

    @property
    def encoder(self) -> Encoder:
        """What queries and edits are compared by."""
        return self._encoder

    # changing

    def add(
        self,
        edits: Edit | Sequence[Edit],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
        valid_from: Moment | None = None,
        expires_at: Moment | None = None,
        on_conflict: OnConflict = "supersede",
        idempotency_key: str | None = None,
    ) -> list[EditRecord]:
        """Adds edits, all of them or none; durable and live when it returns.

        An edit that states the same fact as one of the namespace (:mod:`memedit.conflicts`) and
        answers it otherwise supersedes it, by default. An edit that says nothing beyond an active
        one is not added again: its record is the active one's, under that one's id. Calls of
        several threads that come at once share one transaction.

        Args:
            edits: one or several; later ones may supersede earlier ones.
            namespace: where they go.
            author: who adds them, free text of at most 2,000 characters.
            reason: why, likewise.
            valid_from: from when they answer; from now on where it is past or not given.
            expires_at: from when they answer no longer, and what they replaced answers again.
            on_conflict: ``supersede`` retires what they conflict with, ``reject`` raises, and
                ``keep-both`` lets them stand beside it.
            idempotency_key: a name for this call: the same call again under the same key, even
                after a restart, adds nothing and returns the same edits.

        Returns:
            One record per edit, in their order, each with the warnings that concern it.

        Raises:
            InvalidEdit: an id is taken by another edit.
            EditConflict: an edit conflicts with another, and ``on_conflict`` is ``reject``.
            InvalidInput: another argument is malformed.
            KeyReused: the idempotency key was used for another call.
            MemoryFileError: the file cannot be written; nothing was added.
        """
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        begins, ends = _span(valid_from, expires_at, self._clock())
        proposals = [Proposal(edit, begins, ends) for edit in edits]
        return self.add_timed(
            proposals,
            namespace=namespace,
            author=author,
            reason=reason,
            on_conflict=on_conflict,
            idempotency_key=idempotency_key,
        )

    def add_timed(
        self,
        proposals: Sequence[Proposal],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
        on_conflict: OnConflict = "supersede",
        idempotency_key: str | None = None,
    ) -> list[EditRecord]:
        """:meth:`add`, of edits with times of their own.

        Args:
            proposals: edits with their times.
            namespace: as for :meth:`add`, as is all that follows.
            author: as for :meth:`add`.
            reason: as for :meth:`add`.
            on_conflict: as for :meth:`add`.
            idempotency_key: as for :meth:`add`.

        Raises:
            MemeditError: as for :meth:`add`.
        """
        mark = None
        if idempotency_key is not None:
            _check_note(idempotency_key, "idempotency_key")
            mark = (f"key:{idempotency_key}", _digest(proposals))
        call = self._call(proposals, namespace, author, reason, on_conflict)
        call.mark = mark
        if not proposals:
            return []
        self._submit(call)
        with self._lock:
            records = [self._timeline.records[edit_id] for edit_id in call.ids]
        if not call.planned:
            return records
        return [
            replace(record, warnings=tuple(one.warnings)) if one.warnings else record
            for record, one in zip(records, call.planned, strict=True)
        ]

    def supersede(
        self,
        old: EditRecord,
        edit: Edit,
        *,
        author: str = "",
        reason: str = "",
        valid_from: Moment | None = None,
        expires_at: Moment | None = None,
        idempotency_key: str | None = None,
    ) -> EditRecord:
        """Adds an edit in the place of another, whatever the two say.

        Args:
            old: the edit that it supersedes, as the caller saw it: active, proposed or
                consolidated.
            edit: the new one.
            author: as for :meth:`add`, as are ``reason`` and all that follow.
            reason: as for :meth:`add`.
            valid_from: as for :meth:`add`.
            expires_at: as for :meth:`add`.
            idempotency_key: as for :meth:`add`.

        Returns:
            The new edit's record; the other's, where the new one says nothing beyond it.

        Raises:
            EditChanged: the other is no longer as the caller saw it.
            WrongState: the other answers no more.
            InvalidInput: as :meth:`add`.
            MemoryFileError: the file cannot be written; nothing was added.
        """
        begins, ends = _span(valid_from, expires_at, self._clock())
        (record,) = self.add_timed(
            [Proposal(edit, begins, ends, replaces=old)],
            namespace=old.namespace,
            author=author,
            reason=reason,
            idempotency_key=idempotency_key,
        )
        return record

    def revert(
        self,
        edit_id: str,
        *,
        author: str = "",
        reason: str = "",
        seen: EditRecord | None = None,
    ) -> EditRecord:
        """Undoes an add: what the edit had replaced is active again, unless another replaced it.

        Args:
            edit_id: its id.
            author: as for :meth:`add`, as is ``reason``.
            reason: as for :meth:`add`.
            seen: the record as the caller saw it, where it must be as it was then.

        Returns:
            The record, now ``reverted``.

        Raises:
            EditNotFound: there is no such edit.
            EditChanged: it is not as it was when it was ``seen``.
            WrongState: it is reverted already.
            InvalidInput: author or reason is malformed.
            MemoryFileError: the file cannot be written; nothing was changed.
        """
        _check_note(author, "author")
        _check_note(reason, "reason")
        with self._journal.transaction() as transaction:
            record = self.get(edit_id)
            _check_seen(record, seen)
            if record.state == "reverted":
                events = self._journal.history(edit_id)
                event = next(e for e in reversed(events) if e.kind == "revert")
                by = f" by {event.author}" if event.author else ""
                raise WrongState(
                    f"edit {edit_id} was reverted already, at {_utc(event.at)}{by}; to have the "
                    "fact back, restore it"
                )
            with self._lock:
                heirs = self._timeline.heirs(edit_id)
            transaction.append("revert", edit_id, record.namespace, author=author, reason=reason)
            self._put_lacking(transaction, heirs)
        return self.get(edit_id)

    def restore(
        self,
        edit_id: str,
        *,
        author: str = "",
        reason: str = "",
        seen: EditRecord | None = None,
    ) -> EditRecord:
        """Undoes a revert: the edit is back in its place in the line of those of its fact.

        It answers again unless an edit that began later states the same fact; then it is
        superseded by that one, until that one ends.

        Args:
            edit_id: its id.
            author: as for :meth:`add`, as is ``reason``.
            reason: as for :meth:`add`.
            seen: as for :meth:`revert`.

        Returns:
            The record in its new state.

        Raises:
            EditNotFound: there is no such edit.
            EditChanged: as for :meth:`revert`.
            WrongState: it is not reverted.
            InvalidInput: author or reason is malformed.
            MemoryFileError: the file cannot be written; nothing was changed.
        """
        _check_note(author, "author")
        _check_note(reason, "reason")
        with self._journal.transaction() as transaction:
            record = self.get(edit_id)
            _check_seen(record, seen)
            if record.state != "reverted":
                raise WrongState(
                    f"edit {edit_id} is {record.state}, not reverted; only a reverted edit can be "
                    "restored"
                )
            with self._lock:
                heirs = self._timeline.heirs(edit_id)
                planner = self._planner(record.namespace, "supersede", {})
                joins = (
                    planner.same_fact_as(record.edit)
                    if not self._timeline.is_beside(edit_id)
                    else ()
                )
            transaction.append(
                "restore", edit_id, record.namespace, author=author, reason=reason, joins=joins
            )
            self._put_lacking(transaction, [edit_id, *heirs])
        return self.get(edit_id)

    def consolidate(
        self, edit_ids: Iterable[str], version: str, *, author: str = "", reason: str = ""
    ) -> list[EditRecord]:
        """Says that the facts of these edits are in the weights of a version, all of them or none.

        They are no longer retrieved, and still conflict with edits of the same facts. An empty
        version says that the weights were given up: the edits answer from the memory again.

        Raises:
            EditNotFound: there is no edit of one of these ids.
            WrongState: one of them is not active (nor consolidated).
            InvalidInput: an argument is malformed.
            MemoryFileError: the file cannot be written; nothing was changed.
        """
        _check_note(author, "author")
        _check_note(reason, "reason")
        _check_note(version, "version")
        ids = list(dict.fromkeys(edit_ids))
        with self._journal.transaction() as transaction:
            for edit_id in ids:
                record = self.get(edit_id)
                if record.state not in ("active", "consolidated"):
                    raise WrongState(
                        f"edit {edit_id} is {record.state}; only edits that are active can be "
                        "consolidated"
                    )
                if record.version != version:
                    transaction.append(
                        "consolidate",
                        edit_id,
                        record.namespace,
                        author=author,
                        reason=reason,
                        version=version,
                    )
            self._put_lacking(transaction, ids)
        return [self.get(edit_id) for edit_id in ids]

    def add_proposals(
        self,
        proposals: Sequence[Proposal],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
        on_conflict: OnConflict = "supersede",
        skip_bad: bool = False,
        then: Callable[[Transaction], None] | None = None,
    ) -> list[Planned]:
        """:meth:`add` for bulk imports, which want to know what became of each edit.

        Args:
            proposals: edits with their times.
            namespace: as for :meth:`add`.
            author: as for :meth:`add`.
            reason: as for :meth:`add`.
            on_conflict: as for :meth:`add`.
            skip_bad: leave out the edits that cannot be added, instead of refusing all.
            then: writes more into the same transaction.

        Returns:
            One entry per edit, in their order.

        Raises:
            MemeditError: as for :meth:`add`.
        """
        call = self._call(proposals, namespace, author, reason, on_conflict)
        call.skip_bad, call.then = skip_bad, then
        self._submit(call)
        return call.planned

    def preview(
        self,
        proposals: Sequence[Proposal],
        namespace: str = DEFAULT_NAMESPACE,
        on_conflict: OnConflict = "supersede",
        pending: Pending | None = None,
    ) -> list[Planned]:
        """What adding these edits would come to; nothing is written.

        Args:
            proposals: edits with their times.
            namespace: where they would go.
            on_conflict: as for :meth:`add`.
            pending: what earlier previews would have added; these edits are put there, too.
        """
        relations = self._relations(proposals, namespace)
        with self._lock:
            self.refresh()
            planner = self._planner(namespace, on_conflict, relations, pending)
            return planner.plan(proposals)

    def import_progress(self, namespace: str, name: str) -> int:
        """How many lines an import under this name has dealt with; 0 for an unknown one."""
        check_namespace(namespace)
        mark = self._journal.mark(namespace, name)
        return 0 if mark is None else int(mark["done"])

    def import_jsonl(
        self,
        lines: Iterable[str | bytes],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
    ) -> list[EditRecord]:
        """Adds the edits of JSON Lines, all of them or none; empty lines are skipped.

        Args:
            lines: JSON objects as :func:`memedit.edits.from_mapping` takes them, each with
                ``valid_from`` and ``expires_at`` where it has them; UTF-8 if bytes. An open file
                will do.
            namespace: as for :meth:`add`.
            author: as for :meth:`add`.
            reason: as for :meth:`add`.

        Raises:
            InvalidEdit: lines are bad; the message numbers them, and nothing was added.
        """
        proposals: list[Proposal] = []
        problems: list[str] = []
        count = 0
        now = self._clock()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            count += 1
            try:
                proposals.append(proposal_of_line(line, f"line {number}: ", now))
            except InvalidInput as error:
                problems.append(f"line {number}: {error}")
        if problems:
            raise InvalidEdit(_report(problems, count))
        return self.add_timed(proposals, namespace=namespace, author=author, reason=reason)

    # looking

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; returns whether there was anything.

        Raises:
            MemoryFileError: the file is damaged, or was deleted or replaced beneath the memory.
        """
        with self._lock:
            return self._refresh({})

    def get(self, edit_id: str, *, as_of: Moment | None = None) -> EditRecord:
        """The record of an edit in whatever state.

        Args:
            edit_id: its id.
            as_of: a moment to look back to, or forward to: what was written until then, in the
                states of then.

        Raises:
            EditNotFound: there is none of that id; the message names close ones.
        """
        if as_of is not None:
            past = self._timeline_at(as_of)
            if edit_id in past.records:
                return past.records[edit_id]
            raise EditNotFound(
                f"there was no edit {edit_id!r} in {self._journal.path} at {_utc(past.now)}"
            )
        with self._lock:
            record = self.find(edit_id)
            if record is None:
                close = self._close_ids(edit_id)
                hint = f"did you mean {' or '.join(close)}?" if close else "list them for their ids"
                raise EditNotFound(f"there is no edit {edit_id!r} in {self._journal.path}; {hint}")
            return record

    def find(self, edit_id: str) -> EditRecord | None:
        """The record of an edit in whatever state, or ``None``; no time goes into close ids."""
        with self._lock:
            self.refresh()
            return self._timeline.records.get(edit_id)

    def records(
        self,
        namespace: str | None = None,
        states: Iterable[State] = ("active",),
        *,
        as_of: Moment | None = None,
    ) -> list[EditRecord]:
        """The records of a namespace, or of all of them, in these states, oldest first.

        Args:
            namespace: whose, or ``None`` for all.
            states: in which states.
            as_of: as for :meth:`get`.
        """
        if namespace is not None:
            check_namespace(namespace)
        wanted = set(states)
        past = None if as_of is None else self._timeline_at(as_of)
        with self._lock:
            if past is None:
                self.refresh()
            return [
                record
                for record in (past or self._timeline).records.values()
                if record.state in wanted and namespace in (None, record.namespace)
            ]

    def history(self, edit_id: str) -> list[Event]:
        """What happened to an edit, in order: kind, at, author, reason and position of each.

        Raises:
            EditNotFound: there is no such edit.
        """
        self.get(edit_id)
        return self._journal.history(edit_id)

    def events(self, namespace: str, start: int = 0, limit: int = 100) -> list[Event]:
        """What happened to the edits of a namespace, in order.

        Args:
            namespace: whose edits.
            start: how many of its events to leave out. Nothing is ever taken from the journal, so
                an event keeps its number.
            limit: at most this many.
        """
        check_namespace(namespace)
        return self._journal.events_of(namespace, start, limit)

    def conflicts(self, edit_id: str) -> list[Conflict]:
        """The live or proposed edits that answer the fact of an edit otherwise.

        Raises:
            EditNotFound: there is no such edit.
        """
        record = self.get(edit_id)
        relations = self._relations([Proposal(record.edit)], record.namespace)
        with self._lock:
            self.refresh()
            return self._planner(record.namespace, "keep-both", relations).conflicts_of(record.edit)

    def disputed(self, namespace: str = DEFAULT_NAMESPACE) -> list[EditRecord]:
        """The live or proposed edits that were added to stand beside others of their fact."""
        found = self.records(namespace, ("active", "proposed", "consolidated"))
        with self._lock:
            return [record for record in found if self._timeline.is_beside(record.edit.id)]

    def namespaces(self) -> list[str]:
        """The namespaces that hold or have held an edit, in alphabetical order."""
        with self._lock:
            self.refresh()
            return sorted(self._namespaces)

    def __len__(self) -> int:
        """How many edits are active, in all namespaces."""
        with self._lock:
            self.refresh()
            return sum(len(space.active) for space in self._namespaces.values())

    def __bool__(self) -> bool:
        """True: an empty memory is a memory."""
        return True

    def count(self, namespace: str = DEFAULT_NAMESPACE) -> int:
        """How many edits are active in a namespace."""
        space = self._space(namespace)
        return 0 if space is None else len(space.active)

    def search(
        self,
        text: str,
        k: int = 8,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        as_of: Moment | None = None,
    ) -> list[tuple[EditRecord, float]]:
        """The ``k`` active edits closest to a text, each with its cosine, closest first.

        Args:
            text: what to look for.
            k: at least 1.
            namespace: whose edits.
            as_of: as for :meth:`get`; it takes longer, since no index is kept of the past.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        _check_k(k)
        if as_of is not None:
            return self._search_past(text, k, self.records(namespace, as_of=as_of))
        if self._space(namespace) is None:
            return []
        queries = self._encoder.encode([text])
        with self._lock:
            space = self._space(namespace)
            if space is None or space.index is None:
                return []
            scores, positions = space.index.search(queries, k)
            found = zip(positions[0].tolist(), scores[0].tolist(), strict=True)
            return [(space.active[position], _cosine(score)) for position, score in found]

    def candidates(
        self, queries: Sequence[str], namespace: str = DEFAULT_NAMESPACE, k: int = 8
    ) -> list[list[Candidate]]:
        """The edits that each query may be about.

        Those are the ``k`` closest by cosine, and of the edits whose subject or alias the query
        mentions the :data:`MAX_MENTIONED` closest, by descending cosine and then by age. Where
        the namespace has no active edit nothing is encoded.

        Args:
            queries: any number of texts; they are encoded and searched together.
            namespace: whose edits.
            k: at least 1.

        Returns:
            One list per query.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        _check_k(k)
        if not queries or self._space(namespace) is None:
            return [[] for _ in queries]
        # Encoding takes milliseconds and needs no lock; what changes meanwhile is seen below.
        encoded = self._encoder.encode(queries)
        with self._lock:
            space = self._space(namespace)
            if space is None or space.index is None:
                return [[] for _ in queries]
            scores, positions = space.index.search(encoded, k)
            return [
                self._candidates_of(
                    space, text, row, dict(zip(ids.tolist(), cosines.tolist(), strict=True))
                )
                for text, row, ids, cosines in zip(queries, encoded, positions, scores, strict=True)
            ]

    def export_jsonl(self, namespace: str = DEFAULT_NAMESPACE) -> Iterator[str]:
        """The active edits of a namespace, oldest first, as lines for :meth:`import_jsonl`.

        The lines end without a line break and carry the edits' ids.
        """
        for record in self.records(namespace):
            times = {"valid_from": record.valid_from, "expires_at": record.expires_at}
            said = {name: moment for name, moment in times.items() if moment is not None}
            yield json.dumps(record.edit.to_mapping() | said, ensure_ascii=False)

    # looking after the file

    def check(self) -> list[str]:
        """What is wrong with the file or with what was made of it, as sentences; else empty.

        Every record is compared with its checksum, every index with what the journal says.
        """
        found = self._journal.problems()
        if found:
            return found
        with self._lock:
            self.refresh()
            fresh = Timeline()
            position = 0
            while events := self._journal.read_since(position, _CHUNK):
                fresh.read(events)
                position = events[-1].position
            fresh.advance(self._timeline.now)
            fresh.settle()
            if fresh.records != self._timeline.records:
                found.append("the states in this process are not those of the journal; reopen it")
            for name, space in self._namespaces.items():
                active = {
                    r.position
                    for r in fresh.records.values()
                    if r.namespace == name and r.state == "active"
                }
                held = 0 if space.index is None else len(space.index)
                if active != space.active.keys() or held != len(active):
                    found.append(f"the index of {name} does not hold the active edits; rebuild it")
        return found

    def compact(self) -> dict[str, int]:
        """Gives space back: vectors of other encoders, and of edits that cannot answer, go.

        History stays whole: every event is kept. A vector that a later revert or restore needs is
        made again then.

        Returns:
            The file's size before and after, in bytes.

        Raises:
            MemoryFileError: the file is read-only, or its disk has no room for a second copy of
                it; nothing is lost.
        """

        def keep() -> list[int]:
            with self._lock:
                self.refresh()
                return [record.position for record in self._timeline.needed()]

        before = self._journal.counts()
        self._journal.compact(self._encoder.name, keep)
        after = self._journal.counts()
        return {
            "before": before["bytes"] + before["waiting_bytes"],
            "after": after["bytes"] + after["waiting_bytes"],
        }

    def rebuild(self) -> int:
        """Makes vectors again that are missing or damaged, and all indexes from the journal.

        Returns:
            How many edits are active.

        Raises:
            MemoryFileError: the file is damaged, or cannot be written; it is as it was.
        """
        self._reencode()
        with self._lock:
            self._snapshots.forget()
            self._timeline = Timeline()
            self._namespaces = {}
            self._position = 0
            self._version = None
            self.refresh()
            for space in self._namespaces.values():
                if isinstance(space.index, GrowingIndex):
                    space.index.wait()
            self._save_snapshots()
            return len(self)

    def stats(self) -> dict[str, Any]:
        """How much the memory holds: edits by namespace and state, records, encoders, bytes."""
        edits: dict[str, dict[str, int]] = {}
        with self._lock:
            self.refresh()
            for record in self._timeline.records.values():
                of = edits.setdefault(record.namespace, {})
                of[record.state] = of.get(record.state, 0) + 1
        return {
            "file": str(self._journal.path),
            "edits": edits,
            "encoders": self._journal.encoders(),
            **self._journal.counts(),
        }

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copies the file as it stands between two commits, while it is used.

        Raises:
            MemoryFileError: there is a file of that name, or it cannot be written.
        """
        self._journal.backup(target)

    # closing

    def close(self) -> None:
        """Closes the file; harmless when it is closed already. The encoder stays as it is.

        Large indexes are saved beside it where they have changed, for the next start.
        """
        with self._lock:
            if not self._closed:
                self._save_snapshots()
            self._closed = True
            for space in self._namespaces.values():
                if isinstance(space.index, GrowingIndex):
                    space.index.close()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _save_snapshots(self) -> None:
        """Saves what is worth it, as it was last read; the caller has the lock."""
        first = next(iter(self._timeline.records.values()), None)
        if first is None:
            return
        stamp = self._snapshots.stamp(first, self._position)
        for name, space in self._namespaces.items():
            if space.index is not None:
                self._snapshots.save(name, space.index, space.lexicon, stamp)

    # writing events

    def _call(
        self,
        proposals: Sequence[Proposal],
        namespace: str,
        author: str,
        reason: str,
        on_conflict: OnConflict,
    ) -> _Call:
        """A checked call, with all that takes long already done."""
        check_namespace(namespace)
        _check_note(author, "author")
        _check_note(reason, "reason")
        if on_conflict not in ON_CONFLICT:
            raise InvalidInput(f"on_conflict {on_conflict!r} is none of {', '.join(ON_CONFLICT)}")
        # Before any lock: encoding takes longer than all the rest.
        keys = [proposal.edit.key for proposal in proposals]
        vectors = self._encoder.encode(keys) if keys else np.empty((0, 0), dtype=np.float32)
        relations = self._relations(proposals, namespace)
        return _Call(proposals, namespace, author, reason, on_conflict, vectors, relations)

    def _submit(self, call: _Call) -> None:
        """Has a call committed, by this thread or by one that commits for several.

        Whoever gets the lock first writes for all who wait: one synchronisation of the disk serves
        them all.
        """
        with self._waiting_lock:
            self._waiting.append(call)
        with self._commit_lock:
            if not call.done:
                with self._waiting_lock:
                    calls, self._waiting = self._waiting, []
                try:
                    self._commit(calls)
                except BaseException as error:
                    for other in calls:
                        other.error = other.error or error
                    raise
                finally:
                    for other in calls:
                        other.done = True
        if call.error is not None:
            raise call.error

    def _commit(self, calls: Sequence[_Call]) -> None:
        known: dict[int, Vectors] = {}
        pending: dict[str, Pending] = {}
        with self._journal.transaction() as transaction:
            for call in calls:
                try:
                    with self._lock:
                        # From here to the commit nobody else commits, so what is seen now holds.
                        self.refresh()
                        self._plan(call, transaction, pending)
                except MemeditError as error:
                    call.error = error
                    continue
                known.update(self._write(call, transaction))
            if known:
                _put_vectors(transaction, self._encoder.name, known)
        with self._lock:
            self._refresh(known)

    def _plan(self, call: _Call, transaction: Transaction, pending: dict[str, Pending]) -> None:
        """Decides what a call comes to, in view of those before it in the transaction."""
        if call.mark is not None:
            name, digest = call.mark
            before = transaction.mark(call.namespace, name)
            if before is not None:
                if before["digest"] != digest:
                    raise KeyReused(
                        f"the idempotency key {name.removeprefix('key:')!r} was used in "
                        f"{call.namespace} for other edits; use a new key for a new call"
                    )
                call.ids = before["ids"]
                return
        for proposal in call.proposals:
            if (old := proposal.replaces) is not None:
                _check_seen(self.get(old.edit.id), old)
                if old.state not in ("active", "proposed", "consolidated"):
                    raise WrongState(
                        f"edit {old.edit.id} is {old.state}; only an edit that answers, or is "
                        "about to, can be superseded: restore it first, or add a new one"
                    )
        held = pending.setdefault(call.namespace, Pending())
        planner = self._planner(
            call.namespace, call.on_conflict, call.relations, held, transaction.now
        )
        planned = planner.plan(call.proposals)
        bad = [one for one in planned if one.problem]
        if bad and not call.skip_bad:
            held.forget(planned)
            kind = EditConflict if all(one.conflicts for one in bad) else InvalidEdit
            problems = [f"{one.proposal.where}{one.problem}" for one in bad]
            raise kind(_report(problems, len(planned)))
        call.planned = planned
        call.ids = [one.edit_id for one in planned]

    @staticmethod
    def _write(call: _Call, transaction: Transaction) -> dict[int, Vectors]:
        """Writes the events of a planned call; returns its vectors by position."""
        known: dict[int, Vectors] = {}
        for one, vector in zip(call.planned, call.vectors, strict=False):
            if not one.added:
                continue
            event = transaction.append(
                "add",
                one.edit_id,
                call.namespace,
                author=call.author,
                reason=call.reason,
                edit=one.proposal.edit.to_mapping(),
                supersedes=one.supersedes,
                joins=one.joins,
                beside=one.beside,
                valid_from=one.proposal.valid_from,
                expires_at=one.proposal.expires_at,
            )
            known[event.position] = vector
        if call.mark is not None and call.planned:
            name, digest = call.mark
            transaction.put_mark(call.namespace, name, {"digest": digest, "ids": call.ids})
        if call.then is not None:
            call.then(transaction)
        return known

    def _planner(
        self,
        namespace: str,
        on_conflict: OnConflict,
        relations: dict[str, Vectors],
        pending: Pending | None = None,
        now: float | None = None,
    ) -> Planner:
        return Planner(
            _Facts(self._timeline, namespace, self._namespaces.get(namespace) or _Namespace()),
            on_conflict,
            self._timeline.now if now is None else now,
            encode=self._encoder.encode if self._compares else None,
            vectors=relations,
            pending=pending,
        )

    def _relations(self, proposals: Sequence[Proposal], namespace: str) -> dict[str, Vectors]:
        """Vectors of the relations that planning is going to compare, made before any lock."""
        texts: dict[str, None] = {}
        with self._lock:
            self.refresh()
            space = self._namespaces.get(namespace)
            if space is not None and self._compares:
                facts = _Facts(self._timeline, namespace, space)
                for proposal in proposals:
                    for record in facts.about(proposal.edit):
                        if not same_target(proposal.edit, record.edit):
                            compared = texts_compared(proposal.edit, record.edit)
                            texts.update(dict.fromkeys(compared))
        if not texts:
            return {}
        return dict(zip(texts, self._encoder.encode(list(texts)), strict=True))

    def _put_lacking(self, transaction: Transaction, edit_ids: Sequence[str]) -> None:
        """Stores vectors of these edits that compaction has dropped: they may answer again."""
        with self._lock:
            records = {
                self._timeline.records[i].position: self._timeline.records[i] for i in edit_ids
            }
        if not records:
            return
        lacking = self._journal.lacking_vectors(self._encoder.name, records)
        if lacking:
            vectors = self._encoder.encode([records[p].edit.key for p in lacking])
            transaction.put_vectors(self._encoder.name, lacking, vectors)

    def _reencode(self) -> None:
        """Stores vectors of this encoder for the added edits that have none, or damaged ones."""
        position = 0
        while events := self._journal.read_since(position, _CHUNK):
            position = events[-1].position
            keys = {e.position: stored_edit(e).key for e in events if e.kind == "add"}
            lacking = self._journal.lacking_vectors(self._encoder.name, keys)
            if lacking:
                vectors = self._encoder.encode([keys[p] for p in lacking])
                with self._journal.transaction() as transaction:
                    transaction.put_vectors(self._encoder.name, lacking, vectors)

    # reading events

    def _refresh(self, known: Mapping[int, Vectors]) -> bool:
        """:meth:`refresh` by a caller who has the lock, and perhaps vectors of new edits."""
        version = self._journal.version()
        now = self._clock()
        if version == self._version and not self._timeline.is_due(now):
            return False
        self._version = None
        changed = self._timeline.advance(now)
        position = self._position
        # A snapshot serves whoever takes up all at once; without one that would only take room.
        restoring = not self._opened and self._snapshots.exist()
        while events := self._journal.read_since(position, _CHUNK):
            self._timeline.read(events)
            self._timeline.advance(now)
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
        records = self._timeline.settle()
        for record in records:
            space = self._namespaces.setdefault(record.namespace, _Namespace())
            is_held = record.position in space.active
            if record.state == "active" and not is_held:
                coming.setdefault(record.namespace, []).append(record)
            elif record.state != "active" and is_held:
                going.setdefault(record.namespace, []).append(record)
        # All that can fail comes before the first change of a namespace.
        restored = {name: self._restored(name, some, position) for name, some in coming.items()}
        vectors = self._vectors(
            [
                record
                for name, some in coming.items()
                for record in some
                if (held := restored[name]) is None or record.position in held.missing
            ],
            known,
        )
        for name, some in going.items():
            self._let_go(self._namespaces[name], some)
        for name, some in coming.items():
            self._take_up(self._namespaces[name], some, vectors, restored[name])
        for record in records:
            space = self._namespaces[record.namespace]
            if record.position in space.active:
                space.active[record.position] = record
            named = bool(record.edit.names) and record.state == "active"
            if record.state in ("active", "proposed", "consolidated") and not named:
                space.aside.add(record)
            elif record.edit.id in space.aside:
                space.aside.remove(record.edit.id)
        self._timeline.settled()

    def _timeline_at(self, moment: Moment) -> Timeline:
        """What had been written until a moment, in the states of that moment."""
        until = _seconds(moment, "as_of")
        past = Timeline()
        position = 0
        while events := self._journal.read_since(position, _CHUNK):
            written = [event for event in events if event.at <= until]
            past.read(written)
            position = events[-1].position
            if len(written) < len(events):
                break
        past.advance(until)
        past.settle()
        return past

    def _search_past(
        self, text: str, k: int, records: Sequence[EditRecord]
    ) -> list[tuple[EditRecord, float]]:
        """The ``k`` of these records that are closest to a text, by comparing with each."""
        if not records:
            return []
        query = self._encoder.encode([text])[0]
        best: list[tuple[EditRecord, float]] = []
        for start in range(0, len(records), _CHUNK):
            some = records[start : start + _CHUNK]
            rows = self._vectors(some, may_lack=True)
            best += [(record, _cosine(float(rows[record.position] @ query))) for record in some]
            best = sorted(best, key=lambda pair: (-pair[1], pair[0].position))[:k]
        return best

    @staticmethod
    def _let_go(space: _Namespace, records: Sequence[EditRecord]) -> None:
        for record in records:
            space.lexicon.remove(record.position)
            space.answers.remove(record)
            del space.active[record.position]
        if space.index is not None:
            space.index.remove(np.array([record.position for record in records], dtype=np.int64))

    def _restored(
        self, namespace: str, records: Sequence[EditRecord], position: int | None
    ) -> Restored | None:
        """A namespace from its snapshot, where it has nothing yet and there is a good one."""
        if position is None or self._namespaces[namespace].active or len(records) < LEAST:
            return None
        (row,) = self._vectors(records[:1]).values()
        first = next(iter(self._timeline.records.values()))
        active = {record.position: record for record in records}
        stamp = self._snapshots.stamp(first, position)
        return self._snapshots.load(namespace, len(row), active, stamp)

    def _take_up(
        self,
        space: _Namespace,
        records: Sequence[EditRecord],
        vectors: Mapping[int, Vectors],
        restored: Restored | None,
    ) -> None:
        records = sorted(records, key=lambda record: record.position)
        lacking = [record.position for record in records if record.position in vectors]
        if restored is not None:
            space.index, space.lexicon = restored.index, restored.lexicon
            lacking = [position for position in lacking if position in restored.missing]
        if lacking:
            rows = np.stack([vectors[position] for position in lacking])
            if space.index is None:
                space.index = make_index(self._index_kind, rows.shape[1])
            space.index.add(np.array(lacking, dtype=np.int64), rows)
        for record in records:
            if restored is None:
                space.lexicon.add(record.position, record.edit.names)
            space.answers.add(record)
            space.active[record.position] = record

    def _vectors(
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
        rows.update(self._journal.vectors(self._encoder.name, absent))
        if lacking := [record for position, record in absent.items() if position not in rows]:
            if not (self._opened or may_lack):
                others = ", ".join(
                    repr(name) for name in self._journal.encoders() if name != self._encoder.name
                )
                raise MemoryFileVersion(
                    f"{self._journal.path} holds edits without vectors of the encoder "
                    f"{self._encoder.name!r} (it has those of {others or 'none'}); open it with "
                    "that encoder, or with reencode=True to store vectors of this one too"
                )
            # Another process has added these with another encoder: rare, few, and live for the
            # next request all the same.
            fresh = self._encoder.encode([record.edit.key for record in lacking])
            rows.update(zip((record.position for record in lacking), fresh, strict=True))
        return rows

    # finding

    def _space(self, namespace: str) -> _Namespace | None:
        """The namespace as of now, or ``None`` where it has no active edit."""
        check_namespace(namespace)
        with self._lock:
            self.refresh()
            space = self._namespaces.get(namespace)
            return space if space is not None and space.active else None

    def _candidates_of(
        self, space: _Namespace, text: str, query: Vectors, cosines: dict[int, float]
    ) -> list[Candidate]:
        """The candidates of one query, given the cosines of those closest to it."""
        mentions = _mention_by_position(space.lexicon.find(text))
        for position, cosine in self._closest(space, query, mentions):
            cosines.setdefault(position, cosine)
        found = []
        for position in sorted(cosines, key=lambda p: (-cosines[p], p)):
            mention = mentions.get(position)
            found.append(
                Candidate(
                    edit=space.active[position].edit,
                    cosine=_cosine(cosines[position]),
                    mention=None if mention is None else (mention.start, mention.end),
                    masked_by_longer=mention is not None and mention.within_longer_name,
                )
            )
        return found

    def _closest(
        self, space: _Namespace, query: Vectors, positions: Mapping[int, Any]
    ) -> list[tuple[int, float]]:
        """The :data:`MAX_MENTIONED` of these positions that are closest to the query."""
        if not positions or space.index is None:
            return []
        if len(positions) <= _MENTIONED_ONE_BY_ONE:
            rows = self._vectors([space.active[position] for position in positions])
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

    def _close_ids(self, edit_id: str) -> list[str]:
        ids = self._timeline.records
        longer = [known for known in ids if known.startswith(edit_id)] if edit_id else []
        if longer:
            return longer[:3]
        # The newest only: comparing with a million would take half a minute.
        newest = list(ids)[-2_000:]
        return difflib.get_close_matches(edit_id, newest, n=3, cutoff=0.7)


def _put_vectors(transaction: Transaction, encoder: str, rows: Mapping[int, Vectors]) -> None:
    transaction.put_vectors(encoder, list(rows), np.stack(list(rows.values())))


def _mention_by_position(mentions: Iterable[Mention]) -> dict[int, Mention]:
    """Each edit's best mention: rather not part of a longer name, then the longest, the first."""
    best: dict[int, Mention] = {}
    for mention in mentions:
        for position in mention.positions:
            if position not in best or _rank(mention) > _rank(best[position]):
                best[position] = mention
    return best


def _rank(mention: Mention) -> tuple[bool, int]:
    return not mention.within_longer_name, mention.end - mention.start


def proposal_of_line(line: str | bytes, where: str, now: float) -> Proposal:
    """The edit that a line of JSON Lines proposes, with its times.

    Raises:
        InvalidInput: the line is no JSON object, or no edit, or its times are no times.
    """
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        data = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InvalidEdit(f"not a JSON object ({error}); write one edit a line") from error
    return proposal_of_mapping(data, where, now)


def proposal_of_mapping(data: Any, where: str, now: float) -> Proposal:
    """The edit that an object proposes: an edit's fields, ``valid_from`` and ``expires_at``.

    Raises:
        InvalidInput: it is no edit, or its times are no times.
    """
    times: dict[str, Any] = {}
    if isinstance(data, Mapping):
        times = {name: data.get(name) for name in ("valid_from", "expires_at")}
        data = {name: value for name, value in data.items() if name not in times}
    begins, ends = _span(times.get("valid_from"), times.get("expires_at"), now)
    return Proposal(from_mapping(data), begins, ends, where)


def _report(problems: Sequence[str], count: int) -> str:
    if count == 1:
        return problems[0]
    shown = "\n".join(problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    tail = f"\nand {more:,} more" if more > 0 else ""
    return f"{len(problems):,} of {count:,} edits are bad, and nothing was added:\n{shown}{tail}"


def check_namespace(namespace: object) -> None:
    """Refuses what cannot be a namespace.

    Raises:
        InvalidInput: it is not 1 to 64 characters of those that are allowed.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"the namespace {namespace!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )


def _check_seen(record: EditRecord, seen: EditRecord | None) -> None:
    if seen is not None and record != seen:
        raise EditChanged(
            f"edit {record.edit.id} has changed since it was looked at: it is {record.state} now; "
            "look at it again, and decide anew"
        )


def _check_note(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be text, not {type(text).__name__}")
    if len(text) > MAX_NOTE:
        raise InvalidInput(f"{name} has {len(text):,} characters; at most {MAX_NOTE:,} are taken")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} holds a lone surrogate; send valid Unicode") from error


def _span(
    valid_from: Moment | None, expires_at: Moment | None, now: float
) -> tuple[float | None, float | None]:
    """Both moments in seconds since the epoch, with something between them."""
    begins = None if valid_from in (None, "") else _seconds(valid_from, "valid_from")
    ends = None if expires_at in (None, "") else _seconds(expires_at, "expires_at")
    if ends is not None and ends <= max(now, begins or 0.0):
        of = "valid_from" if (begins or 0.0) > now else "now"
        raise InvalidInput(
            f"expires_at ({_utc(ends)}) is not after {of} ({_utc(max(now, begins or 0.0))}); an "
            "edit that never answers is not added"
        )
    return begins, ends


def _seconds(moment: object, name: str) -> float:
    try:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment.strip())
        if isinstance(moment, datetime):
            zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return zoned.timestamp()
        if isinstance(moment, int | float) and not isinstance(moment, bool):
            datetime.fromtimestamp(moment, UTC)
            return float(moment)
    except (ValueError, OverflowError, OSError):
        pass
    raise InvalidInput(
        f"{name} {moment!r} is no time; write it like 2026-03-01 or 2026-03-01T12:00:00Z, or as "
        "seconds since the epoch"
    )


def _digest(proposals: Sequence[Proposal]) -> str:
    """Of what is proposed; ids aside, since an edit without one gets another each time."""
    said = [
        [{**p.edit.to_mapping(), "id": ""}, p.valid_from, p.expires_at]
        + ([p.replaces.edit.id] if p.replaces is not None else [])
        for p in proposals
    ]
    return blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def _check_k(k: int) -> None:
    if k < 1:
        raise InvalidInput(f"k is {k}; it must be at least 1")


def _cosine(score: float) -> float:
    """Clipped: rounding puts the product of equal unit vectors a little above 1."""
    return max(-1.0, min(1.0, float(score)))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
