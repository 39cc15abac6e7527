"""A report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memedit.cli.output import print_table, say


def print_report(report: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
    """The figures of a run, method by method; 95 % intervals in brackets.

    Args:
        report: the content of ``report.json``.
        timings: the content of ``timings.json``.
    """
    results = report["results"]
    print_table(
        "by what was generated",
        ("method", "live edits", "accuracy", "generality", "locality", "portability", "fires"),
        [
            (
                result["method"],
                result["live_edits"],
                *(share(result[name]) for name in _SHOWN),
                share(result["fires_out_of_scope"]),
            )
            for result in results
        ],
    )
    _print_kinds(results)
    _print_apart(results)
    _print_forced(results)
    _print_sequence(report)
    print_table(
        "cost",
        ("method", "prompt tokens", "seconds per edit", "added latency", "n-gram entropy"),
        [
            (
                result["method"],
                number(result["prompt_tokens"]["mean"], 0),
                number(timings.get(result["method"], {}).get("seconds_per_edit"), 4),
                number(timings.get(result["method"], {}).get("added_latency_seconds"), 3),
                number(result["ngram_entropy"]["mean"], 2),
            )
            for result in results
        ],
    )


_SHOWN = ("accuracy", "generality", "locality", "portability")


def share(rate: Mapping[str, Any]) -> str:
    """A rate with its interval in percent, or nothing where nothing was counted."""
    if rate["rate"] is None:
        return ""
    return f"{100 * rate['rate']:.1f} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"


def number(value: float | None, digits: int) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def _print_kinds(results: list[dict[str, Any]]) -> None:
    """Measures with more than one kind, kind by kind."""
    rows = [
        (measure, kind, result["method"], result["live_edits"], rate["n"], share(rate))
        for result in results
        for measure, kinds in result["by_kind"].items()
        if len(kinds) > 1
        for kind, rate in kinds.items()
    ]
    rows += [
        (
            "portability",
            f"{kind}, {which} wording",
            result["method"],
            result["live_edits"],
            rate["n"],
            share(rate),
        )
        for result in results
        for kind, both in result["questions"].items()
        for which, rate in both.items()
    ]
    rows += [
        (
            "portability",
            f"{kind}, every hop",
            result["method"],
            result["live_edits"],
            rate["n"],
            share(rate),
        )
        for result in results
        for kind, rate in result.get("every_hop", {}).items()
    ]
    if rows:
        rows.sort(key=lambda row: row[:2])
        print_table("by kind", ("measure", "kind", "method", "live edits", "n", "rate"), rows)


def _print_apart(results: list[dict[str, Any]]) -> None:
    rows = [
        (reason, measure, result["method"], result["live_edits"], rate["n"], share(rate))
        for result in results
        for reason, measures in result["apart"].items()
        for measure, rate in measures.items()
    ]
    if rows:
        columns = ("reason", "measure", "method", "live edits", "n", "rate")
        print_table("set apart, in none of the rates above", columns, rows)


def _print_forced(results: list[dict[str, Any]]) -> None:
    rows = [
        (
            measure,
            result["method"],
            result["live_edits"],
            numbers["generated"]["n"],
            share(numbers["generated"]),
            *(
                number(numbers.get(name, {}).get("mean"), 3)
                for name in ("token_accuracy", "prefers", "agreement")
            ),
        )
        for result in results
        for measure, numbers in result["forced"].items()
    ]
    if rows:
        columns = ("measure", "method", "live edits", "n", "generated")
        forced = ("tokens", "preferred", "agree")
        print_table("the same probes generated, and by teacher forcing", (*columns, *forced), rows)
        say(
            "tokens: share of the target's tokens predicted; preferred: P(new) > P(old), for "
            "locality P(true) > P(new); agree: tokens predicted as by the unedited model"
        )


def _print_sequence(report: Mapping[str, Any]) -> None:
    rows = [
        (
            method,
            " ".join(f"{s['edits_learned']}: {share(s['holds'])}" for s in found["steps"]),
            share(found["retained"]),
            number(found["equation_12"], 4),
        )
        for method, found in report["retainability"].items()
    ]
    if rows:
        columns = ("method", "holds after so many", "still holds of what held", "equation (12)")
        print_table("retainability", columns, rows)
    for method, lines in report["scalability"].items():
        for line in lines:
            relative = number(line["relative"], 3)
            say(
                f"scalability of {method}, {line['from_live_edits']} to {line['to_live_edits']} "
                f"live edits: loses {line['absolute']:.3f}, relative {relative}"
            )
