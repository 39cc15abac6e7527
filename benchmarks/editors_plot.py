"""Draws what ``benchmarks/editors.py`` has measured.

    python benchmarks/editors_plot.py sequence RESULTS.json PICTURE.svg
    python benchmarks/editors_plot.py tradeoff RESULTS.json PICTURE.svg

``sequence``: what holds of the edits made so far, and what has changed beside, over the number of
edits made one after the other; a panel an editor. ``tradeoff``: the same over an option that
``tune`` has varied; a panel an editor.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, GAP = 250, 200, 52, 58, 58
CURVES = {
    "accuracy": "#1b6ca8",
    "generality": "#66a182",
    "locality": "#d1495b",
    "first_word": "#edae49",
    "perplexity": "#7a4fa3",
}
NAMES = {
    "accuracy": "accuracy",
    "generality": "generality",
    "locality": "locality, ten tokens to the character",
    "first_word": "locality, the first word",
    "perplexity": "perplexity of held-out text, growth in % (at most 100)",
}
OPTIONS = {"memit": "weight", "alphaedit": "penalty"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: a title, what stands at the marks below, and a row of results for each."""

    title: str
    below: str
    marks: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]


def sequences(results: Mapping[str, Any]) -> list[Panel]:
    """Every editor that has been asked after 1, 10, … edits."""
    return [
        Panel(
            row["editor"],
            "edits, one after the other",
            tuple(str(step["after"]) for step in row["steps"]),
            tuple(row["steps"]),
        )
        for row in results["rows"]
        if "steps" in row
    ]


def tradeoffs(results: Mapping[str, Any]) -> list[Panel]:
    """Every editor with more than one value of its option."""
    found = []
    for editor, option in OPTIONS.items():
        rows = [row for row in results["rows"] if row["editor"] == editor]
        rows.sort(key=lambda row: row["settings"][option])
        if len(rows) > 1:
            marks = tuple(f"{row['settings'][option]:g}" for row in rows)
            together = min(int(rows[0]["mode"]), results["limit"])
            title = f"{editor}, {together} edits at once"
            found.append(Panel(title, option, marks, tuple(rows)))
    return found


def height(row: Mapping[str, Any], name: str) -> float:
    """A figure in percent, in [0, 100]."""
    value = 100 * (row[name] - 1) if name == "perplexity" else row[name]["percent"]
    return float(min(max(value, 0.0), 100.0))


def axes(panel: Panel, x0: float) -> list[str]:
    """A panel with its curves."""
    parts = [
        f'<g transform="translate({x0},{TOP})" font-size="11">',
        f'<text x="0" y="-8" font-size="12">{escape(panel.title)}</text>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
    ]
    for i in range(6):
        y = HEIGHT * (1 - i / 5)
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{y:g}" y2="{y:g}" stroke="#eee"/>')
        parts.append(f'<text x="-6" y="{y + 4:g}" text-anchor="end">{20 * i}</text>')
    places = [WIDTH * (i + 0.5) / len(panel.marks) for i in range(len(panel.marks))]
    for x, mark in zip(places, panel.marks, strict=True):
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 15}" text-anchor="middle">{mark}</text>')
    below = escape(panel.below)
    parts.append(f'<text x="{WIDTH / 2:g}" y="{HEIGHT + 32}" text-anchor="middle">{below}</text>')
    for name, colour in CURVES.items():
        points = [
            (x, HEIGHT * (1 - height(row, name) / 100))
            for x, row in zip(places, panel.rows, strict=True)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return [*parts, "</g>"]


def drawn(results: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    """The whole picture as SVG."""
    wide = LEFT + len(panels) * (WIDTH + GAP)
    tall = TOP + HEIGHT + 46 + 16 * len(CURVES)
    title = (
        f"Editors of weights, {results['model']}, CounterFact ({results['split']}, "
        f"{results['limit']} edits), prompts continued greedily, %"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" '
        'font-family="sans-serif">',
        f'<rect width="{wide}" height="{tall}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="13">{escape(title)}</text>',
    ]
    for i, panel in enumerate(panels):
        parts += axes(panel, LEFT + i * (WIDTH + GAP))
    for i, (name, colour) in enumerate(CURVES.items()):
        y = TOP + HEIGHT + 52 + 16 * i
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y - 3}" font-size="11">{NAMES[name]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sequence", "tradeoff"))
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    results = json.loads(given.results.read_text(encoding="utf-8"))
    panels = sequences(results) if given.what == "sequence" else tradeoffs(results)
    if not panels:
        raise SystemExit(f"{given.results} holds nothing to draw as {given.what}")
    given.out.write_text(drawn(results, panels), encoding="utf-8")


if __name__ == "__main__":
    main()
