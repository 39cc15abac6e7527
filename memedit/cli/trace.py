"""``memedit trace``: which layers of a model carry facts."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from memedit.cli.evaluate import DEFAULT_MODEL
from memedit.cli.options import JsonOption
from memedit.cli.output import console, print_json, print_table, say
from memedit.errors import InvalidInput
from memedit.evaluation import datasets
from memedit.evaluation.plan import Settings, make_plan
from memedit.evaluation.runner import write_whole
from memedit.models import PACKAGED, packaged


def trace(
    dataset: Annotated[str, typer.Argument(help="A dataset; see memedit datasets.")],
    split: Annotated[str, typer.Option(help="A part of the dataset.")] = "all",
    limit: Annotated[int, typer.Option(min=1, help="How many facts.")] = 20,
    model: Annotated[
        str, typer.Option(help="A model folder or hub name, or a packaged model.")
    ] = DEFAULT_MODEL,
    data: Annotated[
        Path | None, typer.Option(help="The data folder.", show_default="$MEMEDIT_DATA, ./data")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="A dataset's own file, in its publisher's form.")
    ] = None,
    any_fact: Annotated[
        bool,
        typer.Option("--any/--known", help="Any fact, or those whose old answer the model gives."),
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="Draws of the noise for each fact.")] = 4,
    seed: Annotated[int, typer.Option(help="Draws the facts and the noise.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Write the plot there, as SVG.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the layers to edit by causal tracing: blur a subject, put one state back, compare."""
    from memedit.editors.tracing import chart, known
    from memedit.editors.tracing import trace as traced

    loaded = datasets.load(dataset, split, data=data, path=path)
    plan = make_plan(loaded.cases, Settings(limit=None, seed=seed))
    edits = [edit for case in plan.cases for edit in case.edits if not edit.missing_for_weights]
    if not edits:
        raise InvalidInput(f"no edit of {dataset} has a subject and a prompt; take another dataset")
    console.quiet = as_json
    with console.status(f"loading {model}") as status:
        place = str(packaged(model)) if model in PACKAGED else model
        make_engine = import_module("memedit.adapters").make_engine
        engine = make_engine("transformers", model=place, dtype="float32")
        if not any_fact:
            status.update(f"looking for {limit} facts that the model knows")
            edits = list(islice(known(engine.model, engine.tokenizer, edits), limit))
        if not edits:
            raise InvalidInput(f"the model gives no old answer of {dataset}; take --any")
        found = traced(
            engine.model,
            engine.tokenizer,
            edits[:limit],
            samples=samples,
            seed=seed,
            progress=lambda done, number: status.update(f"{done} of {number} facts"),
        )
    if plot is not None:
        write_whole(plot, chart(found, engine.name))
    if as_json:
        print_json({"model": engine.name, **asdict(found), "best": found.best})
        return
    say(
        f"{found.facts} facts; the answer's probability is {found.clean:.3f}, and "
        f"{found.blurred:.3f} with the subject blurred"
    )
    print_table(
        "what is gained when states are put back at the subject's last token",
        ("layer", "one layer", f"MLPs of {found.window}", f"attentions of {found.window}"),
        [
            (n, *(f"{found.effects[kind]['subject'][n]:+.3f}" for kind in found.effects))
            for n in range(len(found.effects["mlp"]["subject"]))
        ],
    )
    say(f"MLPs give back most around layer {found.best}")
    if plot is not None:
        say(f"written: {plot}")
