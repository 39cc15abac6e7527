"""From verdicts to numbers: everything in ``report.json`` is computed here, from rows alone.

A rate counts the probes that count: those set apart (see interference.py) are reported beside it.
Intervals are bootstraps over cases (see intervals.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from memedit.evaluation.intervals import mean, rate
from memedit.evaluation.measures import (
    relative_scalability,
    retainability,
    retained,
    scalability,
)

SCHEMA = 1
"""Of ``report.json``; raised when a name changes its meaning."""

MEASURES = ("accuracy", "generality", "locality", "portability")

Row = Mapping[str, Any]
Entry = Mapping[str, Any]


def summarise(
    rows: Sequence[Row], sequence: Sequence[Mapping[str, Any]], what: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of a run, as JSON types.

    Args:
        rows: the lines of ``cases.jsonl``.
        sequence: the lines of ``sequence.jsonl``.
        what: the content of ``run.json``.
    """
    seed = what["settings"]["seed"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], str(row["pool"])), []).append(row)
    results = [_result(members, seed) for members in groups.values()]
    return {
        "schema": SCHEMA,
        "run": dict(what),
        "results": results,
        "retainability": _retainability(sequence, seed),
        "scalability": _scalability(results),
    }


def counted(entry: Entry) -> bool:
    """Whether a probe counts for the rates."""
    return entry["apart"] is None


def passed(entry: Entry) -> bool:
    """Whether a probe's verdict is the good one: it holds, or it is the same."""
    return bool(entry["same"] if entry["measure"] == "locality" else entry["holds"])


def by_case(
    rows: Sequence[Row],
    keep: Callable[[Entry], bool],
    value: Callable[[Entry], Any] = passed,
) -> list[list[Any]]:
    """The values of the kept probes, one list per case, empty ones included."""
    return [[value(entry) for entry in row["probes"] if keep(entry)] for row in rows]


def _result(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """One method in one pool."""

    def share(keep: Callable[[Entry], bool], value: Callable[[Entry], Any] = passed) -> Any:
        return rate(by_case(rows, keep, value), seed).to_mapping()

    entries = [entry for row in rows for entry in row["probes"]]
    found: dict[str, Any] = {
        "method": rows[0]["method"],
        "pool": rows[0]["pool"],
        "cases": len(rows),
        "live_edits": max(row["live_edits"] for row in rows),
    }
    for measure in MEASURES:
        found[measure] = share(_of(measure))
    found["by_kind"] = {
        measure: {kind: share(_of(measure, kind)) for kind in _kinds(entries, measure)}
        for measure in MEASURES
    }
    found["questions"] = _questions(rows, seed)
    found["every_hop"] = {}
    if any("hops" in entry for entry in entries):  # else the method takes none
        followed = [entry for entry in entries if "every_hop" in entry]
        found["every_hop"] = {
            kind: share(_followed(kind), lambda e: e["every_hop"])
            for kind in _kinds(followed, "portability")
        }
    found["right_edit"] = share(
        lambda e: counted(e) and e["measure"] in ("accuracy", "generality"),
        lambda e: e["right_edit"],
    )
    found["fires_out_of_scope"] = share(_of("locality"), lambda e: bool(e["edits"]))
    found["leaks"] = share(_of("locality"), lambda e: e["leaks"])
    found["apart"] = _apart(rows, seed)
    found["errors"] = dict(
        Counter(e["error"] for e in entries if counted(e) and e["error"]).most_common()
    )
    found["empty_outputs"] = sum(not e["answer"] for e in entries)
    found["prompt_tokens"] = mean(
        by_case(rows, lambda e: counted(e) and e["measure"] != "locality", _tokens), seed
    ).to_mapping()
    found["forced"] = _forced(rows, seed)
    found["ngram_entropy"] = mean(
        [[row["open"]["entropy"]] for row in rows if "open" in row], seed
    ).to_mapping()
    return found


def _of(measure: str, kind: str | None = None) -> Callable[[Entry], bool]:
    return lambda entry: (
        counted(entry) and entry["measure"] == measure and kind in (None, entry["kind"])
    )


def _followed(kind: str) -> Callable[[Entry], bool]:
    return lambda entry: _of("portability", kind)(entry) and "every_hop" in entry


def _set_apart(reason: str, measure: str) -> Callable[[Entry], bool]:
    return lambda entry: entry["apart"] == reason and entry["measure"] == measure


def _rated(measure: str, name: str) -> Callable[[Entry], bool]:
    return lambda entry: _of(measure)(entry) and name in entry.get("forced", {})


def _rating(name: str) -> Callable[[Entry], float]:
    return lambda entry: float(entry["forced"][name])


def _tokens(entry: Entry) -> float:
    return float(entry["prompt_tokens"])


def _kinds(entries: Iterable[Entry], measure: str) -> list[str]:
    return list(dict.fromkeys(e["kind"] for e in entries if e["measure"] == measure))


def _questions(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Questions in several wordings: whether any of them is answered (as MQuAKE counts), and all.

    A question counts where none of its wordings is set apart.
    """
    found: dict[str, dict[str, list[list[bool]]]] = {}
    for row in rows:
        wordings: dict[tuple[str, str], list[Entry]] = {}
        for entry in row["probes"]:
            if entry.get("group"):
                wordings.setdefault((entry["kind"], entry["group"]), []).append(entry)
        per_kind: dict[str, list[list[bool]]] = {}
        for (kind, _), entries in wordings.items():
            if all(map(counted, entries)):
                per_kind.setdefault(kind, []).append([passed(entry) for entry in entries])
        for kind, questions in per_kind.items():
            kept = found.setdefault(kind, {"any": [], "all": []})
            kept["any"].append([any(verdicts) for verdicts in questions])
            kept["all"].append([all(verdicts) for verdicts in questions])
    return {
        kind: {name: rate(values, seed).to_mapping() for name, values in kept.items()}
        for kind, kept in sorted(found.items())
    }


def _apart(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """The probes that do not count, by reason and measure, and how they come out all the same."""
    reasons = dict.fromkeys(
        (entry["apart"], entry["measure"]) for row in rows for entry in row["probes"]
    )
    found: dict[str, Any] = {}
    for reason, measure in reasons:
        if reason is not None:
            verdicts = by_case(rows, _set_apart(reason, measure))
            found.setdefault(reason, {})[measure] = rate(verdicts, seed).to_mapping()
    return found


def _forced(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """What other frameworks print, by teacher forcing; empty where nothing was rated."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        numbers: dict[str, Any] = {}
        for name in ("token_accuracy", "exact", "prefers", "magnitude", "agreement"):
            values = by_case(rows, _rated(measure, name), _rating(name))
            if any(values):
                numbers[name] = mean(values, seed).to_mapping()
        generated = by_case(rows, _rated(measure, "token_accuracy"))
        if numbers:
            # On the very same probes, so that the two can be compared.
            numbers["generated"] = rate(generated, seed).to_mapping()
            found[measure] = numbers
    return found


def _retainability(sequence: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """By method: what holds after each step, the survey's (12), and what was forgotten."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for line in sequence:
        by_method.setdefault(line["method"], []).append(line)
    found = {}
    for method, lines in by_method.items():
        lines = sorted(lines, key=lambda line: line["step"])
        last = lines[-1]["holds"]
        first_look: dict[str, bool] = {}
        for line in lines:
            for case, holds in line["holds"].items():
                first_look.setdefault(case, holds)
        kept = retained(list(first_look.values()), [last[case] for case in first_look])
        first = next(iter(lines[0]["holds"]), None)
        steps = lines[-1]["step"]
        ends = [bool(lines[0]["holds"].get(first)), bool(last.get(first))]
        found[method] = {
            "steps": [
                {
                    "edits_learned": line["step"],
                    "holds": rate([[v] for v in line["holds"].values()], seed).to_mapping(),
                }
                for line in lines
            ],
            # Only the ends of the sequence of verdicts on the first edit count in (12).
            "equation_12": None
            if first is None or steps < 2
            else round(retainability([ends[0]] + [ends[1]] * (steps - 1)), 6),
            "retained": rate([[v] for v in kept], seed).to_mapping(),
        }
    return found


def _scalability(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By method: accuracy lost from the smallest pool to each larger one, (13) and (14)."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        if result["accuracy"]["rate"] is not None:
            by_method.setdefault(result["method"], []).append(result)
    found: dict[str, Any] = {}
    for method, members in by_method.items():
        ordered = sorted(members, key=lambda result: result["live_edits"])
        alone = ordered[0]
        found[method] = [
            {
                "from_live_edits": alone["live_edits"],
                "to_live_edits": result["live_edits"],
                "absolute": round(
                    scalability(alone["accuracy"]["rate"], result["accuracy"]["rate"]), 4
                ),
                "relative": _rounded(
                    relative_scalability(alone["accuracy"]["rate"], result["accuracy"]["rate"])
                ),
            }
            for result in ordered[1:]
        ]
    return {method: lines for method, lines in found.items() if lines}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
