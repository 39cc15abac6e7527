"""``memedit scope``: how the scope classifier was made, and making it anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memedit.cli.datasets import DataOption
from memedit.cli.options import JsonOption
from memedit.cli.output import print_json, print_table, say

app = typer.Typer(help="The scope classifier: how it was made, and making it anew.")


@app.command("show")
def show(as_json: JsonOption = False) -> None:
    """Say how the shipped weights were made, and what was measured on held-back texts."""
    from memedit.scope import VerifiedScope

    scope = VerifiedScope()
    report = dict(scope.report)
    if as_json:
        print_json({"threshold": scope.threshold, **report})
        return
    say(f"made on {report['date']} by '{report['command']}', seed {report['seed']}")
    say(f"an edit is accepted from probability {scope.threshold:.2f} on")
    rows = [
        (
            world,
            kind,
            str(row["n"]),
            *(str(row.get(name, "")) for name in ("right", "wrong", "missed", "fires")),
        )
        for world, kinds in report["hold"].items()
        for kind, row in kinds.items()
    ]
    columns = ("edits and texts", "kind", "n", "right", "wrong", "missed", "fires")
    print_table("held-back texts", columns, rows)


@app.command("train")
def train(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where the weights are written."),
    ] = Path("verifier"),
    data: DataOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of every random choice.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, show_default=False, help="Of training; 5,000 where it is not said."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the verifier that is in DIR; make only the rest anew."),
    ] = False,
) -> None:
    """Train the scope classifier on the benchmark data: about half an hour on two cores.

    Where it is stopped after the verifier was written, --keep goes on from there.
    """
    from memedit.evaluation.datasets import data_root
    from memedit.training.scope import train as run

    command = f"memedit scope train --seed {seed}" + (f" --steps {steps}" if steps else "")
    made = run(
        data_root(data),
        out,
        seed=seed,
        steps=steps,
        learn_anew=not keep,
        command=command,
        say=say,
    )
    say(f"written to {out}; threshold {made['threshold']}")
