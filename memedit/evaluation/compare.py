"""Runs side by side, and what differs between methods on the very same probes.

Two results are compared on the cases that both have: a probe is told by its case's id and its
place in the case, and counts where neither side sets it apart. The difference's interval draws
the same cases for both sides (see intervals.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.errors import InvalidInput
from memedit.evaluation.intervals import difference
from memedit.evaluation.report import MEASURES, SCHEMA, Entry, counted, passed

FIRES = "fires_out_of_scope"
"""No verdict but a share all the same: an edit took part where none should; less is better."""

Key = tuple[str, str]
"""A method and a pool."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was read from its folder.

    Attributes:
        name: the folder's name; with a number where an earlier run has the same.
        what: the content of ``run.json``, as the report repeats it.
        results: the report's, by method and pool.
        entries: verdicts by method and pool, then by case id, in the order of the probes;
            without prompts as sent and outputs.
    """

    name: str
    what: Mapping[str, Any]
    results: Mapping[Key, Mapping[str, Any]]
    entries: Mapping[Key, Mapping[str, Sequence[Entry]]]


@dataclass(frozen=True, slots=True)
class Side:
    """One method in one pool of one run."""

    run: Run
    key: Key

    def to_mapping(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "run": self.run.name,
            "method": self.key[0],
            "pool": self.key[1],
            "live_edits": self.run.results[self.key]["live_edits"],
        }


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the folders of finished runs.

    Raises:
        InvalidInput: a file is missing or damaged, or two files of a folder disagree.
    """
    runs: dict[str, Run] = {}
    for folder in folders:
        name = plain = folder.resolve().name
        number = 1
        while name in runs:
            number += 1
            name = f"{plain} ({number})"
        runs[name] = _load(folder, name)
    return list(runs.values())


def compare(runs: Sequence[Run], against: str | None = None) -> dict[str, Any]:
    """Everything that ``memedit compare`` says, as JSON types.

    Args:
        runs: of one dataset. Each method of the later ones is held against the first's method of
            the same name, pool by pool.
        against: a method; instead, every other method is held against it within its own run.

    Raises:
        InvalidInput: there is nothing to compare, the runs are of different datasets, or no run
            has the method.
    """
    if not runs or (len(runs) < 2 and against is None):
        raise InvalidInput(
            "one run has nothing to be held against: name a second folder, or a method of the "
            "run with --against"
        )
    _check_datasets(runs)
    pairs = list(_pairs(runs, against))
    paired = {(side.run.name, side.key) for pair in pairs for side in pair}
    sides = [Side(run, key) for run in runs for key in run.results]
    cases = {run.name: _cases(run) for run in runs}
    seed = runs[0].what["settings"]["seed"]
    return {
        "schema": SCHEMA,
        "dataset": runs[0].what["dataset"]["name"],
        "against": against,
        "cases": {name: len(ids) for name, ids in cases.items()},
        "shared_cases": len(set.intersection(*cases.values())),
        "settings": _settings(runs),
        "rates": [_rates(side) for side in sides],
        "differences": [line for pair in pairs for line in _differences(*pair, seed)],
        "unpaired": [
            side.to_mapping() for side in sides if (side.run.name, side.key) not in paired
        ],
    }


def _pairs(runs: Sequence[Run], against: str | None) -> Iterator[tuple[Side, Side]]:
    """What is held against what, the first of each pair being what the second is held against."""
    if against is None:
        for run in runs[1:]:
            for key in run.results:
                if key in runs[0].results:
                    yield Side(runs[0], key), Side(run, key)
        return
    methods = dict.fromkeys(method for run in runs for method, _ in run.results)
    if against not in methods:
        raise InvalidInput(f"no run has the method {against!r}; there are {', '.join(methods)}")
    for run in runs:
        for method, pool in run.results:
            if method != against and (against, pool) in run.results:
                yield Side(run, (against, pool)), Side(run, (method, pool))


def _cases(run: Run) -> set[str]:
    return {case for entries in run.entries.values() for case in entries}


def _rates(side: Side) -> dict[str, Any]:
    """One line of the runs side by side."""
    result = side.run.results[side.key]
    rates = {name: result[name] for name in (*MEASURES, FIRES)}
    return {**side.to_mapping(), "cases": result["cases"], **rates}


def _differences(first: Side, second: Side, seed: int) -> Iterator[dict[str, Any]]:
    """Measure by measure; those that neither side has are left out."""
    matched = _matched(first, second)
    for measure in (*MEASURES, FIRES):
        of_probe = "locality" if measure == FIRES else measure
        verdicts = [
            [
                (bool(a["edits"]), bool(b["edits"])) if measure == FIRES else (passed(a), passed(b))
                for a, b in pairs
                if a["measure"] == of_probe
            ]
            for pairs in matched
        ]
        counts = Counter(pair for pairs in verdicts for pair in pairs)
        if not counts:
            continue
        found = difference(
            [[a for a, _ in pairs] for pairs in verdicts],
            [[b for _, b in pairs] for pairs in verdicts],
            seed,
        )
        yield {
            "measure": measure,
            "first": first.to_mapping(),
            "second": second.to_mapping(),
            "shared_cases": len(matched),
            "probes": counts.total(),
            **found.to_mapping(),
            "both": counts[True, True],
            "only_first": counts[True, False],
            "only_second": counts[False, True],
            "neither": counts[False, False],
        }


def _matched(first: Side, second: Side) -> list[list[tuple[Entry, Entry]]]:
    """The probes that count on both sides, case by case; the cases that both have, all of them."""
    one, other = first.run.entries[first.key], second.run.entries[second.key]
    found = []
    for case, entries in one.items():
        if case not in other:
            continue
        asked = [(entry["measure"], entry["prompt"]) for entry in entries]
        if asked != [(entry["measure"], entry["prompt"]) for entry in other[case]]:
            raise InvalidInput(
                f"case {case} asks one thing in {first.run.name} and another in "
                f"{second.run.name}: they were run on different versions of the dataset; "
                "run one of them again on the other's data"
            )
        pairs = zip(entries, other[case], strict=True)
        found.append([(a, b) for a, b in pairs if counted(a) and counted(b)])
    return found


def _check_datasets(runs: Sequence[Run]) -> None:
    names = {run.name: run.what["dataset"]["name"] for run in runs}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{run} is of {dataset}" for run, dataset in names.items())
        raise InvalidInput(f"runs of different datasets cannot be compared: {told}")


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What the runs were asked to do differently, by dotted name; ``None`` where one has none."""
    leaves = [dict(_flat(run.what)) for run in runs]
    names = dict.fromkeys(name for one in leaves for name in one)
    return [
        {
            "name": name,
            "values": {run.name: one.get(name) for run, one in zip(runs, leaves, strict=True)},
        }
        for name in names
        if any(one.get(name) != leaves[0].get(name) for one in leaves)
    ]


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{at}.{name}" if at else str(name))
    else:
        yield at, value


def _load(folder: Path, name: str) -> Run:
    report_file, cases_file = folder / "report.json", folder / "cases.jsonl"
    report = _parsed(_text(report_file), str(report_file))
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise InvalidInput(
            f"{report_file} is no report of schema {SCHEMA}, the one that this memedit writes; "
            "run the evaluation again"
        )
    try:
        what = report["run"]
        results = {_key(result): _checked(result) for result in report["results"]}
        # Read here, so that what lacks them is found here.
        _, _ = what["dataset"]["name"], what["settings"]["seed"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{report_file} is damaged: {error!r} is not as it should be") from error
    entries = _entries(cases_file)
    for key, result in results.items():
        found = len(entries.get(key, {}))
        if found != result["cases"]:
            raise InvalidInput(
                f"{cases_file} is damaged: it has {found:,} cases of {key[0]} in pool {key[1]}, "
                f"and report.json counts {result['cases']:,}; run the evaluation again"
            )
    return Run(name, what, results, entries)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be read ({error.strerror}); name the folder of a finished run of "
            "memedit evaluate"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{file} is damaged: it is not UTF-8; run the evaluation again"
        ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{where} is damaged: {error}; run the evaluation again") from error


def _key(row: Mapping[str, Any]) -> Key:
    return row["method"], str(row["pool"])


def _checked(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A result that has what is read of it."""
    for measure in (*MEASURES, FIRES):
        _ = [result[measure][name] for name in ("rate", "low", "high", "n")]
    return {**result, "cases": int(result["cases"]), "live_edits": int(result["live_edits"])}


def _entries(file: Path) -> dict[Key, dict[str, list[Entry]]]:
    """The verdicts of a ``cases.jsonl``, without what is long in them."""
    found: dict[Key, dict[str, list[Entry]]] = {}
    # Not splitlines: an answer may hold a character that it takes for a line's end.
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line:
            continue
        where = f"line {number} of {file}"
        row = _parsed(line, where)
        try:
            cases = found.setdefault(_key(row), {})
            cases[row["case"]] = [_slim(entry) for entry in row["probes"]]
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"{where} is damaged: {error!r} is not as it should be") from error
    return found


def _slim(entry: Mapping[str, Any]) -> Entry:
    verdict = "same" if entry["measure"] == "locality" else "holds"
    return {name: entry[name] for name in ("measure", "prompt", "apart", "edits", verdict)}
