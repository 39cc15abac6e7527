"""Bulk imports: JSON Lines and CSV, a transaction a batch, resumable.

The whole source is read and checked before the first edit is added, and then read again, a batch
at a time, so that no more than a batch of it is ever in main memory. Each batch is added in a
transaction that also notes how far the import has come, under the fingerprint of the source's
content: an import that was interrupted, even by ``kill -9``, goes on behind the last batch when it
is run again, and one that had finished adds nothing.

>>> with Path("edits.csv").open("rb") as file:
...     for report in import_edits(memory, read_source(file, "csv", time.time())):
...         print(report.done, "of", report.total)
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from typing import Any, BinaryIO, Literal

from memedit.errors import InvalidEdit, InvalidInput
from memedit.journal import Transaction
from memedit.memory import DEFAULT_NAMESPACE, EditMemory
from memedit.planning import OnConflict, Pending, Planned, Proposal
from memedit.proposals import proposal_of_line, proposal_of_mapping

Format = Literal["jsonl", "csv"]

BATCH = 1_000
"""Edits per transaction: enough that synchronising the disk costs nothing beside encoding."""

LONGEST_LINE = 4 * 2**20
"""Bytes of a line, or characters of a CSV's: an edit whose fields are all full has fewer."""

_PIECE = 2**16


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
    """A source of edits that was read once and checked. It stays open for as long as it is used.

    Attributes:
        fingerprint: of its content: the same content under another name is the same source.
        total: how many lines hold something.
        errors: those of them that hold no edit.
    """

    fingerprint: str
    total: int
    errors: tuple[LineError, ...]
    _file: BinaryIO
    _read: Callable[[BinaryIO], Iterator[tuple[int, Proposal | str]]]
    _stamp: tuple[int, int] | None

    def batches(self, start: int, size: int) -> Iterator[list[tuple[int, Proposal | str]]]:
        """The lines that hold something, read anew, in lists: number, and edit or what is wrong.

        Only one reader at a time.

        Args:
            start: how many of them to leave out.
            size: most lines of a list.

        Raises:
            InvalidInput: the file has changed since it was checked.
        """
        lines = islice(self._read(self._file), start, None)
        while some := list(islice(lines, size)):
            if _stamp(self._file) != self._stamp:
                raise InvalidInput(
                    "the file was written to while it was being imported; what was added until "
                    "then stays: look at the file, and import it anew"
                )
            yield some


def read_source(
    file: BinaryIO,
    form: Format,
    now: float,
    admit: Callable[[Proposal], Proposal | str] = lambda given: given,
) -> Source:
    """Reads JSON Lines or CSV from its beginning to its end, and keeps none of it.

    A CSV's first line names the fields of its columns, those of an edit and ``valid_from`` and
    ``expires_at``; several aliases in a cell are divided by ``|``.

    Args:
        file: the source, UTF-8; it can be read again from its beginning.
        form: which of the two it is.
        now: seconds since the epoch; what has expired by then is an error.
        admit: what becomes of an edit, or what is wrong with it; asked again at each reading.

    Raises:
        InvalidInput: it is no CSV, or has no columns that are known.
    """

    def read(file: BinaryIO) -> Iterator[tuple[int, Proposal | str]]:
        file.seek(0)
        for number, given in _jsonl(file, now) if form == "jsonl" else _csv(file, now):
            yield number, given if isinstance(given, str) else admit(given)

    file.seek(0)  # and so writes what this process has still in its buffers
    stamp = _stamp(file)
    digest = blake2b(digest_size=16, person=form.encode())
    while piece := file.read(_PIECE):
        digest.update(piece)
    total = 0
    errors = []
    for number, given in read(file):
        total += 1
        if isinstance(given, str):
            errors.append(LineError(number, given))
    return Source(digest.hexdigest(), total, tuple(errors), file, read, stamp)


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
        InvalidInput: the source was written to meanwhile. The batches before stay added.
        EditConflict: a line conflicts, the policy is ``reject``, and ``skip_bad`` is off.
        MemoryFileError: the file cannot be written. The batches before stay added, as above.
    """
    report = ImportReport(total=source.total, errors=list(source.errors))
    if report.errors and not skip_bad:
        raise InvalidEdit(_describe(report.errors, report.total))
    mark = f"import:{source.fingerprint}"
    start = 0 if again else memory.import_progress(namespace, mark)
    report.skipped = report.done = min(start, report.total)
    if report.done == report.total:
        yield report
    for some in source.batches(report.done, batch):
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
        InvalidInput: the namespace is malformed, or the source was written to meanwhile.
    """
    report = ImportReport(total=source.total, errors=list(source.errors), dry_run=True)
    mark = f"import:{source.fingerprint}"
    start = 0 if again else memory.import_progress(namespace, mark)
    report.skipped = report.done = min(start, report.total)
    pending = Pending()
    for some in source.batches(report.done, batch):
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


def _stamp(file: BinaryIO) -> tuple[int, int] | None:
    """What differs once somebody has written to a file; ``None`` for what is none on a disk."""
    try:
        stat = os.fstat(file.fileno())
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _jsonl(file: BinaryIO, now: float) -> Iterator[tuple[int, Proposal | str]]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(_PIECE)
            yield number, f"it is longer than {LONGEST_LINE:,} bytes; write one edit a line"
        elif line.strip():
            try:
                yield number, proposal_of_line(line, f"line {number}: ", now)
            except InvalidInput as error:
                yield number, str(error)


def _csv(file: BinaryIO, now: float) -> Iterator[tuple[int, Proposal | str]]:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        rows = csv.DictReader(_limited(text), strict=True)
        if not {"statement", "target", "answer"} & set(rows.fieldnames or ()):
            raise InvalidInput(
                "the first line of a CSV names its columns: subject, prompt and target, or "
                f"question and answer, or statement; this one has {rows.fieldnames or 'nothing'}"
            )
        for row in rows:
            yield rows.line_num, _of_row(row, rows.line_num, now)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"this is no CSV in UTF-8: {error}") from error
    finally:
        text.detach()  # it would close the file


def _limited(text: io.TextIOBase) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise InvalidInput(
                f"this is no CSV of edits: a line is longer than {LONGEST_LINE:,} characters"
            )
        yield line


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
