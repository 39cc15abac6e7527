"""``memedit compare``: runs side by side, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from memedit.cli.options import JsonOption
from memedit.cli.output import print_json, print_table, say
from memedit.cli.report import share


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished evaluations.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Hold each run's other methods against this one of its own, instead of each "
            "method against the first run's.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put runs of one dataset side by side, with paired differences on the cases they share."""
    from memedit.evaluation import compare as comparison

    found = comparison.compare(comparison.load_runs(runs), against)
    if as_json:
        print_json(found)
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in found["cases"].items())
    say(f"{found['dataset']}: {counts} cases; {found['shared_cases']:,} are in every run")
    _print_settings(found)
    _print_rates(found)
    _print_differences(found)
    for side in found["unpaired"]:
        say(f"held against nothing: {side['method']} in pool {side['pool']} of {side['run']}")


_MEASURES = ("accuracy", "generality", "locality", "portability")


def _print_settings(found: Mapping[str, Any]) -> None:
    names = list(found["cases"])
    if len(names) < 2:
        return
    if not found["settings"]:
        say("nothing differs in what the runs were asked to do")
        return
    rows = [
        (line["name"], *(_text(line["values"][name]) for name in names))
        for line in found["settings"]
    ]
    print_table("what differs in the settings", ("setting", *names), rows)


def _print_rates(found: Mapping[str, Any]) -> None:
    rows = [
        (
            *(line[name] for name in ("run", "method", "pool", "live_edits", "cases")),
            *(share(line[name]) for name in (*_MEASURES, "fires_out_of_scope")),
        )
        for line in found["rates"]
    ]
    columns = ("run", "method", "pool", "live edits", "cases", *_MEASURES, "fires")
    print_table("each run on its own cases, in percent", columns, rows)


def _print_differences(found: Mapping[str, Any]) -> None:
    rows = [
        (
            line["measure"].replace("_", " "),
            line["second"]["pool"],
            _side(line["first"]),
            _side(line["second"]),
            line["shared_cases"],
            line["probes"],
            _points(line),
            line["only_first"],
            line["only_second"],
        )
        for line in found["differences"]
    ]
    columns = ("measure", "pool", "first", "second", "cases", "probes", "second less first")
    title = "paired differences, in percentage points, on the cases that both have"
    print_table(title, (*columns, "only first", "only second"), rows)
    say(
        "only first, only second: probes that the one side gets right and the other wrong; of "
        "fires out of scope, probes on which only that side fires"
    )


def _side(side: Mapping[str, Any]) -> str:
    return f"{side['method']} of {side['run']}, {side['live_edits']:,} live"


def _points(line: Mapping[str, Any]) -> str:
    """A difference with its interval, in percentage points."""
    low, high = 100 * line["low"], 100 * line["high"]
    return f"{100 * line['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
