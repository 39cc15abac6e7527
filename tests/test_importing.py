"""Bulk imports: what is said beforehand happens, and nothing happens twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from memedit.encoders import HashEncoder
from memedit.errors import EditConflict, InvalidEdit, InvalidInput
from memedit.importing import ImportReport, Source, dry_run, import_edits, read_source
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
    return read_source(text.encode(), "jsonl", 1_000.0)


def many(count: int, start: int = 0) -> Source:
    return lines(*({"statement": f"Fact number {i}."} for i in range(start, start + count)))


def run(memory: EditMemory, source: Source, **options: object) -> ImportReport:
    return list(import_edits(memory, source, **options))[-1]  # type: ignore[arg-type]


def test_a_csv_is_read_with_its_times_and_aliases(memory: EditMemory) -> None:
    report = run(memory, read_source(CSV.encode(), "csv", 1_000.0))
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
        read_source(text.encode(), "csv", 0.0)
    with pytest.raises(InvalidInput, match="no CSV"):
        read_source(b"statement\n\xff\n", "csv", 0.0)


def test_a_dry_run_says_what_an_import_does_and_writes_nothing(memory: EditMemory) -> None:
    memory.add(lines({"statement": "The capital of France is Lyon.", "id": "a"}).lines[0][1].edit)  # type: ignore[union-attr]
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
