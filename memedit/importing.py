"""Bulk imports: JSON Lines and CSV, a transaction a batch, resumable.

The whole source is read and checked before the first edit is added. Then each batch is added in a
transaction that also notes how far the import has come, under the fingerprint of the source's
content: an import that was interrupted, even by ``kill -9``, goes on behind the last batch when it
is run again, and one that had finished adds nothing.

>>> source = read_source(Path("edits.csv").read_bytes(), "csv", time.time())
>>> for report in import_edits(memory, source):
...     print(report.done, "of", report.total)
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

from memedit.errors import InvalidEdit, InvalidInput
from memedit.journal import Transaction
from memedit.memory import DEFAULT_NAMESPACE, EditMemory
from memedit.planning import OnConflict, Pending, Planned, Proposal
from memedit.proposals import proposal_of_line, proposal_of_mapping

Format = Literal["jsonl", "csv"]

BATCH = 1_000
"""Edits per transaction: enough that synchronising the disk costs nothing beside encoding."""


@dataclass(frozen=True, slots=True)
class LineError:
    """A line that cannot be added, and why."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """What a line retires: the id of the new edit and of the old one."""

    line: int
    edit_id: str
    old_id: str


@dataclass(slots=True)
class ImportReport:
    """What an import has done so far, or would do.

    Attributes:
        total: lines that hold something.
        done: of these, those that are dealt with.
        skipped: those that an earlier run had dealt with.
        added: edits added.
        ids: their ids, in the order of their lines.
        unchanged: edits that say nothing beyond an active one.
        superseded: what was retired.
        warnings: conflicts and contradictions, as sentences with their line.
        errors: lines that cannot be added.
        dry_run: whether nothing was written.
    """

    total: int = 0
    done: int = 0
    skipped: int = 0
    added: int = 0
    ids: list[str] = field(default_factory=list)
    unchanged: int = 0
    superseded: list[Superseded] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[LineError] = field(default_factory=list)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A source of edits, read and checked.

    Attributes:
        fingerprint: of its content: the same content under another name is the same source.
        lines: the number of each line that holds something, with its edit or what is wrong.
    """

    fingerprint: str
    lines: tuple[tuple[int, Proposal | str], ...]

    @property
    def errors(self) -> list[LineError]:
        """The lines that hold no edit."""
        return [LineError(n, given) for n, given in self.lines if isinstance(given, str)]


def read_source(data: bytes, form: Format, now: float) -> Source:
    """Reads JSON Lines or CSV.

    A CSV's first line names the fields of its columns, those of an edit and ``valid_from`` and
    ``expires_at``; several aliases in a cell are divided by ``|``.

    Args:
        data: the whole source, UTF-8.
        form: which of the two it is.
        now: seconds since the epoch; what has expired by then is an error.

    Raises:
        InvalidInput: it is no CSV, or has no columns that are known.
    """
    rows = _jsonl(data, now) if form == "jsonl" else _csv(data, now)
    digest = blake2b(data, digest_size=16, person=form.encode()).hexdigest()
    return Source(digest, tuple(rows))


def import_edits(
    memory: EditMemory,
    source: Source,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    author: str = "",
    reason: str = "",
    on_conflict: OnConflict = "supersede",
    batch: int = BATCH,
    skip_bad: bool = False,
    again: bool = False,
) -> Iterator[ImportReport]:
    """Adds a source's edits, a transaction a batch; yields the report so far after each.

    Args:
        memory: where to.
        source: as :func:`read_source` gives it.
        namespace: as for :meth:`EditMemory.add`.
        author: likewise, as is ``reason``.
        reason: why.
        on_conflict: as for :meth:`EditMemory.add`.
        batch: most edits of a transaction.
        skip_bad: leave bad lines out and add the others; otherwise one bad line stops the import
            before anything is added.
        again: add the edits even where this source has been imported before.

    Raises:
        InvalidEdit: a line is bad, or an id is taken, and ``skip_bad`` is off.
        EditConflict: a line conflicts, the policy is ``reject``, and ``skip_bad`` is off.
        MemoryFileError: the file cannot be written. The batches before stay added, as above.
    """
    report = ImportReport(total=len(source.lines), errors=source.errors)
    if report.errors and not skip_bad:
        raise InvalidEdit(_describe(report.errors, report.total))
    mark = f"import:{source.fingerprint}"
    start = 0 if again else memory.import_progress(namespace, mark)
    report.skipped = report.done = min(start, report.total)
    if report.done == report.total:
        yield report
    while report.done < report.total:
        some = source.lines[report.done : report.done + batch]
        good = [given for _, given in some if isinstance(given, Proposal)]
        done = report.done + len(some)

        def note(transaction: Transaction, done: int = done) -> None:
            transaction.put_mark(namespace, mark, {"done": done, "of": report.total})

        planned = memory.add_proposals(
            good,
            namespace=namespace,
            author=author,
            reason=reason,
            on_conflict=on_conflict,
            skip_bad=skip_bad,
            then=note,
        )
        _count(report, planned)
        report.done = done
        yield report


def dry_run(
    memory: EditMemory,
    source: Source,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    on_conflict: OnConflict = "supersede",
    batch: int = BATCH,
    again: bool = False,
) -> ImportReport:
    """What :func:`import_edits` would do, with bad lines left out; nothing is written.

    Raises:
        InvalidInput: the namespace is malformed.
    """
    report = ImportReport(total=len(source.lines), errors=source.errors, dry_run=True)
    mark = f"import:{source.fingerprint}"
    start = 0 if again else memory.import_progress(namespace, mark)
    report.skipped = report.done = min(start, report.total)
    pending = Pending()
    while report.done < report.total:
        some = source.lines[report.done : report.done + batch]
        good = [given for _, given in some if isinstance(given, Proposal)]
        _count(report, memory.preview(good, namespace, on_conflict, pending))
        report.done += len(some)
    return report


def _describe(errors: Sequence[LineError], total: int, shown: int = 20) -> str:
    """The bad lines as one message."""
    lines = "\n".join(f"line {error.line}: {error.message}" for error in errors[:shown])
    more = f"\nand {len(errors) - shown:,} more" if len(errors) > shown else ""
    if total == 1 and len(errors) == 1:
        return lines
    return f"{len(errors):,} of {total:,} edits are bad, and nothing was added:\n{lines}{more}"


def _count(report: ImportReport, planned: Iterable[Planned]) -> None:
    for one in planned:
        line = int(one.proposal.where.removeprefix("line ").rstrip(": "))
        if one.problem:
            report.errors.append(LineError(line, one.problem))
            continue
        if not one.added:
            report.unchanged += 1
            continue
        report.added += 1
        report.ids.append(one.edit_id)
        report.superseded += [Superseded(line, one.edit_id, old) for old in one.supersedes]
        report.warnings += [f"line {line}: {warning}" for warning in one.warnings]


def _jsonl(data: bytes, now: float) -> Iterator[tuple[int, Proposal | str]]:
    for number, line in enumerate(io.BytesIO(data), 1):
        if line.strip():
            try:
                yield number, proposal_of_line(line, f"line {number}: ", now)
            except InvalidInput as error:
                yield number, str(error)


def _csv(data: bytes, now: float) -> Iterator[tuple[int, Proposal | str]]:
    try:
        text = data.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if not {"statement", "target", "answer"} & set(rows.fieldnames or ()):
            raise InvalidInput(
                "the first line of a CSV names its columns: subject, prompt and target, or "
                f"question and answer, or statement; this one has {rows.fieldnames or 'nothing'}"
            )
        for row in rows:
            yield rows.line_num, _of_row(row, rows.line_num, now)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"this is no CSV in UTF-8: {error}") from error


def _of_row(row: Mapping[str | None, Any], number: int, now: float) -> Proposal | str:
    if None in row:
        return f"it has more cells than columns: {json.dumps(row[None], ensure_ascii=False)}"
    given = {str(name): value for name, value in row.items() if value}
    if "aliases" in given:
        given["aliases"] = [name for name in given["aliases"].split("|") if name.strip()]
    for name in ("valid_from", "expires_at"):
        with contextlib.suppress(ValueError):  # a date, which is read further on
            given[name] = float(given[name]) if name in given else None
    try:
        return replace(proposal_of_mapping(given, "", now), where=f"line {number}: ")
    except InvalidInput as error:
        return str(error)
