"""``memedit multihop``: how a question is divided, and training what divides it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memedit.cli.datasets import DataOption
from memedit.cli.options import JsonOption
from memedit.cli.output import print_json, print_table, say

app = typer.Typer(help="Multi-hop questions: how they are read, and training what reads them.")


@app.command("read")
def read(
    question: Annotated[str, typer.Argument(help="A question.")], as_json: JsonOption = False
) -> None:
    """Say how a question is divided into hops, the likeliest reading first."""
    from memedit.multihop.decompose import shipped
    from memedit.multihop.relations import relation_of

    readings = shipped().read([question])[0]
    if as_json:
        print_json(
            [
                {"start": one.start, "relations": one.relations, "probability": one.probability}
                for one in readings
            ]
        )
        return
    if not readings:
        say("the question names nobody that it could start from")
        return
    rows = []
    for reading in readings:
        asked = [relation_of(name).question("…") for name in reading.relations[1:]]
        first = relation_of(reading.relations[0]).question(reading.start)
        rows.append((f"{reading.probability:.3f}", " → ".join((first, *asked))))
    print_table("readings", ("probability", "hops"), rows)


@app.command("train")
def train(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the weights are written.")
    ] = Path("weights"),
    data: DataOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of every random choice.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of training.")] = 3_000,
) -> None:
    """Train the decomposer on our own words and a part of MQuAKE: some minutes on two cores."""
    from memedit.evaluation.datasets import data_root
    from memedit.training.multihop import train as run

    made = run(
        data_root(data),
        out,
        seed=seed,
        steps=steps,
        command=f"memedit multihop train --seed {seed} --steps {steps}",
        say=say,
    )
    say(f"written to {out}")
    print_json(made)
