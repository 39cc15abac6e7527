"""Edits on their way in: from lines and mappings, with their times, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from memedit.edits import from_mapping
from memedit.errors import InvalidEdit
from memedit.moments import span
from memedit.planning import Proposal

_SHOWN_PROBLEMS = 20


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
    begins, ends = span(times.get("valid_from"), times.get("expires_at"), now)
    return Proposal(from_mapping(data), begins, ends, where)


def digest(proposals: Sequence[Proposal]) -> str:
    """Of what is proposed; ids aside, since an edit without one gets another each time."""
    said = [
        [{**p.edit.to_mapping(), "id": ""}, p.valid_from, p.expires_at]
        + ([p.replaces.edit.id] if p.replaces is not None else [])
        for p in proposals
    ]
    return blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def described(problems: Sequence[str], count: int) -> str:
    """What is wrong with some of ``count`` edits, as one message."""
    if count == 1:
        return problems[0]
    shown = "\n".join(problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    tail = f"\nand {more:,} more" if more > 0 else ""
    return f"{len(problems):,} of {count:,} edits are bad, and nothing was added:\n{shown}{tail}"
