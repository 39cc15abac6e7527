"""What adding edits comes to: added or there already, and which edits it retires.

:class:`Planner` decides for one edit after the other, each in view of those before it, and writes
nothing: the memory writes what it planned, and a dry run only shows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from memedit.conflicts import (
    Alike,
    contradictions,
    fact_key,
    relation_of,
    rule_relations,
    same_fact,
    same_target,
    texts_asked,
)
from memedit.edits import Edit
from memedit.lexicon import SubjectLexicon
from memedit.protocols import EditRecord, Vectors

OnConflict = Literal["supersede", "reject", "keep-both"]
"""What to do where an edit states a fact that another edit answers otherwise."""

ON_CONFLICT: tuple[OnConflict, ...] = ("supersede", "reject", "keep-both")

Asks = Callable[[Sequence[tuple[str, str]]], NDArray[np.float64]]
"""For pairs of texts with a masked subject the log-odds that they ask the same, shape (pairs,)."""

SAME_WORDS = "the same words"
_MOST_COMPARED = 64
# Of more edits about one subject than this, the newest are compared: the rest would take longer
# than encoding the edit.


@dataclass(frozen=True, slots=True)
class Proposal:
    """An edit that somebody wants added.

    Attributes:
        edit: the edit.
        valid_from, expires_at: seconds since the epoch, or ``None``.
        where: what begins a message about it (``line 3: ``).
        replaces: an edit that it supersedes whatever their words, as the caller saw it.
    """

    edit: Edit
    valid_from: float | None = None
    expires_at: float | None = None
    where: str = ""
    replaces: EditRecord | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """An edit that answers the same fact otherwise.

    Attributes:
        record: that edit.
        reason: why the two are taken for the same fact.
    """

    record: EditRecord
    reason: str


@dataclass(slots=True)
class Planned:
    """What adding one edit comes to.

    Attributes:
        proposal: the edit.
        edit_id: the id under which it is found afterwards.
        added: whether it is added; it is not where it says nothing new, or has a problem.
        supersedes: ids of the edits in force that it replaces.
        joins: ids of edits whose facts it shares without replacing them now.
        beside: whether it stands beside others of the same fact.
        conflicts: edits that answer the same fact otherwise.
        warnings: sentences for whoever adds it.
        problem: why it cannot be added, or empty.
    """

    proposal: Proposal
    edit_id: str
    added: bool = True
    supersedes: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    beside: bool = False
    conflicts: tuple[Conflict, ...] = ()
    warnings: list[str] = field(default_factory=list)
    problem: str = ""


class Facts(Protocol):
    """What a planner asks the memory, whose lock its caller holds."""

    def record(self, edit_id: str) -> EditRecord | None:
        """The edit of this id."""

    def in_same_words(self, edit: Edit) -> list[EditRecord]:
        """The live or proposed edits that state this edit's fact in the same words."""

    def about(self, edit: Edit) -> Iterable[EditRecord]:
        """The live or proposed edits that share a name with this one, newest first."""

    def answering(self, name: str) -> list[EditRecord]:
        """The live edits with this target, of those that rules know relations of."""


class Stated:
    """Edits, found by the names of their subjects, or by their words where they have no subject."""

    def __init__(self) -> None:
        self._held: dict[str, EditRecord] = {}
        self._numbers: dict[str, int] = {}
        self._by_number: dict[int, str] = {}
        self._lexicon = SubjectLexicon()
        self._by_word: dict[str, dict[str, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, edit_id: object) -> bool:
        return edit_id in self._held

    def add(self, record: EditRecord) -> None:
        """Takes an edit in, or takes it in anew."""
        edit_id = record.edit.id
        self.remove(edit_id)
        self._held[edit_id] = record
        if record.edit.names:
            self._count += 1
            self._numbers[edit_id] = self._count
            self._by_number[self._count] = edit_id
            self._lexicon.add(self._count, record.edit.names)
        else:
            for word in _words(record.edit.key):
                self._by_word.setdefault(word, {})[edit_id] = None

    def remove(self, edit_id: str) -> None:
        """Forgets an edit; nothing happens where it is not held."""
        record = self._held.pop(edit_id, None)
        if record is None:
            return
        number = self._numbers.pop(edit_id, None)
        if number is not None:
            del self._by_number[number]
            self._lexicon.remove(number)
            return
        for word in _words(record.edit.key):
            self._by_word[word].pop(edit_id, None)
            if not self._by_word[word]:
                del self._by_word[word]

    def about(self, edit: Edit) -> Iterator[EditRecord]:
        """The held edits that share a name with this one, newest first."""
        if not self._held:
            return
        numbers = positions_of(self._lexicon, edit)
        for number in sorted(numbers, reverse=True):
            yield self._held[self._by_number[number]]
        for name in edit.names:
            words = [self._by_word.get(word, {}) for word in _words(name)]
            if words and all(words):
                shortest = min(words, key=len)
                for edit_id in reversed(shortest):
                    if all(edit_id in others for others in words):
                        yield self._held[edit_id]


class Answers:
    """Edits whose relations the rules know, by their targets: few of all edits."""

    def __init__(self) -> None:
        self._by_target: dict[str, dict[str, EditRecord]] = {}

    def add(self, record: EditRecord) -> None:
        """Takes an edit in, where a rule knows its relation."""
        if rule_relations(record.edit):
            name = (record.edit.target or "").casefold()
            self._by_target.setdefault(name, {})[record.edit.id] = record

    def remove(self, record: EditRecord) -> None:
        """Forgets an edit; nothing happens where it is not held."""
        name = (record.edit.target or "").casefold()
        held = self._by_target.get(name)
        if held is not None:
            held.pop(record.edit.id, None)
            if not held:
                del self._by_target[name]

    def find(self, name: str) -> list[EditRecord]:
        """The held edits with this target."""
        return list(self._by_target.get(name.casefold(), {}).values())


def positions_of(lexicon: SubjectLexicon, edit: Edit) -> set[int]:
    """The positions in a lexicon whose names are names of this edit.

    Of an edit whose subject is not known, those whose names its text mentions.
    """
    if not edit.names:
        return {p for mention in lexicon.find(edit.key) for p in mention.positions}
    return {
        position
        for name in edit.names
        for mention in lexicon.find(name)
        if mention.end - mention.start == len(name.strip())
        for position in mention.positions
    }


class Planner:
    """Decides what adding edits to one namespace comes to, each in view of those before it.

    Args:
        facts: what the namespace holds.
        on_conflict: what to do with conflicts.
        now: seconds since the epoch.
        encode: makes the vectors by which relations are compared, or ``None`` to compare words
            alone.
        asks: the log-odds that pairs of relations ask the same; needed with ``encode``.
        vectors: rows that are known already, by text; added to.
    """

    def __init__(
        self,
        facts: Facts,
        on_conflict: OnConflict,
        now: float,
        *,
        encode: Callable[[Sequence[str]], Vectors] | None = None,
        asks: Asks | None = None,
        vectors: dict[str, Vectors] | None = None,
        pending: Pending | None = None,
    ) -> None:
        self._facts = facts
        self._on_conflict = on_conflict
        self._now = now
        self._encode = encode
        self._asks = asks
        self._vectors = {} if vectors is None else vectors
        self._pending = Pending() if pending is None else pending

    def plan(self, proposals: Sequence[Proposal]) -> list[Planned]:
        """What adding these edits in this order comes to, one entry each.

        Those that are planned to be added are there for the ones after them.
        """
        planned = []
        for proposal in proposals:
            one = self._plan_one(proposal)
            if one.added:
                self._pending.take(self._record_of(one))
                for old in one.supersedes:
                    self._pending.retire(old)
            planned.append(one)
        return planned

    def same_fact_as(self, edit: Edit) -> tuple[str, ...]:
        """Ids of the live or proposed edits that answer the fact of this one otherwise."""
        return tuple(conflict.record.edit.id for conflict in self._reworded(edit, {edit.id}))

    def conflicts_of(self, edit: Edit) -> list[Conflict]:
        """The live or proposed edits that answer the fact of one of them otherwise."""
        exact = [r for r in self._facts.in_same_words(edit) if r.edit.id != edit.id]
        found = [Conflict(record, SAME_WORDS) for record in exact]
        found += self._reworded(edit, {edit.id, *(record.edit.id for record in exact)})
        return [conflict for conflict in found if not same_target(edit, conflict.record.edit)]

    def _plan_one(self, proposal: Proposal) -> Planned:
        edit = proposal.edit
        exact = self._live([*self._pending.in_same_words(edit), *self._facts.in_same_words(edit)])
        for record in exact:
            if _says_nothing_beyond(proposal, record, self._now):
                return Planned(proposal, record.edit.id, added=False)
        taken = self._facts.record(edit.id) or self._pending.record(edit.id)
        if taken is not None:
            state = taken.state if taken.position else "new"
            return Planned(
                proposal,
                edit.id,
                added=False,
                problem=f"the id {edit.id} is taken by another edit ({state}); leave it out to get "
                "a fresh one",
            )
        mine = fact_key(edit)
        found = [
            Conflict(record, SAME_WORDS if fact_key(record.edit) == mine else "the same fact")
            for record in exact
        ]
        if (old := proposal.replaces) is not None and old not in exact:
            found.append(Conflict(old, "named by the caller"))
        found += self._reworded(edit, {conflict.record.edit.id for conflict in found})
        return self._decide(proposal, found)

    def _decide(self, proposal: Proposal, found: list[Conflict]) -> Planned:
        edit = proposal.edit
        others = [c for c in found if not same_target(edit, c.record.edit)]
        in_force = [c for c in others if c.record.state != "proposed"]
        one = Planned(proposal, edit.id, conflicts=tuple(others))
        one.warnings = self._contradicted(edit)
        if others and self._on_conflict == "reject":
            of = others[0]
            one.added = False
            one.problem = (
                f"it answers {of.record.edit.key!r} otherwise than {of.record.edit.id}, which says "
                f"{of.record.edit.target!r} ({of.reason}); revert that edit first, or choose the "
                "policy supersede or keep-both"
            )
            return one
        if others and self._on_conflict == "keep-both":
            one.beside = True
            one.warnings += [
                f"stands beside {c.record.edit.id}, which says {c.record.edit.target!r}"
                for c in others
            ]
            return one
        # An edit in the same words and with the same answer is an older form of this one.
        replaced = [c for c in found if c.record.state != "proposed"]
        one.supersedes = tuple(dict.fromkeys(c.record.edit.id for c in replaced))
        ids = {c.record.edit.id for c in found}
        one.joins = tuple(sorted(ids - set(one.supersedes)))
        one.warnings += [
            f"supersedes {c.record.edit.id} ({c.record.edit.statement!r}): {c.reason}"
            for c in in_force
            if c.reason != SAME_WORDS
        ]
        return one

    def _reworded(self, edit: Edit, exact: set[str]) -> list[Conflict]:
        """The edits that answer the same fact otherwise, in other words."""
        candidates = [
            record
            for record in _first(
                self._live([*self._pending.about(edit), *self._facts.about(edit)]), _MOST_COMPARED
            )
            if record.edit.id not in exact and not same_target(edit, record.edit)
        ]
        found = []
        for record, alike in zip(candidates, self._alike(edit, candidates), strict=True):
            verdict = same_fact(edit, record.edit, alike)
            if verdict.same:
                found.append(Conflict(record, verdict.reason))
        return found

    def _contradicted(self, edit: Edit) -> list[str]:
        """What the edit contradicts by an inverse relation or a rule, as sentences."""
        if not rule_relations(edit):
            return []

        def about(name: str) -> list[Edit]:
            named = Edit(id="", statement="", subject=name)
            return edits_of([*self._pending.about(named), *self._facts.about(named)])

        def answering(name: str) -> list[Edit]:
            return edits_of([*self._pending.answering(name), *self._facts.answering(name)])

        def edits_of(records: Iterable[EditRecord]) -> list[Edit]:
            return [record.edit for record in self._live(records)]

        return contradictions(edit, about, answering)

    def _alike(self, edit: Edit, records: Sequence[EditRecord]) -> list[Alike | None]:
        """How alike an edit and others are, or ``None`` without an encoder."""
        if self._encode is None or self._asks is None or not records:
            return [None] * len(records)
        texts = [texts_compared(edit, record.edit) for record in records]
        lacking = [
            text
            for text in dict.fromkeys(itertools.chain.from_iterable(texts))
            if text not in self._vectors
        ]
        if lacking:
            self._vectors.update(zip(lacking, self._encode(lacking), strict=True))
        rows = self._vectors
        asked = self._asks([pair for r in records for pair in texts_asked(edit, r.edit)])
        return [
            Alike(float(rows[a] @ rows[b]), float(rows[c] @ rows[d]), float(both.mean()))
            for (a, b, c, d), both in zip(texts, asked.reshape(-1, 2), strict=True)
        ]

    def _live(self, records: Iterable[EditRecord]) -> list[EditRecord]:
        return [record for record in records if record.edit.id not in self._pending.retired]

    def _record_of(self, one: Planned) -> EditRecord:
        """The record as it will be, under the position 0."""
        start = one.proposal.valid_from
        waits = start is not None and start > self._now
        return EditRecord(
            edit=one.proposal.edit,
            position=0,
            namespace="",
            state="proposed" if waits else "active",
            valid_from=one.proposal.valid_from,
            expires_at=one.proposal.expires_at,
        )


class Pending:
    """The edits that are planned to be added to one namespace and not yet written."""

    def __init__(self) -> None:
        self.retired: set[str] = set()
        self._by_id: dict[str, EditRecord] = {}
        self._by_fact: dict[str, list[EditRecord]] = {}
        self._stated = Stated()
        self._answers = Answers()

    def take(self, record: EditRecord) -> None:
        """Holds one more."""
        self._by_id[record.edit.id] = record
        self._by_fact.setdefault(fact_key(record.edit), []).append(record)
        self._stated.add(record)
        self._answers.add(record)

    def retire(self, edit_id: str) -> None:
        """Takes note that an edit, held here or not, is replaced."""
        self.retired.add(edit_id)
        if edit_id in self._by_id:
            self._stated.remove(edit_id)
            self._answers.remove(self._by_id[edit_id])

    def forget(self, planned: Iterable[Planned]) -> None:
        """Takes back what was planned in a call that fails."""
        for one in planned:
            record = self._by_id.pop(one.edit_id, None) if one.added else None
            if record is not None:
                self._answers.remove(record)
                fact = fact_key(one.proposal.edit)
                self._by_fact[fact] = [r for r in self._by_fact[fact] if r.edit.id != one.edit_id]
                self._stated.remove(one.edit_id)
                self.retired.difference_update(one.supersedes)

    def record(self, edit_id: str) -> EditRecord | None:
        """The edit of this id."""
        return self._by_id.get(edit_id)

    def in_same_words(self, edit: Edit) -> list[EditRecord]:
        """Those that state this edit's fact in the same words, newest first."""
        return self._by_fact.get(fact_key(edit), [])[::-1]

    def about(self, edit: Edit) -> Iterator[EditRecord]:
        """Those that share a name with this edit, newest first."""
        return self._stated.about(edit)

    def answering(self, name: str) -> list[EditRecord]:
        """Those with this target, of those that rules know relations of."""
        return self._answers.find(name)


def texts_compared(new: Edit, old: Edit) -> tuple[str, str, str, str]:
    """What two edits are compared by: both relations with the subject masked out, both targets."""
    relations = relation_of(new, old.names), relation_of(old, new.names)
    return *relations, new.target or "", old.target or ""


def _says_nothing_beyond(proposal: Proposal, record: EditRecord, now: float) -> bool:
    """Whether everything that is proposed is there already, id and source aside."""
    begins = proposal.valid_from if (proposal.valid_from or 0.0) > now else None
    waits = record.valid_from if record.state == "proposed" else None
    if begins != waits or proposal.expires_at != record.expires_at:
        return False
    for name in (f.name for f in fields(Edit) if f.name not in ("id", "source", "aliases")):
        said = getattr(proposal.edit, name)
        if said is not None and said != getattr(record.edit, name):
            return False
    return set(proposal.edit.aliases) <= set(record.edit.aliases)


def _words(text: str) -> set[str]:
    return set(text.casefold().replace("?", " ").replace(".", " ").replace(",", " ").split())


def _first(records: list[EditRecord], count: int) -> list[EditRecord]:
    return list({record.edit.id: record for record in records}.values())[:count]
