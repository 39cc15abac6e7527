"""``memedit edits``: add, look at, search, revert, import and export edits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from memedit.assemble import open_memory
from memedit.cli.options import (
    ConfigOption,
    JsonOption,
    MemoryOption,
    NamespaceOption,
    configuration,
)
from memedit.cli.output import print_json, print_table, record_mapping, say, when
from memedit.edits import from_mapping
from memedit.errors import InvalidInput
from memedit.memory import EditMemory
from memedit.protocols import EditRecord, State

app = typer.Typer(help="Add, inspect, revert, import and export edits.", no_args_is_help=True)

AuthorOption = Annotated[str, typer.Option("--author", help="Who does this.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The edit's id.")]


@contextmanager
def _memory(
    memory: Path | None, namespace: str | None, config: Path | None
) -> Iterator[tuple[EditMemory, str]]:
    """The memory, open, and the namespace that this command is about."""
    configured = configuration(memory, namespace, config)
    with open_memory(configured) as opened:
        yield opened, configured.memory.namespace


@app.command()
def add(
    statement: Annotated[
        str | None, typer.Argument(metavar="[SENTENCE]", help="The fact as a sentence.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The entity the fact is about.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text with {} for the subject.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What completes the prompt from now on.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="The fact as a question.")] = None,
    answer: Annotated[str | None, typer.Option(help="The question's new answer.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name of the subject.")] = None,
    relation: Annotated[str | None, typer.Option(help="A name for the relation.")] = None,
    old_target: Annotated[str | None, typer.Option(help="The answer until now.")] = None,
    source: Annotated[str | None, typer.Option(help="Where the fact comes from.")] = None,
    edit_id: Annotated[str | None, typer.Option("--id", help="An id of your own.")] = None,
    author: AuthorOption = "",
    reason: ReasonOption = "",
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Teach a fact: a sentence, --subject --prompt --target, or --question --answer."""
    given = {
        "id": edit_id,
        "statement": statement,
        "subject": subject,
        "prompt": prompt,
        "target": target,
        "question": question,
        "answer": answer,
        "aliases": alias,
        "relation": relation,
        "old_target": old_target,
        "source": source,
    }
    edit = from_mapping({name: value for name, value in given.items() if value})
    with _memory(memory, namespace, config) as (opened, space):
        (record,) = opened.add(edit, namespace=space, author=author, reason=reason)
    if as_json:
        print_json(record_mapping(record))
        return
    say(f"{record.edit.id}  {record.edit.statement}")
    for old in record.supersedes:
        say(f"supersedes {old}")
    if record.edit.id != edit.id:
        say("this fact was there already; nothing was added")
    if missing := record.edit.missing_for_weights:
        say(
            f"served in context (ike); without {', '.join(missing)} it cannot be moved into "
            "weights: give --subject, --prompt and --target for that"
        )


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="active, superseded, reverted, or all.")] = "active",
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest.")] = 100,
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List edits, the oldest first."""
    states: list[State] = [known for known in get_args(State) if state in (known, "all")]
    if not states:
        raise InvalidInput(f"--state {state!r}: it is one of {', '.join(get_args(State))}, all")
    with _memory(memory, namespace, config) as (opened, space):
        records = opened.records(space, states=states)
    shown = records[-limit:]
    if as_json:
        print_json([record_mapping(record) for record in shown])
        return
    print_table(f"{len(shown)} of {len(records)} edits in {space}", *_rows(shown))


@app.command()
def show(
    edit_id: IdArgument,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one edit whole."""
    with _memory(memory, None, config) as (opened, _):
        mapping = record_mapping(opened.get(edit_id))
    if as_json:
        print_json(mapping)
        return
    shown = {name: value for name, value in mapping.items() if value not in ("", None, [])}
    print_table(edit_id, ("field", "value"), [(k, _plain(v)) for k, v in shown.items()])


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the edits nearest in meaning to a text."""
    with _memory(memory, namespace, config) as (opened, space):
        found = opened.search(text, limit, namespace=space)
    if as_json:
        print_json([{**record_mapping(r), "similarity": round(s, 4)} for r, s in found])
        return
    rows = [(f"{s:.3f}", r.edit.id, r.edit.statement) for r, s in found]
    print_table(f"nearest to {text!r}", ("similarity", "id", "statement"), rows)


@app.command()
def revert(
    edit_id: IdArgument,
    author: AuthorOption = "",
    reason: ReasonOption = "",
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo an edit; what it had superseded answers again."""
    with _memory(memory, None, config) as (opened, _):
        record = opened.revert(edit_id, author=author, reason=reason)
        back = [old for old in record.supersedes if opened.get(old).state == "active"]
    if as_json:
        print_json({**record_mapping(record), "active_again": back})
        return
    say(f"reverted {edit_id}")
    for old in back:
        say(f"active again: {old}")


@app.command()
def history(
    edit_id: IdArgument,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that ever happened to an edit."""
    with _memory(memory, None, config) as (opened, _):
        events = opened.history(edit_id)
    if as_json:
        print_json([{**event, "at": when(event["at"])} for event in map(_event, events)])
        return
    rows = [(when(e["at"]), e["kind"], e["author"], e["reason"]) for e in map(_event, events)]
    print_table(edit_id, ("when", "what", "who", "why"), rows)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON Lines, one edit each; - reads standard input.")
    ],
    author: AuthorOption = "",
    reason: ReasonOption = "",
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the edits of a JSON Lines file; nothing is added where a line is wrong."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}") from error
    with _memory(memory, namespace, config) as (opened, space):
        records = opened.import_jsonl(
            text.splitlines(), namespace=space, author=author, reason=reason
        )
    if as_json:
        print_json([record_mapping(record) for record in records])
        return
    say(f"{len(records)} edits imported into {space}")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to; - writes standard output.")] = Path("-"),
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the active edits as JSON Lines, which import reads back."""
    with _memory(memory, namespace, config) as (opened, space):
        lines = list(opened.export_jsonl(namespace=space))
    if str(file) == "-":
        print("\n".join(lines))
        return
    try:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"exported": len(lines), "file": str(file)})
        return
    say(f"{len(lines)} edits exported to {file}")


def _rows(records: list[EditRecord]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = ("id", "statement", "subject", "state", "since")
    return columns, [
        (r.edit.id, r.edit.statement, r.edit.subject or "", r.state, when(r.created_at))
        for r in records
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _event(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("position", "at", "kind", "author", "reason")}
