"""The memory of edits: what a served model should answer with, durable and searchable.

:class:`EditMemory` is the only writer. What it holds in main memory (a timeline of records, one
index and one lexicon per namespace) changes in two ways only: by reading events from the journal,
and by the clock, when an edit begins or expires (:mod:`memedit.view`). A call that adds
(:mod:`memedit.writing`) or reverts writes events and then reads them back like everybody else's,
so that two processes on one file cannot come to different states.

Of the edits that state one fact the one that began last answers, of those that are not reverted
and not expired (:mod:`memedit.timeline`); so what ends an edit brings back what it had replaced.

>>> from memedit.edits import structured
>>> from memedit.encoders import HashEncoder
>>> with EditMemory(path, HashEncoder()) as memory:
...     memory.add(structured("France", "The capital of {} is", "Lyon"))[0].state
'active'
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from memedit.arguments import (
    DEFAULT_NAMESPACE,
    MAX_NOTE,
    check_k,
    check_namespace,
    check_note,
)
from memedit.edits import Edit
from memedit.errors import EditNotFound, InvalidEdit, InvalidInput, WrongState
from memedit.indexes import check_kind
from memedit.journal import Event, Transaction
from memedit.moments import Moment, span, utc
from memedit.planning import Conflict, OnConflict, Pending, Planned, Proposal
from memedit.prompt import ASKED
from memedit.proposals import described, digest, proposal_of_line, proposal_of_mapping
from memedit.protocols import IN_FORCE, Candidate, EditRecord, Encoder, State
from memedit.view import MAX_MENTIONED, View, clipped
from memedit.writing import Writer, check_seen

__all__ = [
    "DEFAULT_NAMESPACE",
    "MAX_MENTIONED",
    "MAX_NOTE",
    "EditMemory",
    "Moment",
    "proposal_of_line",
    "proposal_of_mapping",
]


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
        self._view = View(path, encoder, index, reencode, clock)
        self._writer = Writer(self._view)

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

    @property
    def encoder(self) -> Encoder:
        """What queries and edits are compared by."""
        return self._view.encoder

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
        begins, ends = span(valid_from, expires_at, self._view.clock())
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
            check_note(idempotency_key, "idempotency_key")
            mark = (f"key:{idempotency_key}", digest(proposals))
        call = self._writer.call(proposals, namespace, author, reason, on_conflict)
        call.mark = mark
        if not proposals:
            return []
        self._writer.submit(call)
        with self._view.lock:
            records = [self._view.timeline.records[edit_id] for edit_id in call.ids]
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
        begins, ends = span(valid_from, expires_at, self._view.clock())
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
        check_note(author, "author")
        check_note(reason, "reason")
        with self._view.journal.transaction() as transaction:
            record = self.get(edit_id)
            check_seen(record, seen)
            if record.state == "reverted":
                events = self._view.journal.history(edit_id)
                event = next(e for e in reversed(events) if e.kind == "revert")
                by = f" by {event.author}" if event.author else ""
                raise WrongState(
                    f"edit {edit_id} was reverted already, at {utc(event.at)}{by}; to have the "
                    "fact back, restore it"
                )
            with self._view.lock:
                heirs = self._view.timeline.heirs(edit_id)
            transaction.append("revert", edit_id, record.namespace, author=author, reason=reason)
            self._writer.put_lacking(transaction, heirs)
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
        check_note(author, "author")
        check_note(reason, "reason")
        with self._view.journal.transaction() as transaction:
            record = self.get(edit_id)
            check_seen(record, seen)
            if record.state != "reverted":
                raise WrongState(
                    f"edit {edit_id} is {record.state}, not reverted; only a reverted edit can be "
                    "restored"
                )
            with self._view.lock:
                heirs = self._view.timeline.heirs(edit_id)
                planner = self._writer.planner(record.namespace, "supersede", {})
                joins = (
                    planner.same_fact_as(record.edit)
                    if not self._view.timeline.is_beside(record)
                    else ()
                )
            transaction.append(
                "restore", edit_id, record.namespace, author=author, reason=reason, joins=joins
            )
            self._writer.put_lacking(transaction, [edit_id, *heirs])
        return self.get(edit_id)

    def consolidate(
        self, edit_ids: Iterable[str], version: str, *, author: str = "", reason: str = ""
    ) -> list[EditRecord]:
        """Says that the facts of these edits are in the weights of a version, all of them or none.

        They are retrieved as before: who has these weights answers with them, everybody else from
        the memory. An empty version says that the weights were given up.

        Raises:
            EditNotFound: there is no edit of one of these ids.
            WrongState: one of them is not active (nor consolidated).
            InvalidInput: an argument is malformed.
            MemoryFileError: the file cannot be written; nothing was changed.
        """
        check_note(author, "author")
        check_note(reason, "reason")
        check_note(version, "version")
        ids = list(dict.fromkeys(edit_ids))
        with self._view.journal.transaction() as transaction:
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
            self._writer.put_lacking(transaction, ids)
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
        call = self._writer.call(proposals, namespace, author, reason, on_conflict)
        call.skip_bad, call.then = skip_bad, then
        self._writer.submit(call)
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
        relations = self._writer.relations(proposals, namespace)
        with self._view.lock:
            self.refresh()
            planner = self._writer.planner(namespace, on_conflict, relations, pending)
            return planner.plan(proposals)

    def import_progress(self, namespace: str, name: str) -> int:
        """How many lines an import under this name has dealt with; 0 for an unknown one."""
        check_namespace(namespace)
        mark = self._view.journal.mark(namespace, name)
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
        now = self._view.clock()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            count += 1
            try:
                proposals.append(proposal_of_line(line, f"line {number}: ", now))
            except InvalidInput as error:
                problems.append(f"line {number}: {error}")
        if problems:
            raise InvalidEdit(described(problems, count))
        return self.add_timed(proposals, namespace=namespace, author=author, reason=reason)

    # looking

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; returns whether there was anything.

        Raises:
            MemoryFileError: the file is damaged, or was deleted or replaced beneath the memory.
        """
        return self._view.refresh()

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
            past = self._view.timeline_at(as_of)
            record = past.records.get(edit_id)
            if record is not None:
                return record
            raise EditNotFound(
                f"there was no edit {edit_id!r} in {self._view.journal.path} at {utc(past.now)}"
            )
        with self._view.lock:
            record = self.find(edit_id)
            if record is None:
                close = self._view.close_ids(edit_id)
                hint = f"did you mean {' or '.join(close)}?" if close else "list them for their ids"
                raise EditNotFound(
                    f"there is no edit {edit_id!r} in {self._view.journal.path}; {hint}"
                )
            return record

    def find(self, edit_id: str) -> EditRecord | None:
        """The record of an edit in whatever state, or ``None``; no time goes into close ids."""
        with self._view.lock:
            self.refresh()
            return self._view.timeline.records.get(edit_id)

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
        past = None if as_of is None else self._view.timeline_at(as_of)
        with self._view.lock:
            if past is None:
                self.refresh()
            return list((past or self._view.timeline).records.values(namespace, wanted))

    def history(self, edit_id: str) -> list[Event]:
        """What happened to an edit, in order: kind, at, author, reason and position of each.

        Raises:
            EditNotFound: there is no such edit.
        """
        self.get(edit_id)
        return self._view.journal.history(edit_id)

    def events(self, namespace: str, start: int = 0, limit: int = 100) -> list[Event]:
        """What happened to the edits of a namespace, in order.

        Args:
            namespace: whose edits.
            start: how many of its events to leave out. Nothing is ever taken from the journal, so
                an event keeps its number.
            limit: at most this many.
        """
        check_namespace(namespace)
        return self._view.journal.events_of(namespace, start, limit)

    def count_events(self, namespace: str) -> int:
        """How many events :meth:`events` has of a namespace."""
        check_namespace(namespace)
        return self._view.journal.count_of(namespace)

    def conflicts(self, edit_id: str) -> list[Conflict]:
        """The live or proposed edits that answer the fact of an edit otherwise.

        Raises:
            EditNotFound: there is no such edit.
        """
        record = self.get(edit_id)
        relations = self._writer.relations([Proposal(record.edit)], record.namespace)
        with self._view.lock:
            self.refresh()
            planner = self._writer.planner(record.namespace, "keep-both", relations)
            return planner.conflicts_of(record.edit)

    def disputed(self, namespace: str = DEFAULT_NAMESPACE) -> list[EditRecord]:
        """The live or proposed edits that were added to stand beside others of their fact.

        The oldest come first. It takes time in proportion to how many edits ever were added so.
        """
        check_namespace(namespace)
        with self._view.lock:
            self.refresh()
            found = self._view.timeline.beside(namespace)
        return [r for r in found if r.state in ("active", "proposed", "consolidated")]

    def namespaces(self) -> list[str]:
        """The namespaces that hold or have held an edit, in alphabetical order."""
        with self._view.lock:
            self.refresh()
            return sorted(self._view.namespaces)

    def __len__(self) -> int:
        """How many edits are in force, in all namespaces."""
        with self._view.lock:
            self.refresh()
            return sum(len(space.active) for space in self._view.namespaces.values())

    def __bool__(self) -> bool:
        """True: an empty memory is a memory."""
        return True

    def count(self, namespace: str = DEFAULT_NAMESPACE) -> int:
        """How many edits of a namespace are in force."""
        space = self._view.space(namespace)
        return 0 if space is None else len(space.active)

    def search(
        self,
        text: str,
        k: int = 8,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        as_of: Moment | None = None,
    ) -> list[tuple[EditRecord, float]]:
        """The ``k`` edits in force closest to a text, each with its cosine, closest first.

        Args:
            text: what to look for.
            k: at least 1.
            namespace: whose edits.
            as_of: as for :meth:`get`; it takes longer, since no index is kept of the past.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        check_k(k)
        if as_of is not None:
            return self._view.search_past(text, k, self.records(namespace, as_of=as_of))
        if self._view.space(namespace) is None:
            return []
        queries = self._view.encoder.encode([text])
        with self._view.lock:
            space = self._view.space(namespace)
            if space is None or space.index is None:
                return []
            scores, positions = space.index.search(queries, k)
            found = zip(positions[0].tolist(), scores[0].tolist(), strict=True)
            records = self._view.timeline.records.at(positions[0].tolist())
            return [(records[position], clipped(score)) for position, score in found]

    def candidates(
        self, queries: Sequence[str], namespace: str = DEFAULT_NAMESPACE, k: int = 8
    ) -> list[list[Candidate]]:
        """The edits that each query may be about.

        Those are the edits whose subject the query names, by its name or by a variant of it, and
        the ``k`` closest by cosine of those whose subject is not known. A query is encoded only
        where there are such, or where it names the subject of more than
        :data:`~memedit.view.MAX_MENTIONED` edits; of these the closest are taken.

        Args:
            queries: any number of texts; they are looked at together.
            namespace: whose edits.
            k: at least 1.

        Returns:
            One list per query.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        check_k(k)
        with self._view.lock:
            space = self._view.space(namespace)
            if not queries or space is None:
                return [[] for _ in queries]
            named = [space.names.find(text) for text in queries]
            all_of_them = bool(space.unnamed)
        # Encoding takes milliseconds and needs no lock; what changes meanwhile is seen below.
        unclear = [
            text
            for text, found in zip(queries, named, strict=True)
            if all_of_them or sum(one.is_name for one in found) > MAX_MENTIONED
        ]
        asked = [text.rpartition(ASKED)[2] for text in unclear]
        vectors = self._view.encoder.encode(asked) if asked else ()
        encoded = dict(zip(unclear, vectors, strict=True))
        with self._view.lock:
            space = self._view.space(namespace)
            if space is None:
                return [[] for _ in queries]
            return [
                self._view.candidates_of(space, found, encoded.get(text), k)
                for text, found in zip(queries, named, strict=True)
            ]

    def export_jsonl(self, namespace: str = DEFAULT_NAMESPACE) -> Iterator[str]:
        """The edits in force of a namespace, oldest first, as lines for :meth:`import_jsonl`.

        The lines end without a line break and carry the edits' ids.
        """
        for record in self.records(namespace, IN_FORCE):
            times = {"valid_from": record.valid_from, "expires_at": record.expires_at}
            said = {name: moment for name, moment in times.items() if moment is not None}
            yield json.dumps(record.edit.to_mapping() | said, ensure_ascii=False)

    # looking after the file

    def check(self) -> list[str]:
        """What is wrong with the file or with what was made of it, as sentences; else empty.

        Every record is compared with its checksum, every index with what the journal says.
        """
        found = self._view.journal.problems()
        if found:
            return found
        return self._view.problems()

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
            with self._view.lock:
                self.refresh()
                return self._view.timeline.needed()

        before = self._view.journal.counts()
        self._view.journal.compact(self._view.encoder.name, keep)
        after = self._view.journal.counts()
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
        self._view.rebuild()
        return len(self)

    def stats(self) -> dict[str, Any]:
        """How much the memory holds: edits by namespace and state, records, encoders, bytes."""
        edits: dict[str, dict[str, int]] = {}
        with self._view.lock:
            self.refresh()
            records = self._view.timeline.records
            for namespace in records.plain.namespaces:
                if count := len(records.plain.positions(namespace)):
                    edits[namespace] = {"active": count}
            for record in records.held():
                of = edits.setdefault(record.namespace, {})
                of[record.state] = of.get(record.state, 0) + 1
        return {
            "file": str(self._view.journal.path),
            "edits": edits,
            "encoders": self._view.journal.encoders(),
            **self._view.journal.counts(),
        }

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copies the file as it stands between two commits, while it is used.

        Raises:
            MemoryFileError: there is a file of that name, or it cannot be written.
        """
        self._view.journal.backup(target)

    # closing

    def close(self) -> None:
        """Closes the file; harmless when it is closed already. The encoder stays as it is.

        Large indexes are saved beside it where they have changed, for the next start.
        """
        self._view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
