"""How do memedit and its baselines score? Runs ``memedit evaluate`` and keeps the report.

    python benchmarks/evaluate.py run NAME -- counterfact --split dev --limit 500 ...
    python benchmarks/evaluate.py table NAME
    python benchmarks/evaluate.py apart

``run`` writes benchmarks/results/evaluate_NAME.json: the command, the whole report, what things
cost, the machine, the versions and the time it took. A run that was stopped goes on when the same
command is given again: its folder is runs/NAME. ``table`` prints, from that file and with the most
edits live, what other frameworks print beside what is generated, as docs/measures.md shows it.
``apart`` counts the probes that are about another case's live edit, with whole datasets live, and
writes benchmarks/results/apart.json; it asks no model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from setting import head

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

OTHERS = [
    ("accuracy", "token_accuracy", "EasyEdit `rewrite_acc`", "the share of the new target's "
     "tokens that are the most probable ones when the target itself is fed in"),
    ("accuracy", "prefers", "CounterFact efficacy (ES)", "P(new) > P(old), by the mean "
     "log-probability of a token"),
    ("accuracy", "magnitude", "CounterFact magnitude (EM)", "P(new) − P(old)"),
    ("generality", "token_accuracy", "EasyEdit `rephrase_acc`", "as `rewrite_acc`, on a "
     "rephrased prompt"),
    ("generality", "prefers", "CounterFact paraphrase (PS)", "P(new) > P(old) on a rephrased "
     "prompt"),
    ("portability", "token_accuracy", "EasyEdit `portability`", "as `rewrite_acc`, on a prompt "
     "whose answer follows from the edit"),
    ("locality", "agreement", "EasyEdit `locality`", "the share of places at which both models "
     "find the same token most probable when the true answer is fed in"),
    ("locality", "prefers", "CounterFact neighbourhood (NS)", "P(true) > P(new)"),
]  # fmt: skip
"""What others print: our measure, the name in the report, their name, what it computes."""


WHOLE = [
    ("counterfact", "dev"),
    ("counterfact", "all"),
    ("mquake", "all"),
    ("knowedit", "all"),
    ("zsre", "all"),
    ("conflictedit", "coverage"),
    ("roundedit", "all"),
]
"""What ``apart`` looks at."""


def run(name: str, options: Sequence[str]) -> None:
    """Evaluates, and writes the results file."""
    folder = ROOT / "runs" / name
    argv = [sys.executable, "-m", "memedit", "evaluate", *options, "--out", str(folder)]
    started = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    found = {
        **head(
            "How do memedit and its baselines score, and what do they cost?",
            " ".join(["memedit evaluate", *(Path(o).name if "/" in o else o for o in options)]),
        ),
        "seconds": round(time.monotonic() - started, 1),
        "report": json.loads((folder / "report.json").read_text(encoding="utf-8")),
        "timings": json.loads((folder / "timings.json").read_text(encoding="utf-8")),
    }
    text = json.dumps(found, ensure_ascii=False, indent=1) + "\n"
    _file(name).write_text(text, encoding="utf-8")
    print(f"written: {_file(name).relative_to(ROOT)}, after {found['seconds']:.0f} s")


def table(name: str) -> None:
    """Prints theirs and ours, by method, as Markdown."""
    report = json.loads(_file(name).read_text(encoding="utf-8"))["report"]
    print("\n".join(_lines(report)))


def apart() -> None:
    """Counts what the rules of memedit.evaluation.interference set apart in whole datasets."""
    from memedit.evaluation import datasets
    from memedit.evaluation.interference import apart as set_apart

    found = {}
    for name, split in WHOLE:
        cases = datasets.load(name, split).cases
        probes = {case.id: case.probes for case in cases}
        reasons = set_apart(cases)
        counts = Counter(
            f"{probes[case][place].measure}, {probes[case][place].kind}: {reason}"
            for (case, place), reason in reasons.items()
        )
        found[f"{name} {split}"] = {
            "cases": len(cases),
            "cases with a probe apart": len({case for case, _ in reasons}),
            "probes": dict(counts),
        }
        print(f"{name} {split}: {sum(counts.values())} probes apart")
    content = {
        **head(
            "How many probes are about another case's edit when whole datasets are live?",
            "python benchmarks/evaluate.py apart",
        ),
        "datasets": found,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    (RESULTS / "apart.json").write_text(text, encoding="utf-8")


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    largest = max(result["live_edits"] for result in report["results"])
    results = [result for result in report["results"] if result["live_edits"] == largest]
    methods = " | ".join(f"{result['method']}: theirs / ours" for result in results)
    yield f"| theirs | what it computes | ours | {methods} |"
    yield "|---|---|---|" + "---|" * len(results)
    for measure, key, title, meaning in OTHERS:
        cells = []
        for result in results:
            numbers = result["forced"].get(measure, {})
            if key not in numbers:
                break
            theirs = numbers[key]["mean"]
            shown = f"{theirs:.2f}" if key == "magnitude" else f"{100 * theirs:.1f} %"
            cells.append(f"{shown} / {100 * numbers['generated']['rate']:.1f} %")
        else:
            yield f"| {title} | {meaning} | {measure} | {' | '.join(cells)} |"


def _file(name: str) -> Path:
    return RESULTS / f"evaluate_{name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="evaluate, and write the results file")
    running.add_argument("name")
    running.add_argument("options", nargs="+", help="after --, those of memedit evaluate")
    printing = commands.add_parser("table", help="print theirs beside ours, as Markdown")
    printing.add_argument("name")
    commands.add_parser("apart", help="count the probes that are set apart")
    args = parser.parse_args()
    if args.command == "run":
        run(args.name, args.options)
    elif args.command == "table":
        table(args.name)
    else:
        apart()


if __name__ == "__main__":
    main()
