"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memedit.protocols import Decision, EditRecord

console = Console(highlight=False)
if not console.is_terminal:
    console.width = max(console.width, 120)  # a file or a pipe has no edge to break lines at


def print_json(data: Any) -> None:
    """One JSON document on standard output, with nothing around it."""
    print(json.dumps(data, ensure_ascii=False, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; cells are shown as they are, never read as markup."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console.print(table)


def say(text: str) -> None:
    """One line for a person."""
    console.print(Text(text))


def when(seconds: float) -> str:
    """A moment in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def record_mapping(record: EditRecord) -> dict[str, Any]:
    """A record as JSON types."""
    return {
        **record.edit.to_mapping(),
        "namespace": record.namespace,
        "state": record.state,
        "author": record.author,
        "reason": record.reason,
        "created_at": when(record.created_at),
        "supersedes": list(record.supersedes),
        "superseded_by": record.superseded_by,
        "valid_from": None if record.valid_from is None else when(record.valid_from),
        "expires_at": None if record.expires_at is None else when(record.expires_at),
        "version": record.version,
        "warnings": list(record.warnings),
        "routes": ["ike"],
        "missing_for_weights": list(record.edit.missing_for_weights),
    }


def decision_mapping(decision: Decision) -> dict[str, Any]:
    """A decision as JSON types."""
    return {
        "route": decision.route,
        "edits": [edit.id for edit in decision.edits],
        "scope": round(decision.scope, 4),
        "reasons": list(decision.reasons),
        "considered": [
            {
                "id": row.edit.id,
                "statement": row.edit.statement,
                "mention": row.mention,
                "relation": None if row.relation is None else round(row.relation, 4),
                "asked": row.asked,
                "stated": row.stated,
                "similarity": None if row.cosine is None else round(row.cosine, 4),
                "probability": round(row.probability, 4),
                "accepted": row.accepted,
            }
            for row in decision.considered
        ],
        "timings": {name: round(ms, 2) for name, ms in decision.timings.items()},
    }
