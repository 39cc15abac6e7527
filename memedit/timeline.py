"""What the journal's events make of every edit at a moment: its state, and who replaced it.

Edits that state the same fact form a group, in the order in which they begin: when they were
added, or at their ``valid_from`` where that is later. Of a group's edits that are in force (not
reverted, begun, not expired) the last one answers, and each of the others is superseded by the
next. So everything that ends an edit (a revert, an expiry) brings back what it had replaced, and
undoing a revert puts an edit back in its place in the line.

An edit may belong to several groups: one that replaced two edits which stand beside each other
is in the group of either.

>>> timeline = Timeline()
>>> timeline.read(journal.read_since(0))
>>> timeline.advance(time.time())
True
>>> [record.state for record in timeline.settle()]
['superseded', 'active']
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from memedit.conflicts import fact_key
from memedit.edits import Edit
from memedit.journal import Event
from memedit.protocols import EditRecord, State
from memedit.records import Plain, Records, Source, record_of

FOLD = 50_000
"""Objects of edits that may gather before those are let go that need none."""

_Place = tuple[float, int, str]
# When an edit begins, its position, its id: the order of a group.


class Timeline:
    """The edits of a journal, as they stand at :attr:`now`. Not thread-safe.

    What is read is taken in at once; states follow with :meth:`settle`, so that a caller who fails
    in between can try again: reading the same events twice changes nothing.

    Args:
        source: where events are read again, so that most edits need no object; without it all
            have one.
        plain: edits that have been read already and stand alone.

    Attributes:
        records: every edit that was ever added.
        now: seconds since the epoch; it never goes back.
    """

    def __init__(self, source: Source | None = None, plain: Plain | None = None) -> None:
        self.records = Records(source, plain)
        self._most_held = FOLD
        self.now = float("-inf")
        self._reverted: set[str] = set()
        self._boundaries: list[tuple[float, str]] = []  # a heap of begins and expiries to come
        # Namespace -> the edits that were added to stand beside others.
        self._beside: dict[str, set[str]] = {}
        self._touched: dict[str, None] = {}
        # Most facts are stated once: an edit that is in none of these is a group of its own.
        self._groups: dict[str, list[_Place]] = {}
        self._groups_of: dict[str, tuple[str, ...]] = {}
        # Namespace -> fact -> the first edit of each group that states it in these words.
        self._first_of: dict[str, dict[str, str | list[str]]] = {}

    # taking in

    def read(self, events: Iterable[Event], *, apart: bool = False) -> None:
        """Takes these events in, in order; those it knows already change nothing.

        Args:
            events: the journal's.
            apart: none of them has to do with an edit that has no object; so it is with all that
                a snapshot of those leaves out.
        """
        for event in events:
            if event.kind == "add":
                if not apart and self.records.plain.holds(event.position):
                    continue
                if event.position not in self.records.positions_held():
                    self._read_add(event, apart)
                self._touch(event.edit_id)
                continue
            self._hold(event.edit_id)
            if event.kind == "revert":
                self._reverted.add(event.edit_id)
            elif event.kind == "restore":
                self._reverted.discard(event.edit_id)
                groups = dict.fromkeys(self._groups_named(event.joins))
                if groups:
                    groups.update(dict.fromkeys(self._groups_of.get(event.edit_id, ())))
                    self._enter(event.edit_id, groups)
            else:
                self.records.put(replace(self.records[event.edit_id], version=event.version))
            self._touch(event.edit_id)

    def _read_add(self, event: Event, apart: bool) -> None:
        record = record_of(event)
        edit_id = event.edit_id
        self.records.put(record)
        for moment in (record.valid_from, record.expires_at):
            if moment is not None and moment > record.created_at:
                heapq.heappush(self._boundaries, (moment, edit_id))
        named = [*event.supersedes, *event.joins]
        first_of = self._first_of.setdefault(event.namespace, {})
        fact = fact_key(record.edit)
        if fact not in first_of and not apart:
            for other in self.records.stating(event.namespace, fact):
                self._hold(other.edit.id)
        known = first_of.get(fact)
        if known is None:
            first_of[fact] = edit_id
        elif event.beside:
            first_of[fact] = [*([known] if isinstance(known, str) else known), edit_id]
        else:
            named += [known] if isinstance(known, str) else known
        if event.beside:
            self._beside.setdefault(event.namespace, set()).add(edit_id)
        elif named:
            self._enter(edit_id, self._groups_named(named))

    def _hold(self, edit_id: str) -> None:
        """Makes an object of an edit about which there is more to know than its being there."""
        record = self.records.hold(edit_id)
        if record is not None:
            first_of = self._first_of.setdefault(record.namespace, {})
            first_of[fact_key(record.edit)] = edit_id

    def _groups_named(self, ids: Sequence[str]) -> Iterator[str]:
        for edit_id in ids:
            yield from self._groups_of.get(edit_id, (edit_id,))

    def _enter(self, edit_id: str, groups: Iterable[str]) -> None:
        """Makes an edit a member of these groups."""
        groups = dict.fromkeys(groups)
        for group in groups:
            members = self._groups.get(group)
            if members is None:
                # The group of a fact stated once is named after the edit that states it.
                self._hold(group)
                members = self._groups[group] = [_place(self.records[group])]
                self._groups_of.setdefault(group, (group,))
            place = _place(self.records[edit_id])
            at = bisect_left(members, place)
            if at == len(members) or members[at] != place:
                insort(members, place)
        self._groups_of[edit_id] = tuple(groups)

    # time

    def is_due(self, now: float) -> bool:
        """Whether an edit begins or expires between the last look and this moment."""
        return bool(self._boundaries) and self._boundaries[0][0] <= now

    def advance(self, now: float) -> bool:
        """Moves on to this moment, or stays where that is past; returns whether states change."""
        self.now = max(self.now, now)
        due = self.is_due(self.now)
        while self._boundaries and self._boundaries[0][0] <= self.now:
            self._touch(heapq.heappop(self._boundaries)[1])
        return due

    # states

    def settle(self) -> list[EditRecord]:
        """The records whose states may have changed, in their states as of now.

        They stay on the list until :meth:`settled`.
        """
        for edit_id in self._touched:
            self.records.put(self._settle_one(self.records[edit_id]))
        return [self.records[edit_id] for edit_id in self._touched]

    def settled(self) -> None:
        """Says that the caller has drawn its conclusions from :meth:`settle`."""
        self._touched.clear()

    def fold(self, *, at_once: bool = True) -> list[EditRecord]:
        """Lets go of the objects of the edits that stand alone, and returns these.

        Nothing happens while there is something to settle.

        Args:
            at_once: otherwise only where many have gathered.
        """
        held = self.records.held()
        gathering = not at_once and len(held) < self._most_held
        if self._touched or gathering or self.records.source is None:
            return []
        alone = [record for record in held if self._is_alone(record)]
        self.records.fold(alone)
        for record in alone:
            del self._first_of[record.namespace][fact_key(record.edit)]
        self._most_held = FOLD + 2 * len(self.records.held())
        return alone

    def _is_alone(self, record: EditRecord) -> bool:
        edit_id = record.edit.id
        return (
            record.state == "active"
            and record.valid_from is None
            and record.expires_at is None
            and bool(record.edit.names)
            and edit_id not in self._groups_of
            and not self.is_beside(record)
            and self._first_of[record.namespace].get(fact_key(record.edit)) == edit_id
        )

    def is_in_force(self, edit_id: str) -> bool:
        """Whether an edit would answer now if no other stated its fact."""
        record = self.records[edit_id]
        return (
            edit_id not in self._reverted
            and has_begun(record, self.now)
            and not (record.expires_at is not None and record.expires_at <= self.now)
        )

    def same_facts(self, edit: Edit, namespace: str) -> list[EditRecord]:
        """The edits that state a fact in this edit's words and answer now, or are about to.

        The states are those of the last :meth:`settle`.
        """
        known = self._first_of.get(namespace, {}).get(fact_key(edit), ())
        if not known:
            return self.records.stating(namespace, fact_key(edit))
        found: dict[str, EditRecord] = {}
        for group in self._groups_named([known] if isinstance(known, str) else known):
            members = self._groups.get(group)
            for edit_id in [group] if members is None else (p[2] for p in reversed(members)):
                record = self.records[edit_id]
                if record.state in ("active", "proposed", "consolidated"):
                    found[edit_id] = record
                if record.state in ("active", "consolidated"):
                    break
        return list(found.values())

    def is_beside(self, record: EditRecord) -> bool:
        """Whether the edit was added to stand beside others of its fact."""
        return record.edit.id in self._beside.get(record.namespace, ())

    def beside(self, namespace: str) -> list[EditRecord]:
        """The edits that were added to stand beside others of their fact, oldest first.

        They are in whatever state, that of the last :meth:`settle`.
        """
        found = [self.records[edit_id] for edit_id in self._beside.get(namespace, ())]
        return sorted(found, key=lambda record: record.position)

    def heirs(self, edit_id: str, *, without: bool = True) -> list[str]:
        """The edits that may answer without anybody writing again, were this edit reverted.

        Or, not ``without`` it, those that may as things stand.

        Of each of its groups those from the newest on back to the first that never expires.
        """
        found: dict[str, None] = {}
        for group in self._groups_of.get(edit_id, ()):
            for _, _, other in reversed(self._groups[group]):
                record = self.records[other]
                ends = record.expires_at
                if other in self._reverted or (ends is not None and ends <= self.now):
                    continue
                found[other] = None
                if (
                    (other != edit_id or not without)
                    and ends is None
                    and has_begun(record, self.now)
                ):
                    break
        return list(found)

    def needed(self) -> list[int]:
        """Positions of the edits that answer, or may answer without anybody writing again."""
        found: set[int] = set(self.records.plain.positions().tolist())
        for record in self.records.held():
            if record.state in ("active", "proposed", "consolidated"):
                found.add(record.position)
                for heir in self.heirs(record.edit.id, without=False):
                    found.add(self.records[heir].position)
        return sorted(found)

    def _touch(self, edit_id: str) -> None:
        """Marks an edit, and in each of its groups the edit that it may replace or set free."""
        self._touched[edit_id] = None
        place = _place(self.records[edit_id])
        for group in self._groups_of.get(edit_id, ()):
            members = self._groups[group]
            for i in range(bisect_left(members, place) - 1, -1, -1):
                before = members[i][2]
                self._touched[before] = None
                # Nobody in front of an edit that stays in force until somebody writes again can
                # be set free by what comes after it; this may be asked before time moves on.
                if self.records[before].expires_at is None and self.is_in_force(before):
                    break

    def _settle_one(self, record: EditRecord) -> EditRecord:
        state, successor = self._state_of(record)
        if (state, successor) == (record.state, record.superseded_by):
            return record
        return replace(record, state=state, superseded_by=successor)

    def _state_of(self, record: EditRecord) -> tuple[State, str | None]:
        if record.edit.id in self._reverted:
            return "reverted", None
        if not has_begun(record, self.now):
            return "proposed", None
        if record.expires_at is not None and record.expires_at <= self.now:
            return "expired", None
        successor = self._successor(record)
        if successor is not None:
            return "superseded", successor
        return ("consolidated" if record.version else "active"), None

    def _successor(self, record: EditRecord) -> str | None:
        """The next edit in force in any of the edit's groups."""
        place = _place(record)
        found: list[_Place] = []
        for group in self._groups_of.get(record.edit.id, ()):
            members = self._groups[group]
            for i in range(bisect_left(members, place) + 1, len(members)):
                if self.is_in_force(members[i][2]):
                    found.append(members[i])
                    break
        return min(found)[2] if found else None


def has_begun(record: EditRecord, now: float) -> bool:
    """Whether its time has come; a ``valid_from`` before it was added counts for nothing.

    So an edit that begins at once does so for every process, however far apart their clocks are.
    """
    return record.valid_from is None or record.valid_from <= max(now, record.created_at)


def _place(record: EditRecord) -> _Place:
    begins = record.created_at
    if record.valid_from is not None:
        begins = max(begins, record.valid_from)
    return begins, record.position, record.edit.id
