"""``memedit edits``: add, look at, search, revert, import and export edits."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, BinaryIO, get_args

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
from memedit.importing import BATCH, Format, ImportReport, import_edits, read_source
from memedit.importing import dry_run as plan_import
from memedit.memory import EditMemory
from memedit.planning import OnConflict
from memedit.protocols import EditRecord, State

app = typer.Typer(help="Add, inspect, revert, import and export edits.", no_args_is_help=True)

AuthorOption = Annotated[str, typer.Option("--author", help="Who does this.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why.")]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="The memory as of then: 2026-03-01T12:00Z.")
]
ConflictOption = Annotated[
    OnConflict,
    typer.Option("--on-conflict", help="What to do with an edit that answers the same fact."),
]
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
    route: Annotated[
        str | None,
        typer.Option(help="ike: in context alone; grace: learned into a codebook; auto."),
    ] = None,
    edit_id: Annotated[str | None, typer.Option("--id", help="An id of your own.")] = None,
    valid_from: Annotated[str | None, typer.Option(help="From when it answers.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="From when it answers no more.")] = None,
    key: Annotated[str | None, typer.Option(help="The same call again adds nothing.")] = None,
    on_conflict: ConflictOption = "supersede",
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
        "route": route,
    }
    edit = from_mapping({name: value for name, value in given.items() if value})
    with _memory(memory, namespace, config) as (opened, space):
        (record,) = opened.add(
            edit,
            namespace=space,
            author=author,
            reason=reason,
            valid_from=valid_from,
            expires_at=expires_at,
            on_conflict=on_conflict,
            idempotency_key=key,
        )
    if as_json:
        print_json(record_mapping(record))
        return
    _say_added(record, is_there=record.edit.id != edit.id)


def _say_added(record: EditRecord, *, is_there: bool) -> None:
    say(f"{record.edit.id}  {record.edit.statement}")
    for old in record.supersedes:
        say(f"supersedes {old}")
    for warning in record.warnings:
        say(warning)
    if is_there:
        say("this fact was there already; nothing was added")
    if missing := record.edit.missing_for_weights:
        say(
            f"served in context (ike); without {', '.join(missing)} it cannot be moved into "
            "weights: give --subject, --prompt and --target for that"
        )


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help=f"{', '.join(get_args(State))}, or all.")] = "active",
    limit: Annotated[int, typer.Option(min=1, help="At most this many, the newest.")] = 100,
    as_of: AsOfOption = None,
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
        records = opened.records(space, states=states, as_of=as_of)
    shown = records[-limit:]
    if as_json:
        print_json([record_mapping(record) for record in shown])
        return
    print_table(f"{len(shown)} of {len(records)} edits in {space}", *_rows(shown))


@app.command("get", hidden=True)
@app.command()
def show(
    edit_id: IdArgument,
    as_of: AsOfOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one edit whole."""
    with _memory(memory, None, config) as (opened, _):
        mapping = record_mapping(opened.get(edit_id, as_of=as_of))
    if as_json:
        print_json(mapping)
        return
    shown = {name: value for name, value in mapping.items() if value not in ("", None, [])}
    print_table(edit_id, ("field", "value"), [(k, _plain(v)) for k, v in shown.items()])


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    as_of: AsOfOption = None,
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the edits nearest in meaning to a text."""
    with _memory(memory, namespace, config) as (opened, space):
        found = opened.search(text, limit, namespace=space, as_of=as_of)
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
def restore(
    edit_id: IdArgument,
    author: AuthorOption = "",
    reason: ReasonOption = "",
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo a revert; the edit is back in its place."""
    with _memory(memory, None, config) as (opened, _):
        record = opened.restore(edit_id, author=author, reason=reason)
    if as_json:
        print_json(record_mapping(record))
        return
    by = f" by {record.superseded_by}" if record.superseded_by else ""
    say(f"restored {edit_id}: {record.state}{by}")


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
        Path, typer.Argument(help="JSON Lines or CSV, one edit a line; - reads standard input.")
    ],
    form: Annotated[
        Format | None, typer.Option("--format", help="jsonl or csv; by the file's ending.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    skip_bad: Annotated[bool, typer.Option(help="Leave bad lines out.")] = False,
    again: Annotated[bool, typer.Option(help="Even if it was imported before.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Edits per transaction.")] = BATCH,
    on_conflict: ConflictOption = "supersede",
    author: AuthorOption = "",
    reason: ReasonOption = "",
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the edits of a file; run again after an interruption, it goes on where it was."""
    form = form or ("csv" if file.suffix.lower() == ".csv" else "jsonl")
    report = ImportReport()
    with _opened(file) as lines, _memory(memory, namespace, config) as (opened, space):
        source = read_source(lines, form, time.time())
        if dry_run:
            report = plan_import(
                opened, source, namespace=space, on_conflict=on_conflict, batch=batch, again=again
            )
        else:
            for report in import_edits(
                opened,
                source,
                namespace=space,
                author=author,
                reason=reason,
                on_conflict=on_conflict,
                batch=batch,
                skip_bad=skip_bad,
                again=again,
            ):
                if sys.stderr.isatty():
                    print(f"\r{report.done:,} of {report.total:,}", end="", file=sys.stderr)
    if as_json:
        print_json(asdict(report))
        return
    _say_report(report, space)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """A file to be read more than once; what can be read only once is copied to the disk first."""
    with ExitStack() as stack:
        try:
            is_input = str(file) == "-"
            given = sys.stdin.buffer if is_input else stack.enter_context(file.open("rb"))
            if is_input or not given.seekable():
                copy = stack.enter_context(TemporaryFile())
                shutil.copyfileobj(given, copy)
                given = copy
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read: {error}") from error
        yield given


def _say_report(report: ImportReport, space: str) -> None:
    would = "would be " if report.dry_run else ""
    say(f"{report.added} edits {would}imported into {space}; {report.unchanged} were there already")
    if report.skipped:
        say(f"{report.skipped} lines were imported by an earlier run")
    for old in report.superseded:
        say(f"line {old.line}: {old.edit_id} supersedes {old.old_id}")
    for warning in report.warnings:
        say(warning)
    for error in report.errors:
        say(f"line {error.line}: {error.message}")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to; - writes standard output.")] = Path("-"),
    memory: MemoryOption = None,
    namespace: NamespaceOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the edits in force as JSON Lines, which import reads back."""
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
