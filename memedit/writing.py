"""Adding edits: planned, written in one transaction for all who wait, and read back.

:class:`Writer` has whatever takes long (encoding) done before it takes a lock, and lets calls of
several threads that come at once share a transaction: one synchronisation of the disk serves them
all.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from memedit.arguments import check_namespace, check_note
from memedit.conflicts import knows_encoder, same_target, texts_asked
from memedit.errors import (
    EditChanged,
    EditConflict,
    InvalidEdit,
    InvalidInput,
    KeyReused,
    MemeditError,
    WrongState,
)
from memedit.journal import Transaction
from memedit.planning import (
    ON_CONFLICT,
    OnConflict,
    Pending,
    Planned,
    Planner,
    Proposal,
    texts_compared,
)
from memedit.proposals import described
from memedit.protocols import EditRecord, Vectors
from memedit.scope.relation import shipped
from memedit.view import View


@dataclass(slots=True, eq=False)
class Call:
    """One call that adds edits, on its way into a transaction."""

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


class Writer:
    """Writes what is added to a view's journal. Thread-safe."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._waiting: list[Call] = []
        self._waiting_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    @functools.cached_property
    def _compares(self) -> bool:
        """Whether the encoder is the one that conflicts were trained with."""
        return knows_encoder(self._view.encoder.name)

    def call(
        self,
        proposals: Sequence[Proposal],
        namespace: str,
        author: str,
        reason: str,
        on_conflict: OnConflict,
    ) -> Call:
        """A checked call, with all that takes long already done."""
        check_namespace(namespace)
        check_note(author, "author")
        check_note(reason, "reason")
        if on_conflict not in ON_CONFLICT:
            raise InvalidInput(f"on_conflict {on_conflict!r} is none of {', '.join(ON_CONFLICT)}")
        # Before any lock: encoding takes longer than all the rest.
        keys = [proposal.edit.key for proposal in proposals]
        vectors = self._view.encoder.encode(keys) if keys else np.empty((0, 0), dtype=np.float32)
        relations = self.relations(proposals, namespace)
        return Call(proposals, namespace, author, reason, on_conflict, vectors, relations)

    def submit(self, call: Call) -> None:
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

    def _commit(self, calls: Sequence[Call]) -> None:
        known: dict[int, Vectors] = {}
        pending: dict[str, Pending] = {}
        with self._view.journal.transaction() as transaction:
            for call in calls:
                try:
                    with self._view.lock:
                        # From here to the commit nobody else commits, so what is seen now holds.
                        self._view.refresh()
                        self._plan(call, transaction, pending)
                except MemeditError as error:
                    call.error = error
                    continue
                known.update(self._write(call, transaction))
            if known:
                _put_vectors(transaction, self._view.encoder.name, known)
        self._view.refresh(known)

    def _plan(self, call: Call, transaction: Transaction, pending: dict[str, Pending]) -> None:
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
                self._check_replaced(old)
        held = pending.setdefault(call.namespace, Pending())
        planner = self.planner(
            call.namespace, call.on_conflict, call.relations, held, transaction.now
        )
        planned = planner.plan(call.proposals)
        bad = [one for one in planned if one.problem]
        if bad and not call.skip_bad:
            held.forget(planned)
            kind = EditConflict if all(one.conflicts for one in bad) else InvalidEdit
            problems = [f"{one.proposal.where}{one.problem}" for one in bad]
            raise kind(described(problems, len(planned)))
        call.planned = planned
        call.ids = [one.edit_id for one in planned]

    def _check_replaced(self, old: EditRecord) -> None:
        """Refuses to supersede by name what is not as it was seen, or does not answer."""
        check_seen(self._view.timeline.records[old.edit.id], old)
        if old.state not in ("active", "proposed", "consolidated"):
            raise WrongState(
                f"edit {old.edit.id} is {old.state}; only an edit that answers, or is about to, "
                "can be superseded: restore it first, or add a new one"
            )

    @staticmethod
    def _write(call: Call, transaction: Transaction) -> dict[int, Vectors]:
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

    def planner(
        self,
        namespace: str,
        on_conflict: OnConflict,
        relations: dict[str, Vectors],
        pending: Pending | None = None,
        now: float | None = None,
    ) -> Planner:
        """What decides about edits of one namespace, for a caller who has the view's lock."""
        return Planner(
            self._view.facts(namespace),
            on_conflict,
            self._view.timeline.now if now is None else now,
            encode=self._view.encoder.encode if self._compares else None,
            asks=shipped().logits if self._compares else None,
            vectors=relations,
            pending=pending,
        )

    def relations(self, proposals: Sequence[Proposal], namespace: str) -> dict[str, Vectors]:
        """Vectors of the relations that planning is going to compare, made before any lock."""
        texts: dict[str, None] = {}
        asked: dict[tuple[str, str], None] = {}
        with self._view.lock:
            self._view.refresh()
            if self._compares:
                facts = self._view.facts(namespace)
                for proposal in proposals:
                    for record in facts.about(proposal.edit):
                        if not same_target(proposal.edit, record.edit):
                            compared = texts_compared(proposal.edit, record.edit)
                            texts.update(dict.fromkeys(compared))
                            asked.update(dict.fromkeys(texts_asked(proposal.edit, record.edit)))
        if not texts:
            return {}
        shipped().logits(list(asked))  # remembered there
        return dict(zip(texts, self._view.encoder.encode(list(texts)), strict=True))

    def put_lacking(self, transaction: Transaction, edit_ids: Sequence[str]) -> None:
        """Stores vectors of these edits that compaction has dropped: they may answer again."""
        with self._view.lock:
            found = [self._view.timeline.records[edit_id] for edit_id in edit_ids]
        records = {record.position: record for record in found}
        if not records:
            return
        lacking = self._view.journal.lacking_vectors(self._view.encoder.name, records)
        if lacking:
            vectors = self._view.encoder.encode([records[p].edit.key for p in lacking])
            transaction.put_vectors(self._view.encoder.name, lacking, vectors)


def check_seen(record: EditRecord, seen: EditRecord | None) -> None:
    """Raises EditChanged where a caller has seen an edit, and it is no longer as it was then."""
    if seen is not None and record != seen:
        raise EditChanged(
            f"edit {record.edit.id} has changed since it was looked at: it is {record.state} now; "
            "look at it again, and decide anew"
        )


def _put_vectors(transaction: Transaction, encoder: str, rows: Mapping[int, Vectors]) -> None:
    transaction.put_vectors(encoder, list(rows), np.stack(list(rows.values())))
