"""Every edit of a journal, most of them without an object in main memory.

An edit that stands alone (nothing else states its fact, nobody has reverted, consolidated or
replaced it, it has no times, and its subject is known) is told by four numbers: its position, its
namespace, and hashes of its fact and of its answer. :class:`Plain` holds these as columns, 28 bytes
an edit; what the edit says is read from the journal when somebody asks. All others are objects.
:class:`Records` gives both as if they were one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from hashlib import blake2b
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memedit.conflicts import fact_key, rule_relations
from memedit.edits import Edit
from memedit.journal import Event
from memedit.protocols import EditRecord, Ids, State

COLUMNS = {"position": np.int64, "namespace": np.uint32, "fact": np.uint64, "answer": np.uint64}
"""The columns of :class:`Plain`; ``answer`` is 0 where no rule knows the edit's relation."""

Row = tuple[int, str, int, int]
"""What :class:`Plain` holds of an edit: position, namespace, and hashes of fact and answer."""

_CHUNK = 1_000


class Source(Protocol):
    """Where events are read again: the journal."""

    def events_at(self, positions: Iterable[int]) -> list[Event]:
        """The events at these positions, ascending."""

    def adds(self, edit_ids: Sequence[str]) -> list[Event]:
        """The events that added these edits, ascending."""


class Plain:
    """The columns of edits that stand alone, ascending by position; those taken out stay as holes.

    Args:
        namespaces: their names; the column ``namespace`` counts them from 0.
        columns: as :data:`COLUMNS` names them, each of shape (n,).
    """

    def __init__(
        self,
        namespaces: Sequence[str] = (),
        columns: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        self.namespaces = list(namespaces)
        self._columns = {
            name: np.asarray(columns[name] if columns else (), dtype)
            for name, dtype in COLUMNS.items()
        }
        self._arrange()

    def _arrange(self) -> None:
        self._position = self._columns["position"]
        self._live = np.ones(len(self._position), np.bool_)
        self._count = len(self._position)
        self._last = int(self._position[-1]) if self._count else 0
        self._by_fact = _Lookup(self._columns["fact"])
        self._by_answer = _Lookup(self._columns["answer"])

    def __len__(self) -> int:
        return self._count

    def holds(self, position: int) -> bool:
        """Whether the edit at this position is one of these."""
        return self._place(position) is not None

    def positions(self, namespace: str | None = None) -> Ids:
        """Those of a namespace, or all, ascending, shape (n,)."""
        wanted = self._live
        if namespace is not None:
            if namespace not in self.namespaces:
                return np.empty(0, np.int64)
            number = self.namespaces.index(namespace)
            wanted = wanted & (self._columns["namespace"] == number)
        found: Ids = self._position[wanted]
        return found

    def stating(self, fact: int) -> list[int]:
        """Positions of the edits whose facts have this hash."""
        return self._positions(self._by_fact.find(fact))

    def answering(self, answer: int) -> list[int]:
        """Positions of the edits whose answers have this hash."""
        return self._positions(self._by_answer.find(answer))

    def remove(self, position: int) -> None:
        """Takes one out."""
        place = self._place(position)
        if place is not None:
            self._live[place] = False
            self._count -= 1

    def add(self, rows: Sequence[Row]) -> None:
        """Takes in more, whatever their positions."""
        number = {name: i for i, name in enumerate(self.namespaces)}
        for _, namespace, _, _ in rows:
            number.setdefault(namespace, len(number))
        self.namespaces = list(number)
        new = [(position, number[space], fact, answer) for position, space, fact, answer in rows]
        merged = {
            name: np.concatenate([self._columns[name][self._live], np.array(column, dtype)])
            for (name, dtype), column in zip(COLUMNS.items(), zip(*new, strict=True), strict=True)
        }
        order = np.argsort(merged["position"], kind="stable")
        self._columns = {name: column[order] for name, column in merged.items()}
        self._arrange()

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same edits again, without the holes."""
        return {name: column[self._live] for name, column in self._columns.items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plain):
            return NotImplemented
        # Facts are hashed with their namespaces, so that the numbers of these need not agree.
        mine, theirs = self.columns(), other.columns()
        return all(
            np.array_equal(mine[name], theirs[name]) for name in ("position", "fact", "answer")
        )

    __hash__ = None  # type: ignore[assignment]

    def _place(self, position: int) -> int | None:
        if position > self._last:
            return None
        place = int(np.searchsorted(self._position, position))
        found = place < len(self._position) and int(self._position[place]) == position
        return place if found and self._live[place] else None

    def _positions(self, places: Ids) -> list[int]:
        found: list[int] = self._position[places[self._live[places]]].tolist()
        return found


class _Lookup:
    """Finds the places of a value in a column. Sorted at first use: not every column is asked."""

    def __init__(self, column: NDArray[np.generic]) -> None:
        self._column = column
        self._order: NDArray[np.uint32] | None = None

    def find(self, value: int) -> Ids:
        """The places of this value, ascending."""
        if not len(self._column):
            return np.empty(0, np.int64)
        if self._order is None:
            self._order = np.argsort(self._column, kind="stable").astype(np.uint32)
            self._sorted = self._column[self._order]
        wanted = np.uint64(value)
        start = int(np.searchsorted(self._sorted, wanted, "left"))
        stop = int(np.searchsorted(self._sorted, wanted, "right"))
        return self._order[start:stop].astype(np.int64)


class Records:
    """The records of all edits, by id and by position.

    Args:
        source: where edits without an object are read; without it every edit is an object.
        plain: edits that have none yet.
    """

    def __init__(self, source: Source | None = None, plain: Plain | None = None) -> None:
        self.source = source
        self.plain = plain or Plain()
        self._held: dict[str, EditRecord] = {}
        self._id_at: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self.plain)

    def __contains__(self, edit_id: object) -> bool:
        return isinstance(edit_id, str) and self.get(edit_id) is not None

    def __getitem__(self, edit_id: str) -> EditRecord:
        record = self.get(edit_id)
        if record is None:
            raise KeyError(edit_id)
        return record

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        return self._held == other._held and self.plain == other.plain

    __hash__ = None  # type: ignore[assignment]

    def get(self, edit_id: str) -> EditRecord | None:
        """The record of this id."""
        record = self._held.get(edit_id)
        if record is None and len(self.plain) and self.source is not None:
            for event in self.source.adds([edit_id]):
                if self.plain.holds(event.position):
                    return record_of(event)
        return record

    def at(self, positions: Iterable[int]) -> dict[int, EditRecord]:
        """The records at these positions, by position, in their order."""
        positions = list(positions)
        found: dict[int, EditRecord] = {}
        absent = []
        for position in positions:
            edit_id = self._id_at.get(position)
            if edit_id is not None:
                found[position] = self._held[edit_id]
            elif self.plain.holds(position):
                absent.append(position)
        if absent and self.source is not None:
            for event in self.source.events_at(absent):
                found[event.position] = record_of(event)
        return {position: found[position] for position in positions if position in found}

    def positions_held(self) -> KeysView[int]:
        """Where those that are objects were added."""
        return self._id_at.keys()

    def held(self) -> ValuesView[EditRecord]:
        """Those that are objects, in no order."""
        return self._held.values()

    def values(
        self, namespace: str | None = None, states: Iterable[State] | None = None
    ) -> Iterator[EditRecord]:
        """The records of a namespace, or of all, in these states, or in any; oldest first."""
        wanted = None if states is None else set(states)
        held = sorted(
            record.position
            for record in self._held.values()
            if namespace in (None, record.namespace) and (wanted is None or record.state in wanted)
        )
        if wanted is not None and "active" not in wanted:
            plain = np.empty(0, np.int64)
        else:
            plain = self.plain.positions(namespace)
        order = np.sort(np.concatenate([plain, np.array(held, np.int64)]))
        for start, stop in pairwise([*range(0, len(order), _CHUNK), len(order)]):
            yield from self.at(order[start:stop].tolist()).values()

    def stating(self, namespace: str, fact: str) -> list[EditRecord]:
        """Those without an object that state a fact."""
        found = self.at(self.plain.stating(hashed(namespace, fact)))
        return [
            record
            for record in found.values()
            if record.namespace == namespace and fact_key(record.edit) == fact
        ]

    def answering(self, namespace: str, name: str, most: int) -> list[EditRecord]:
        """Those without an object that have this target and a rule's relation; the newest."""
        positions = self.plain.answering(hashed(namespace, name.casefold()))
        found = self.at(sorted(positions, reverse=True)[:most])
        return [
            record
            for record in found.values()
            if record.namespace == namespace
            and (record.edit.target or "").casefold() == name.casefold()
        ]

    def put(self, record: EditRecord) -> None:
        """Holds a record as an object, in the place of what is known of it."""
        self._held[record.edit.id] = record
        self._id_at[record.position] = record.edit.id

    def hold(self, edit_id: str) -> EditRecord | None:
        """Makes an object of an edit that has none; ``None`` where it has one."""
        if edit_id in self._held:
            return None
        record = self[edit_id]
        self.plain.remove(record.position)
        self.put(record)
        return record

    def fold(self, records: Sequence[EditRecord]) -> None:
        """Lets go of the objects of edits that stand alone."""
        if self.source is None or not records:
            return
        self.plain.add([_row(record) for record in records])
        for record in records:
            del self._held[record.edit.id]
            del self._id_at[record.position]


def record_of(event: Event) -> EditRecord:
    """The record of an edit as it was added."""
    return EditRecord(
        edit=stored_edit(event),
        position=event.position,
        namespace=event.namespace,
        state="active",
        author=event.author,
        reason=event.reason,
        created_at=event.at,
        supersedes=event.supersedes,
        valid_from=event.valid_from,
        expires_at=event.expires_at,
    )


def stored_edit(event: Event) -> Edit:
    """The edit as it was stored: checked then, so that stricter checks later do not lose it."""
    given = dict(event.edit or {})
    given["aliases"] = tuple(given.get("aliases", ()))
    return Edit(**given)


def hashed(namespace: str, text: str) -> int:
    """A number for a text in a namespace, in 64 bits; never 0."""
    data = f"{namespace}\n{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest()) or 1


def _row(record: EditRecord) -> Row:
    edit, space = record.edit, record.namespace
    answer = hashed(space, (edit.target or "").casefold()) if rule_relations(edit) else 0
    return record.position, space, hashed(space, fact_key(edit)), answer
