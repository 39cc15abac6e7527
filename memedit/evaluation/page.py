"""``report.html``: a run for a person to read.

One file that opens from a disk without a network: no script, font, image or style sheet of
anybody else's, and a content policy that allows none. Figures are SVG whose colours come from
the page's style, so that they follow light and dark, and each carries its numbers as text.

What a model said and what an edit states is data. The template escapes every value, and
:func:`visible` shows characters that would change how a line reads. The markup is in page.html.j2.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from memedit.evaluation.report import MEASURES, Entry, Row, counted
from memedit.evaluation.verdicts import (
    BOTH,
    CHANGED,
    ERRORS,
    FIRED,
    IGNORED,
    NOT_EDITED,
    SCOPE_MISSED,
    WRONG_EDIT,
)

EXAMPLES = 5
"""How many cases of a kind of error are shown for each method."""

NOTHING = "–"
"""Stands where nothing was counted."""

MEANINGS = {
    NOT_EDITED: "An edit should change the answer, and the method has no edits to show.",
    SCOPE_MISSED: "An edit should change the answer, and the scope step let none take part.",
    WRONG_EDIT: "An edit should change the answer, and only edits of other facts took part.",
    IGNORED: "The right edit took part, and the answer does not state it.",
    BOTH: "The right edit took part, and the answer states the old fact beside the new one.",
    FIRED: "No edit should change the answer; one took part, and the answer changed.",
    CHANGED: "No edit should change the answer; none took part, and it changed all the same.",
}

_SERIES = 6  # colours in the style; the marks below have another period
_MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.2L5 3.8H-5z",
    "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
    "M0 5.2L5 -3.8H-5z",
)
_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 14, 48
_NEAR = 34  # pixels; labels of an axis that stand closer would run into each other
_BAR = 46  # pixels from one bar to the next

# These join letters in some scripts and in emoji, and change no order.
_JOINERS = "\u200c\u200d"


def render(report: Mapping[str, Any], rows: Sequence[Row], timings: Mapping[str, Any]) -> str:
    """The page of a run; the same input gives the same text.

    Args:
        report: the content of ``report.json``.
        rows: the lines of ``cases.jsonl``.
        timings: the content of ``timings.json``.
    """
    results = report["results"]
    colours = _colours(report)
    page = Environment(
        autoescape=True,
        finalize=_printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    return page.render(
        dataset=report["run"]["dataset"],
        headline=_headline(report["run"]),
        run=_run(report["run"]),
        methods=_methods(report["run"]),
        dropped=_dropped(report["run"]["dataset"]),
        main=_main(results),
        further=_further(results),
        pools=_pools_chart(results, colours),
        tradeoff=_tradeoff_chart(results, colours),
        errors=_errors_chart(results),
        error_table=_error_table(results),
        kinds=_kinds(results),
        apart=_apart(results),
        forced=_forced(results),
        retained_chart=_retained_chart(report["retainability"], colours),
        retained=_retained(report["retainability"]),
        scalability=_scalability(report["scalability"]),
        tokens=_tokens(results),
        seconds=_seconds(timings),
        examples=_examples(rows),
        meanings=MEANINGS,
        marks=_MARKS,
    )


def _headline(run: Mapping[str, Any]) -> str:
    """What was run, in a line."""
    settings, engine = run["settings"], run.get("engine", {})
    return (
        f"{run.get('cases', 0):,} cases, seed {settings['seed']}, asked as {settings['surface']}; "
        f"{engine.get('model', 'a model')} on {engine.get('engine', 'an engine')}; greedy answers "
        f"of at most {settings['max_tokens']} tokens."
    )


def visible(text: str) -> str:
    """Text in which what cannot be seen can: control, bidi and other invisible characters.

    Line breaks and tabs stay, and so do the joiners that some scripts need.
    """
    return "".join(
        f"[U+{ord(char):04X}]" if _hidden(char) else char for char in text.replace("\r\n", "\n")
    )


def _hidden(char: str) -> bool:
    if char.isprintable() or char in "\n\t" or char in _JOINERS:
        return False
    return unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def _printed(value: Any) -> Any:
    """Every value that the template prints comes through here, before it is escaped."""
    if value is None:
        return ""
    # What a macro returns is markup already, and its values have come through here.
    return value if hasattr(value, "__html__") else visible(str(value))


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        note: its interval or size, in small.
    """

    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page.

    Attributes:
        caption: what it shows.
        columns: their heads.
        rows: the cells.
        heads: how many cells at the start of a row say what the row is about.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 2


def _table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], heads: int = 2
) -> Table | None:
    """A table, or ``None`` where it has no rows."""
    cells = tuple(
        tuple(cell if isinstance(cell, Cell) else Cell(_text(cell)) for cell in row) for row in rows
    )
    return Table(caption, tuple(columns), cells, heads) if cells else None


def _text(value: Any) -> str:
    """A value of JSON as a person reads it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(one) for one in value) or NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _share(rate: Mapping[str, Any]) -> Cell:
    """A rate in percent, with its interval and what it counts."""
    if rate["rate"] is None:
        return Cell(NOTHING)
    low, high = 100 * rate["low"], 100 * rate["high"]
    return Cell(f"{100 * rate['rate']:.1f} %", f"[{low:.1f}, {high:.1f}] n = {rate['n']:,}")


def _mean(found: Mapping[str, Any] | None, digits: int) -> Cell:
    """A mean with its interval."""
    if found is None or found["mean"] is None:
        return Cell(NOTHING)
    ends = f"[{found['low']:,.{digits}f}, {found['high']:,.{digits}f}] n = {found['n']:,}"
    return Cell(f"{found['mean']:,.{digits}f}", ends)


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON object under their dotted names."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{at}.{name}" if at else str(name))
    elif at:
        yield at, value if not isinstance(value, Mapping) else None


def _run(run: Mapping[str, Any]) -> Table | None:
    """What was run."""
    dataset, settings, engine = run["dataset"], run["settings"], run.get("engine", {})
    always = run.get("methods", {}).get("ike-always", {}).get("demonstrations")
    versions = engine.get("versions", {})
    rows: list[tuple[str, Any]] = [
        ("dataset", dataset.get("name")),
        ("split", dataset.get("split")),
        ("records in the file", dataset.get("records")),
        ("cases that could be read", dataset.get("cases")),
        ("cases evaluated", run.get("cases")),
        ("data, by content", dataset.get("sha256")),
        ("seed", settings.get("seed")),
        ("model", engine.get("model")),
        ("engine", engine.get("engine")),
        ("versions", [f"{name} {version}" for name, version in versions.items()]),
        ("surface", settings.get("surface")),
        ("methods", settings.get("methods")),
        ("pools", settings.get("pools")),
        ("longest answer, tokens", settings.get("max_tokens")),
    ]
    if always is not None:
        rows.append(("k of ike-always, demonstrations", always))
    told = {"engine", "model", "versions"}
    rows += [(f"engine: {name}", value) for name, value in engine.items() if name not in told]
    rows.append(("memedit", run.get("memedit")))
    return _table("What was run", ("what", "value"), rows, 1)


def _methods(run: Mapping[str, Any]) -> Table | None:
    rows = [
        (method, name, value)
        for method, settings in run.get("methods", {}).items()
        for name, value in (list(_flat(settings)) or [("no settings", "")])
    ]
    return _table("Methods and their settings", ("method", "setting", "value"), rows)


def _dropped(dataset: Mapping[str, Any]) -> Table | None:
    rows = [
        (what, reason, count)
        for what, name in (("record skipped", "skipped"), ("probe left out", "left_out"))
        for reason, count in dataset.get(name, {}).items()
    ]
    return _table("Left out of the dataset", ("what", "reason", "how many"), rows)


def _who(result: Mapping[str, Any]) -> tuple[str, str, str]:
    return result["method"], str(result["pool"]), f"{result['live_edits']:,}"


_WHO = ("method", "pool", "live edits")


def _main(results: Sequence[Mapping[str, Any]]) -> Table | None:
    columns = (*_WHO, "cases", *MEASURES, "fires out of scope")
    shown = (*MEASURES, "fires_out_of_scope")
    rows = [(*_who(one), one["cases"], *(_share(one[name]) for name in shown)) for one in results]
    return _table("By what was generated; 95 % intervals", columns, rows)


def _further(results: Sequence[Mapping[str, Any]]) -> Table | None:
    columns = (*_WHO, "right edit took part", "leaks out of scope", "empty answers", "n-gram bits")
    rows = [
        (
            *_who(one),
            _share(one["right_edit"]),
            _share(one["leaks"]),
            one["empty_outputs"],
            _mean(one["ngram_entropy"], 2),
        )
        for one in results
    ]
    return _table("Behind those figures", columns, rows)


def _error_table(results: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [(*_who(one), *(one["errors"].get(kind, 0) for kind in ERRORS)) for one in results]
    return _table("Kinds of error, in probes", (*_WHO, *ERRORS), rows)


def _kinds(results: Sequence[Mapping[str, Any]]) -> Table | None:
    rows: list[Sequence[Any]] = [
        (measure, kind, *_who(one), _share(rate))
        for one in results
        for measure, kinds in one["by_kind"].items()
        for kind, rate in kinds.items()
    ]
    rows += [
        ("portability", f"{kind}, {which} wording", *_who(one), _share(rate))
        for one in results
        for kind, both in one["questions"].items()
        for which, rate in both.items()
    ]
    rows += [
        ("portability", f"{kind}, every hop", *_who(one), _share(rate))
        for one in results
        for kind, rate in one.get("every_hop", {}).items()
    ]
    rows.sort(key=lambda row: (MEASURES.index(row[0]), row[1]))
    return _table("By kind of probe", ("measure", "kind", *_WHO, "rate"), rows)


def _apart(results: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        (reason, measure, *_who(one), rate["n"], _share(rate))
        for one in results
        for reason, measures in one["apart"].items()
        for measure, rate in measures.items()
    ]
    columns = ("reason", "measure", *_WHO, "probes", "rate, all the same")
    return _table("Set apart: in none of the rates elsewhere on this page", columns, rows)


_FORCED = ("token_accuracy", "exact", "prefers", "magnitude", "agreement")


def _forced(results: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        (
            measure,
            *_who(one),
            _share(numbers["generated"]),
            *(_mean(numbers.get(name), 3) for name in _FORCED),
        )
        for one in results
        for measure, numbers in one["forced"].items()
    ]
    heads = ("generated", "tokens", "all tokens", "preferred", "magnitude", "agree")
    return _table(
        "The same probes, generated and by teacher forcing", ("measure", *_WHO, *heads), rows
    )


def _retained(found: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            method,
            one["steps"][-1]["edits_learned"],
            _share(one["steps"][-1]["holds"]),
            _share(one["retained"]),
            _number(one["equation_12"], 6),
        )
        for method, one in found.items()
        if one["steps"]
    ]
    columns = ("method", "edits learned", "hold then", "still hold of what held", "equation (12)")
    return _table("Retainability", columns, rows, 1)


def _scalability(found: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            method,
            line["from_live_edits"],
            line["to_live_edits"],
            _number(line["absolute"], 4),
            _number(line["relative"], 4),
        )
        for method, lines in found.items()
        for line in lines
    ]
    columns = ("method", "from live edits", "to live edits", "lost, (13)", "share lost, (14)")
    return _table("Scalability: accuracy lost as more edits are live", columns, rows, 1)


def _tokens(results: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [(*_who(one), _mean(one["prompt_tokens"], 1)) for one in results]
    return _table("Tokens of a prompt in scope, as sent", (*_WHO, "prompt tokens"), rows)


def _seconds(timings: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            method,
            one.get("edits_learned"),
            _number(one.get("seconds_per_edit"), 6),
            _number(one.get("latency_median_seconds"), 4),
            _number(one.get("added_latency_seconds"), 4),
            one.get("prompts_asked"),
            _number(one.get("engine_seconds"), 1),
        )
        for method, one in timings.items()
    ]
    columns = (
        *("method", "edits learned", "seconds per edit", "one answer, median s"),
        *("added latency, s", "prompts asked", "engine, s"),
    )
    return _table("Seconds, on the machine of the run", columns, rows, 1)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a figure, in pixels.

    Attributes:
        x, y: where it is.
        bars: its intervals, as the path of their lines.
        label: written beside it.
        says: the same in words.
    """

    x: str
    y: str
    bars: str
    label: str
    says: str


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one method.

    Attributes:
        name: the method.
        colour, mark: their places in the page's style and in the list of marks.
        line: the path that joins the points; empty where nothing does.
        points: in the order of x.
    """

    name: str
    colour: int
    mark: int
    line: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with two axes, in pixels."""

    id: str
    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[str, str], ...]
    y_ticks: tuple[tuple[str, str], ...]
    series: tuple[Series, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


Scale = Callable[[float], float]


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    """From data to pixels; one value alone stands in the middle."""
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _log(low: float, high: float, start: float, end: float) -> Scale:
    inner = _linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(value))


_X_ENDS = (_LEFT + 24.0, _WIDTH - _RIGHT - 24.0)
_Y_ENDS = (_HEIGHT - _BOTTOM - 6.0, _TOP + 6.0)
_PERCENT = tuple(range(0, 101, 20))


def _px(value: float) -> str:
    return f"{value:.1f}"


def _ticks(values: Iterable[float], scale: Scale, unit: str = "") -> tuple[tuple[str, str], ...]:
    """Pixels and labels; a value too close to the one before it goes without a label."""
    ticks: list[tuple[str, str]] = []
    last = -math.inf
    for value in sorted(set(values)):
        place = scale(value)
        if abs(place - last) >= _NEAR:
            ticks.append((_px(place), f"{value:,}{unit}"))
            last = place
    return tuple(ticks)


def _colours(report: Mapping[str, Any]) -> dict[str, int]:
    """A number for each method, the same in every figure."""
    names = [*(one["method"] for one in report["results"]), *report["retainability"]]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _joined(
    lines: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]],
    colours: Mapping[str, int],
    scale: Scale,
    what: str,
) -> tuple[Series, ...]:
    """One line per method through its rates; methods stand a little aside of each other."""
    up = _linear(0, 1, *_Y_ENDS)
    found = []
    for place, (method, pairs) in enumerate(lines.items()):
        aside = 5.0 * (place - (len(lines) - 1) / 2)
        points = []
        for value, rate in sorted(pairs, key=lambda pair: pair[0]):
            x, y = scale(value) + aside, up(rate["rate"])
            bars = f"M{_px(x)} {_px(up(rate['low']))}V{_px(up(rate['high']))}"
            cell = _share(rate)
            says = f"{method}, {value:,} {what}: {cell.text} {cell.note}"
            points.append(Point(_px(x), _px(y), bars, "", says))
        line = "M" + "L".join(f"{point.x} {point.y}" for point in points)
        found.append(_series(method, colours, line, points))
    return tuple(found)


def _series(method: str, colours: Mapping[str, int], line: str, points: Sequence[Point]) -> Series:
    colour = colours[method]
    return Series(method, colour % _SERIES, colour % len(_MARKS), line, tuple(points))


def _line_chart(
    name: str,
    title: str,
    labels: tuple[str, str, str],
    lines: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]],
    colours: Mapping[str, int],
    form: Callable[[float, float, float, float], Scale],
) -> Chart | None:
    """Rates against a number; ``None`` where the number does not vary."""
    values = [value for pairs in lines.values() for value, _ in pairs]
    if len(set(values)) < 2:
        return None
    scale = form(min(values), max(values), *_X_ENDS)
    x_label, y_label, what = labels
    return Chart(
        name,
        title,
        x_label,
        y_label,
        _ticks(values, scale),
        _ticks(_PERCENT, _linear(0, 100, *_Y_ENDS), " %"),
        _joined({method: pairs for method, pairs in lines.items() if pairs}, colours, scale, what),
    )


def _pools_chart(results: Sequence[Mapping[str, Any]], colours: Mapping[str, int]) -> Chart | None:
    lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for one in results:
        if one["accuracy"]["rate"] is not None and one["live_edits"] > 0:
            lines.setdefault(one["method"], []).append((one["live_edits"], one["accuracy"]))
    return _line_chart(
        "figure-pools",
        "Accuracy against pool size",
        ("live edits (logarithmic)", "accuracy", "live edits"),
        lines,
        colours,
        _log,
    )


def _retained_chart(found: Mapping[str, Any], colours: Mapping[str, int]) -> Chart | None:
    lines = {
        method: [
            (step["edits_learned"], step["holds"])
            for step in one["steps"]
            if step["holds"]["rate"] is not None
        ]
        for method, one in found.items()
    }
    return _line_chart(
        "figure-retained",
        "Share of the edits that hold against edits learned",
        ("edits learned", "share that holds", "edits learned"),
        lines,
        colours,
        _linear,
    )


def _tradeoff_chart(
    results: Sequence[Mapping[str, Any]], colours: Mapping[str, int]
) -> Chart | None:
    """Locality against generality, a point per method and pool, its intervals as a cross."""
    across, up = _linear(0, 1, *_X_ENDS), _linear(0, 1, *_Y_ENDS)
    by_method: dict[str, dict[tuple[str, str], Point]] = {}
    for one in results:
        wide, high = one["generality"], one["locality"]
        if wide["rate"] is None or high["rate"] is None:
            continue
        x, y = _px(across(wide["rate"])), _px(up(high["rate"]))
        bars = f"M{_px(across(wide['low']))} {y}H{_px(across(wide['high']))}"
        bars += f"M{x} {_px(up(high['low']))}V{_px(up(high['high']))}"
        says = (
            f"{one['method']}, pool {one['pool']}: generality {_share(wide).text} "
            f"{_share(wide).note}, locality {_share(high).text} {_share(high).note}"
        )
        points = by_method.setdefault(one["method"], {})
        # Pools that come out alike are one point with both names.
        same = points.get((x, y))
        label = f"{same.label}, {one['pool']}" if same else str(one["pool"])
        told = f"{same.says}. {says}" if same else says
        points[x, y] = Point(x, y, same.bars + bars if same else bars, label, told)
    if not by_method:
        return None
    return Chart(
        "figure-tradeoff",
        "Locality against generality",
        "generality",
        "locality",
        _ticks(_PERCENT, _linear(0, 100, *_X_ENDS), " %"),
        _ticks(_PERCENT, _linear(0, 100, *_Y_ENDS), " %"),
        tuple(
            _series(method, colours, "", list(points.values()))
            for method, points in by_method.items()
        ),
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: one kind of error."""

    colour: int
    x: str
    width: str
    middle: str
    text: str
    says: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One method in one pool; ``y`` is the top of its label."""

    label: str
    y: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """A figure of stacked bars."""

    id: str
    title: str
    height: int
    bars: tuple[Bar, ...]
    legend: tuple[tuple[int, str], ...]
    width: int = _WIDTH


def _errors_chart(results: Sequence[Mapping[str, Any]]) -> Bars | None:
    """Kinds of error, a stacked bar per method and pool; ``None`` where there is no error."""
    most = max((sum(one["errors"].values()) for one in results), default=0)
    if most == 0:
        return None
    scale = _linear(0, most, 0, _WIDTH)
    bars = []
    for place, one in enumerate(results):
        who = f"{one['method']}, pool {one['pool']}"
        total, segments = 0, []
        for colour, kind in enumerate(ERRORS):
            count = one["errors"].get(kind, 0)
            if count:
                start, end = scale(total), scale(total + count)
                segments.append(
                    Segment(
                        colour,
                        _px(start),
                        _px(end - start),
                        _px((start + end) / 2),
                        f"{count:,}" if end - start > 9 * len(f"{count:,}") + 4 else "",
                        f"{who}: {kind}, {count:,}",
                    )
                )
                total += count
        bars.append(Bar(f"{who}: {total:,}", place * _BAR, tuple(segments)))
    seen = {kind for one in results for kind, count in one["errors"].items() if count}
    legend = tuple((colour, kind) for colour, kind in enumerate(ERRORS) if kind in seen)
    title = "Kinds of error, in probes, by method and pool"
    return Bars("figure-errors", title, len(bars) * _BAR, tuple(bars), legend)


@dataclass(frozen=True, slots=True)
class Example:
    """A probe that failed, whole.

    Attributes:
        row: its case under its method and pool.
        entry: its verdict.
        turns: the prompt as sent, by role; one turn without a role where it was a text.
        used: the edits that took part, as they read.
        scope: the probability that the scope step gave.
    """

    row: Row
    entry: Entry
    turns: tuple[tuple[str, str], ...]
    used: tuple[str, ...]
    scope: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """The examples of one kind of error under one method, and of how many they are the first."""

    method: str
    total: int
    examples: tuple[Example, ...]


def _examples(rows: Sequence[Row]) -> dict[str, list[Sheet]]:
    """By kind of error: the first failing probes of each method, those of larger pools first.

    A probe that fails in several pools is shown once. "Not edited" has nothing to show.
    """
    facts = {
        edit_id: fact
        for row in rows
        for edit_id, fact in zip(row["ids"], row["facts"], strict=True)
    }
    found: dict[str, dict[str, dict[tuple[str, int], tuple[Row, Entry]]]] = {}
    for row in sorted(rows, key=lambda row: -row["live_edits"]):
        for place, entry in enumerate(row["probes"]):
            if counted(entry) and entry["error"]:
                of_method = found.setdefault(entry["error"], {}).setdefault(row["method"], {})
                of_method.setdefault((row["case"], place), (row, entry))
    order = list(dict.fromkeys(row["method"] for row in rows))
    return {
        kind: [
            Sheet(
                method,
                len(found[kind][method]),
                tuple(
                    _example(row, entry, facts)
                    for row, entry in list(found[kind][method].values())[:EXAMPLES]
                ),
            )
            for method in order
            if method in found[kind]
        ]
        for kind in ERRORS
        if kind != NOT_EDITED and kind in found
    }


def _example(row: Row, entry: Entry, facts: Mapping[str, str]) -> Example:
    sent = entry["sent"]
    turns = [("", sent)] if isinstance(sent, str) else [(m["role"], m["content"]) for m in sent]
    return Example(
        row,
        entry,
        tuple((role, _content(content)) for role, content in turns),
        tuple(
            f"{facts[edit_id]} ({edit_id})" if edit_id in facts else edit_id
            for edit_id in entry["edits"]
        ),
        "the method has no scope step" if entry["scope"] is None else f"{entry['scope']:.4f}",
    )


def _content(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
