"""Bulk imports: what is said beforehand happens, and nothing happens twice."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from memedit.encoders import HashEncoder
from memedit.errors import EditConflict, InvalidEdit, InvalidInput
from memedit.importing import (
    LONGEST_LINE,
    Format,
    ImportReport,
    Source,
    dry_run,
    import_edits,
    read_source,
)
from memedit.memory import EditMemory

CSV = """\ufeffsubject,prompt,target,aliases,expires_at
France,The capital of {} is,Lyon,Gaul|the Hexagon,
Spain,The capital of {} is,"Rome, for now",,2100-01-01
France,The capital of {} is,Nice,,
"""


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.db", HashEncoder(), index="exact") as opened:
        yield opened


def lines(*statements: object) -> Source:
    text = "\n".join(s if isinstance(s, str) else json.dumps(s) for s in statements)
    return read_source(io.BytesIO(text.encode()), "jsonl", 1_000.0)


def many(count: int, start: int = 0) -> Source:
    return lines(*({"statement": f"Fact number {i}."} for i in range(start, start + count)))


def run(memory: EditMemory, source: Source, **options: object) -> ImportReport:
    return list(import_edits(memory, source, **options))[-1]  # type: ignore[arg-type]


def test_a_csv_is_read_with_its_times_and_aliases(memory: EditMemory) -> None:
    report = run(memory, read_source(io.BytesIO(CSV.encode()), "csv", 1_000.0))
    assert (report.added, report.unchanged, report.errors) == (3, 0, [])
    (one,) = report.superseded
    assert one.line == 4
    spain, france = memory.records()
    assert (spain.edit.target, spain.expires_at) == ("Rome, for now", 4_102_444_800)
    assert (france.edit.target, france.supersedes) == ("Nice", (one.old_id,))
    assert memory.get(one.old_id).edit.aliases == ("Gaul", "the Hexagon")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,city\nFrance,Lyon\n", "names its columns"),
        ("", "names its columns"),
        ('statement\n"Bo is tall.\n', "no CSV"),
    ],
)
def test_what_is_no_csv_of_edits_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_source(io.BytesIO(text.encode()), "csv", 0.0)
    with pytest.raises(InvalidInput, match="no CSV"):
        read_source(io.BytesIO(b"statement\n\xff\n"), "csv", 0.0)


def test_a_dry_run_says_what_an_import_does_and_writes_nothing(memory: EditMemory) -> None:
    run(memory, lines({"statement": "The capital of France is Lyon.", "id": "a"}))
    source = lines(
        {"statement": "The capital of France is Lyon."},
        {"statement": "The capital of France is Nice.", "id": "b"},
        "{",
        {"statement": "The capital of France is Metz.", "id": "c"},
        {"statement": "Bo is tall.", "id": "a"},
    )
    told = dry_run(memory, source, batch=2)
    assert [r.edit.id for r in memory.records()] == ["a"]
    done = run(memory, source, batch=2, skip_bad=True)
    assert (told.added, told.unchanged, told.superseded) == (2, 1, done.superseded)
    assert [e.line for e in told.errors] == [e.line for e in done.errors]
    assert (done.added, done.unchanged) == (2, 1)
    assert [(s.line, s.edit_id, s.old_id) for s in done.superseded] == [
        (2, "b", "a"),
        (4, "c", "b"),
    ]
    assert [(e.line, e.message[:20]) for e in done.errors] == [
        (3, "not a JSON object (E"),
        (5, "the id a is taken by"),
    ]
    assert [r.edit.id for r in memory.records()] == ["c"]


def test_a_bad_line_stops_an_import_before_it_begins(memory: EditMemory) -> None:
    with pytest.raises(InvalidEdit, match="1 of 3 edits are bad, and nothing was added:\nline 2"):
        run(memory, lines({"statement": "A b."}, {"statment": "x"}, {"statement": "C d."}), batch=1)
    assert len(memory) == 0


def test_an_interrupted_import_goes_on_where_it_was(memory: EditMemory) -> None:
    source = many(25)
    progress = import_edits(memory, source, batch=10)
    assert next(progress).done == 10
    progress.close()
    reverted = memory.records()[0].edit.id
    memory.revert(reverted)
    report = run(memory, source, batch=7)
    assert (report.skipped, report.added, report.done) == (10, 15, 25)
    assert len(memory) == 24
    report = run(memory, source)
    assert (report.skipped, report.added) == (25, 0)
    assert dry_run(memory, source).skipped == 25
    # Elsewhere it is new, and so it is on request.
    assert run(memory, many(25), namespace="b").added == 25
    report = run(memory, many(25), again=True)
    assert (report.added, report.unchanged) == (1, 24)


def test_a_file_that_states_a_fact_twice_can_be_run_again(memory: EditMemory) -> None:
    source = lines(
        {"statement": "The capital of France is Lyon."},
        {"statement": "The capital of France is Nice."},
    )
    run(memory, source, batch=1)
    run(memory, source, batch=1)
    assert [r.edit.target for r in memory.records()] == ["Nice"]
    assert len(memory.records(states=["superseded"])) == 1


def test_a_refused_conflict_names_its_line_and_keeps_the_batches_before(memory: EditMemory) -> None:
    source = lines(
        {"statement": "The capital of France is Lyon."},
        {"statement": "Bo is tall."},
        {"statement": "The capital of France is Nice."},
    )
    with pytest.raises(EditConflict, match="line 3: it answers"):
        run(memory, source, batch=2, on_conflict="reject")
    assert len(memory) == 2
    assert run(memory, source, on_conflict="keep-both").skipped == 2
    assert len(memory) == 3


def written(path: Path, form: Format, count: int) -> Path:
    facts = (f"Fact number {number} of many that are all of one length." for number in range(count))
    with path.open("w") as file:
        if form == "csv":
            file.write("statement,source\n")
            file.writelines(f'{fact},"a source, quoted"\n' for fact in facts)
        else:
            file.writelines(json.dumps({"statement": fact}) + "\n" for fact in facts)
    return path


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_source_is_never_in_memory_as_a_whole(tmp_path: Path, form: Format) -> None:
    def peak(count: int) -> int:
        path = written(tmp_path / f"{count}.{form}", form, count)
        tracemalloc.start()
        try:
            with path.open("rb") as file:
                source = read_source(file, form, 1_000.0)
                found = sum(len(batch) for batch in source.batches(0, 20))
            assert (source.total, found, source.errors) == (count, count, ())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is made once is made
    assert peak(2_000) < 1.2 * peak(1_000)


@pytest.mark.parametrize(
    ("form", "text", "fingerprint"),
    [
        ("jsonl", '{"statement": "Iron floats."}\n\n', "763d5c8e2c8ec029561235a7f170765d"),
        ("csv", CSV, "d5b4debb2101f619e5b72d2ae2dc6a70"),
    ],
)
def test_fingerprints_stay_so_that_old_imports_go_on(
    form: Format, text: str, fingerprint: str
) -> None:
    assert read_source(io.BytesIO(text.encode()), form, 1_000.0).fingerprint == fingerprint


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_import_from_a_file_goes_on_in_the_middle(
    memory: EditMemory, tmp_path: Path, form: Format
) -> None:
    with written(tmp_path / "edits", form, 25).open("rb") as file:
        progress = import_edits(memory, read_source(file, form, 1_000.0), batch=10)
        assert next(progress).done == 10
        progress.close()
        # The same reader again: it begins anew.
        report = run(memory, read_source(file, form, 1_000.0), batch=10)
        assert (report.skipped, report.added, report.total) == (10, 15, 25)
    assert [record.edit.statement.split()[2] for record in memory.records()] == [
        str(number) for number in range(25)
    ]


def test_a_file_that_is_written_to_meanwhile_stops_its_import(
    memory: EditMemory, tmp_path: Path
) -> None:
    path = written(tmp_path / "edits", "jsonl", 2_000)
    with path.open("rb") as file:
        source = read_source(file, "jsonl", 1_000.0)
        progress = import_edits(memory, source, batch=10)
        next(progress)
        with path.open("a") as other:
            other.write('{"statement": "Iron floats."}\n')
        with pytest.raises(InvalidInput, match="written to while it was being imported"):
            next(progress)
        with pytest.raises(InvalidInput, match="written to"):
            dry_run(memory, source)
        assert len(memory) == 10
        # It is another source now, of which ten lines are there already.
        report = run(memory, read_source(file, "jsonl", 1_000.0))
        assert (report.skipped, report.unchanged, report.added) == (0, 10, 1_991)


def test_a_line_without_end_is_one_bad_line(memory: EditMemory) -> None:
    long = '{"statement": "' + "x" * LONGEST_LINE + '"}'
    source = lines({"statement": "A b."}, long, {"statement": "C d."}, long)
    assert [(error.line, "longer than" in error.message) for error in source.errors] == [
        (2, True),
        (4, True),
    ]
    assert run(memory, source, skip_bad=True).added == 2
    with pytest.raises(InvalidInput, match="longer than"):
        read_source(io.BytesIO(f"statement\n{long}\n".encode()), "csv", 0.0)
