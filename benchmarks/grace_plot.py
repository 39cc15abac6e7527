"""Draws what ``benchmarks/grace_keys.py`` has measured.

    python benchmarks/grace_plot.py RESULTS.json PICTURE.svg

How many rephrases fire their own edit, against how many prompts fire that should not, over all
radii: people's questions, prompts about other subjects, and, where they were asked, other prompts
about the same subject.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 260, 52, 34, 70
MOST = {"questions": 10.0, "neighbours": 60.0, "same subject": 100.0}
PALETTE = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#7a4fa3", "#8d8d8d", "#2e4057", "#b56576")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: where it is in the results, and what it is called."""

    form: str
    layer: int
    keys: str
    rule: str

    @property
    def name(self) -> str:
        """For the legend."""
        return f"{self.form}, layer {self.layer}, {self.keys}, {self.rule}"


def lines(results: dict[str, Any], layer: int, lower: tuple[int, ...]) -> list[Line]:
    """The chosen layer in all its forms, and lower layers in the chosen form."""
    sweeps = results["forms"]["chat"][str(layer)]["sweeps"]
    most = max(int(name.split()[0]) for name in sweeps)
    many = f"{most} keys, fitted"
    found = [
        Line("chat", layer, many, "measured"),
        Line("chat", layer, many, "constant"),
        Line("chat", layer, f"{most} keys, plain", "measured"),
        Line("chat", layer, "1 keys, fitted", "measured"),
        *(Line("chat", other, many, "measured") for other in lower),
    ]
    if "text" in results["forms"]:
        found.append(Line("text", layer, many, "measured"))
    return found


def curve(results: dict[str, Any], line: Line, kind: str) -> list[tuple[float, float]]:
    """Points by how many of a kind fire; at each the most rephrases up to there."""
    sweep = results["forms"][line.form][str(line.layer)]["sweeps"][line.keys][line.rule]
    points = sorted((one[kind], one["rephrases, own"]) for one in sweep)
    best, found = 0.0, [(0.0, 0.0)]
    for x, y in points:
        best = max(best, y)
        found.append((min(x, MOST[kind]), best))
        if x >= MOST[kind]:
            break
    return found


def panel(results: dict[str, Any], kind: str, shown: list[Line], x0: float) -> list[str]:
    """One set of axes with its curves."""
    parts = [f'<g transform="translate({x0},{TOP})" font-size="11">']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>')
    for i in range(6):
        x, y = WIDTH * i / 5, HEIGHT * (1 - i / 5)
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#eee"/>')
        parts.append(f'<text x="-6" y="{y + 4}" text-anchor="end">{20 * i}</text>')
        mark = f"{MOST[kind] * i / 5:g}"
        parts.append(f'<text x="{x}" y="{HEIGHT + 15}" text-anchor="middle">{mark}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 32}" text-anchor="middle">{kind} that fire, %</text>'
    )
    parts.append(
        f'<text transform="translate(-36,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "rephrases that fire their own edit, %</text>"
    )
    for line, colour in zip(shown, PALETTE, strict=False):
        points = " ".join(
            f"{x / MOST[kind] * WIDTH:.1f},{HEIGHT * (1 - y / 100):.1f}"
            for x, y in curve(results, line, kind)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return [*parts, "</g>"]


def drawn(results: dict[str, Any], shown: list[Line]) -> str:
    """The whole picture as SVG."""
    (sweep, *_) = results["forms"]["chat"][str(shown[0].layer)]["sweeps"].values()
    kinds = [kind for kind in MOST if kind in sweep["measured"][0]]
    width = LEFT + len(kinds) * (WIDTH + GAP)
    height = TOP + HEIGHT + 46 + 16 * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="13">GRACE keys, {escape(results["model"])}, '
        f"{results['n']} CounterFact edits ({results['split']}): rephrases found against prompts "
        "that fire in error</text>",
    ]
    for i, kind in enumerate(kinds):
        parts += panel(results, kind, shown, LEFT + i * (WIDTH + GAP))
    for i, (line, colour) in enumerate(zip(shown, PALETTE, strict=False)):
        y = TOP + HEIGHT + 50 + 16 * i
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y - 3}" font-size="11">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--lower", type=int, nargs="*", default=[22, 14])
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    shown = lines(results, given.layer, tuple(given.lower))
    given.out.write_text(drawn(results, shown))


if __name__ == "__main__":
    main()
