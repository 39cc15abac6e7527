"""Which edits of the memory are to move into weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.protocols import EditRecord

FIELDS = ("id", "subject", "relation", "source", "author", "reason")
"""What of an edit or its record a filter may look at."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an edit has to be like.

    Attributes:
        min_age: seconds since it was added.
        min_hits: prompts that it has taken part in.
        filters: a pattern with ``*`` and ``?`` for some of :data:`FIELDS`.
        limit: most edits, the oldest; 0 for all.

    Raises:
        InvalidInput: there is no such field.
    """

    min_age: float = 0.0
    min_hits: int = 0
    filters: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0

    def __post_init__(self) -> None:
        for name in self.filters:
            if name not in FIELDS:
                raise InvalidInput(f"edits are not filtered by {name!r}; by {', '.join(FIELDS)}")


def chosen(
    records: Iterable[EditRecord], choice: Choice, *, now: float, hits: Mapping[str, int]
) -> tuple[list[Edit], dict[str, int]]:
    """The edits that are to move, oldest first, and how many stay, by what keeps them.

    Args:
        records: of the edits that the memory answers.
        choice: what they have to be like.
        now: seconds since the epoch.
        hits: how many prompts each edit has taken part in, by id.
    """
    taken: list[Edit] = []
    left: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record.position):
        if reason := _kept_by(record, choice, now, hits):
            left[reason] = left.get(reason, 0) + 1
        elif choice.limit and len(taken) == choice.limit:
            left["limit"] = left.get("limit", 0) + 1
        else:
            taken.append(record.edit)
    return taken, left


def _kept_by(record: EditRecord, choice: Choice, now: float, hits: Mapping[str, int]) -> str | None:
    if missing := record.edit.missing_for_weights:
        return f"no {missing[0]}"
    if record.edit.route:  # it says who is to answer it
        return "route"
    if now - record.created_at < choice.min_age:
        return "age"
    if hits.get(record.edit.id, 0) < choice.min_hits:
        return "hits"
    for name, pattern in choice.filters.items():
        held: Any = record if name in ("author", "reason") else record.edit
        if not fnmatchcase(getattr(held, name) or "", pattern):
            return name
    return None
