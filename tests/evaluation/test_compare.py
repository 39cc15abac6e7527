"""Comparing runs: differences worked out by hand, and folders that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from memedit.cli.compare import compare as command
from memedit.edits import structured, with_id
from memedit.errors import InvalidInput
from memedit.evaluation.cases import Case, Probe
from memedit.evaluation.compare import compare, load_runs
from memedit.evaluation.methods import Answered
from memedit.evaluation.report import summarise
from memedit.evaluation.runner import lines_of
from memedit.evaluation.verdicts import verdict
from memedit.prompt import TextPrompt
from memedit.protocols import Generation

Verdicts = dict[str, str]
"""By case, a letter a probe (two of accuracy, one of locality): + for right, - for wrong; an
upper-case A for a right one that is set apart, a lower-case a for a wrong one."""

FIRST: Verdicts = {"1": "++-", "2": "+--", "3": "--+", "4": "+++"}
SECOND: Verdicts = {"2": "+++", "3": "+-+", "4": "-++", "5": "---"}


def rows_of(verdicts: Verdicts, method: str = "memory", pool: int | str = "all") -> list[Any]:
    rows = []
    for name, letters in verdicts.items():
        edit = with_id(structured(f"X{name}", "The capital of {} is", "Lyon"), f"ed-{name}")
        probes = (
            Probe("accuracy", "prompt", f"The capital of X{name} is", ("Lyon",)),
            Probe("accuracy", "prompt", f"X{name} has the capital", ("Lyon",)),
            Probe("locality", "neighbourhood", "The capital of Italy is", ("Rome",)),
        )
        case = Case(name, (edit,), probes)
        entries = []
        for probe, letter in zip(probes, letters, strict=True):
            good = letter in "+A"
            fires = probe.measure == "accuracy" or not good
            text = ("Lyon" if probe.in_scope else "Rome") if good else "Oslo"
            one = Answered(
                TextPrompt(probe.prompt),
                Generation(text, 5, 1),
                (edit.id,) if fires else (),
            )
            apart = "set apart" if letter in "aA" else None
            entries.append(
                verdict(case, probe, one, unedited="Rome", edits={edit.id: edit}, apart=apart)
            )
        rows.append(
            {
                "method": method,
                "pool": pool,
                "live_edits": len(verdicts),
                "case": name,
                "facts": [edit.statement],
                "ids": [edit.id],
                "probes": entries,
            }
        )
    return rows


def write(folder: Path, rows: list[Any], dataset: str = "counterfact", **settings: Any) -> Path:
    """The folder of a run that has these rows."""
    what = {
        "dataset": {"name": dataset, "split": "dev"},
        "settings": {"seed": 0, **settings},
        "methods": {"memory": {"scope": {"threshold": settings.get("threshold", 0.0)}}},
    }
    folder.mkdir(parents=True)
    report = json.dumps(summarise(rows, [], what))
    (folder / "report.json").write_text(report, encoding="utf-8")
    (folder / "cases.jsonl").write_text(lines_of(rows), encoding="utf-8")
    return folder


def line_of(found: dict[str, Any], measure: str, **second: str) -> dict[str, Any]:
    (line,) = [
        line
        for line in found["differences"]
        if line["measure"] == measure and second.items() <= line["second"].items()
    ]
    assert isinstance(line, dict)
    return line


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / "a", rows_of(FIRST), limit=4),
        write(tmp_path / "b", rows_of(SECOND), threshold=0.5),
    ]


def test_differences_count_the_shared_cases_alone(two: list[Path]) -> None:
    found = compare(load_runs(two))
    assert found["cases"] == {"a": 4, "b": 4}
    assert found["shared_cases"] == 3
    # Cases 2, 3 and 4: the first has +-, --, ++ and the second ++, +-, -+. Of six probes the
    # first gets 3 right, the second 4; both 2, only the first 1, only the second 2, neither 1.
    line = line_of(found, "accuracy")
    counts = {name: line[name] for name in ("both", "only_first", "only_second", "neither")}
    assert counts == {"both": 2, "only_first": 1, "only_second": 2, "neither": 1}
    assert (line["probes"], line["n"], line["shared_cases"]) == (6, 3, 3)
    assert line["difference"] == round(4 / 6 - 3 / 6, 4)
    assert line["low"] <= line["difference"] <= line["high"]
    # Locality: -, +, + against +, +, +.
    line = line_of(found, "locality")
    assert line["difference"] == round(1 / 3, 4)
    assert (line["both"], line["only_first"], line["only_second"]) == (2, 0, 1)
    # Where locality fails here, an edit has fired: the same, with the sign turned.
    line = line_of(found, "fires_out_of_scope")
    assert line["difference"] == -round(1 / 3, 4)
    assert (line["only_first"], line["only_second"], line["neither"]) == (1, 0, 2)
    assert {line["measure"] for line in found["differences"]} == {
        *("accuracy", "locality", "fires_out_of_scope")
    }


def test_the_sides_are_named_and_their_rates_are_the_reports(two: list[Path]) -> None:
    found = compare(load_runs(two))
    line = line_of(found, "accuracy")
    assert line["first"] == {"run": "a", "method": "memory", "pool": "all", "live_edits": 4}
    assert line["second"]["run"] == "b"
    # On all its own cases: ++, +-, --, ++ is 5 of 8, and ++, +-, -+, -- is 4 of 8.
    assert [rates["accuracy"]["rate"] for rates in found["rates"]] == [0.625, 0.5]


def test_what_differs_in_the_settings_is_listed(two: list[Path]) -> None:
    found = compare(load_runs(two))
    assert found["settings"] == [
        {"name": "settings.limit", "values": {"a": 4, "b": None}},
        {"name": "methods.memory.scope.threshold", "values": {"a": 0.0, "b": 0.5}},
        {"name": "settings.threshold", "values": {"a": None, "b": 0.5}},
    ]


def test_a_probe_that_one_side_sets_apart_counts_for_neither(tmp_path: Path) -> None:
    first = write(tmp_path / "a", rows_of({"1": "+A+", "2": "++A"}))
    second = write(tmp_path / "b", rows_of({"1": "a--", "2": "+--"}))
    found = compare(load_runs([first, second]))
    # Of case 1 no accuracy probe counts on both sides; of case 2 both do: ++ against +-.
    line = line_of(found, "accuracy")
    assert (line["probes"], line["n"], line["difference"]) == (2, 1, -0.5)
    assert (line["both"], line["only_first"]) == (1, 1)
    assert line_of(found, "locality")["probes"] == 1


def test_identical_runs_differ_by_nothing(two: list[Path]) -> None:
    twin = write(two[0].parent / "a (2)", rows_of(FIRST), limit=4)
    found = compare(load_runs([two[0], twin, two[0]]))
    assert list(found["cases"]) == ["a", "a (2)", "a (3)"]
    assert found["settings"] == []
    for line in found["differences"]:
        assert line["difference"] == 0
        assert line["low"] == -line["high"] < 0, "a few cases leave room for a difference"
        assert line["only_first"] == line["only_second"] == 0


def test_methods_of_one_run_are_held_against_one_of_them(tmp_path: Path) -> None:
    rows = [
        *rows_of({"1": "++-", "2": "++-"}, "ike-always"),
        *rows_of({"1": "+++", "2": "--+"}, "memory"),
        *rows_of({"1": "--+", "2": "--+"}, "none"),
        *rows_of({"1": "--+", "2": "--+"}, "none", pool=1),
    ]
    run = write(tmp_path / "a", rows)
    found = compare(load_runs([run]), against="ike-always")
    assert {line["first"]["method"] for line in found["differences"]} == {"ike-always"}
    assert line_of(found, "accuracy", method="memory")["difference"] == -0.5
    assert line_of(found, "accuracy", method="none")["difference"] == -1.0
    assert line_of(found, "locality", method="memory")["difference"] == 1.0
    assert found["unpaired"] == [{"run": "a", "method": "none", "pool": "1", "live_edits": 2}]


def test_runs_that_share_no_case_have_no_difference(tmp_path: Path) -> None:
    first = write(tmp_path / "a", rows_of({"1": "+++"}))
    second = write(tmp_path / "b", rows_of({"2": "+++"}))
    found = compare(load_runs([first, second]))
    assert found["shared_cases"] == 0
    assert found["differences"] == []


def test_a_line_separator_in_an_answer_does_not_break_a_line(tmp_path: Path) -> None:
    rows = rows_of({"1": "+++"})
    rows[0]["probes"][0]["prompt"] = "one\u2028two\x85three"
    run = write(tmp_path / "a", rows)
    assert load_runs([run])[0].entries["memory", "all"]["1"][0]["prompt"] == "one\u2028two\x85three"


def test_different_datasets_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a", rows_of(FIRST))
    second = write(tmp_path / "b", rows_of(FIRST), dataset="zsre")
    with pytest.raises(InvalidInput, match="a is of counterfact, b is of zsre"):
        compare(load_runs([first, second]))


def test_cases_of_one_name_that_ask_other_things_are_refused(tmp_path: Path) -> None:
    rows = rows_of(FIRST)
    rows[2]["probes"][1]["prompt"] = "Something else"
    runs = [write(tmp_path / "a", rows_of(FIRST)), write(tmp_path / "b", rows)]
    with pytest.raises(InvalidInput, match="case 3 asks one thing in a and another in b"):
        compare(load_runs(runs))


def test_one_run_needs_a_method_to_be_held_against(two: list[Path]) -> None:
    with pytest.raises(InvalidInput, match="--against"):
        compare(load_runs(two[:1]))
    with pytest.raises(InvalidInput, match="no run has the method 'rome'; there are memory"):
        compare(load_runs(two), against="rome")


@pytest.mark.parametrize("name", ["report.json", "cases.jsonl"])
@pytest.mark.parametrize("damage", ["missing", "cut", "bytes", "shape"])
def test_a_damaged_folder_is_refused_by_the_name_of_the_file(
    two: list[Path], name: str, damage: str
) -> None:
    file = two[1] / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-20])
    elif damage == "bytes":
        file.write_bytes(b"\xff" + content)
    else:
        file.write_text('{"schema": 1}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match=name) as error:
        load_runs(two)
    assert str(two[1]) in str(error.value)


@pytest.mark.parametrize("part", ["[]", "{}", "null", '"x"', '{"accuracy": null}'])
def test_results_that_are_none_are_refused(two: list[Path], part: str) -> None:
    file = two[0] / "report.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["results"] = [json.loads(part)]
    file.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"report\.json is damaged"):
        load_runs(two)


def test_whole_lines_that_are_gone_are_missed(two: list[Path]) -> None:
    file = two[0] / "cases.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"3 cases of memory in pool all, .* counts 4"):
        load_runs(two)


def test_another_schema_is_refused(two: list[Path]) -> None:
    (two[0] / "report.json").write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(InvalidInput, match="schema 1"):
        load_runs(two)


def run_command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "240"})


def test_the_command_prints_tables(two: list[Path]) -> None:
    done = run_command(*map(str, two))
    assert done.exit_code == 0, done.output
    assert "counterfact: a 4, b 4 cases; 3 are in every run" in done.output
    assert "+16.7 [" in done.output
    assert "methods.memory.scope.threshold" in done.output


def test_the_command_prints_json(two: list[Path]) -> None:
    done = run_command(*map(str, two), "--json")
    assert json.loads(done.stdout) == json.loads(json.dumps(compare(load_runs(two))))


def test_the_command_raises_what_the_application_tells() -> None:
    assert isinstance(run_command("nowhere", "--against", "none").exception, InvalidInput)
