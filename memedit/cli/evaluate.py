"""``memedit evaluate``: put editing methods to the test on a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from memedit.assemble import make_encoder
from memedit.cli.options import ConfigOption, JsonOption, configuration
from memedit.cli.output import console, print_json, say
from memedit.cli.report import print_report
from memedit.config import Config
from memedit.errors import InvalidInput, MissingData
from memedit.evaluation import datasets
from memedit.evaluation.methods import METHODS, method_class
from memedit.evaluation.plan import ALL, Plan, Settings, make_plan
from memedit.evaluation.runner import Results, Runner, describe, lines_of, run_folder, write_whole
from memedit.models import PACKAGED, packaged
from memedit.protocols import Engine

DEFAULT_MODEL = "smollm2-135m-instruct"


def evaluate(
    dataset: Annotated[
        str, typer.Argument(help="A dataset, or several divided by commas; see memedit datasets.")
    ],
    split: Annotated[str, typer.Option(help="A part of the dataset.")] = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="How many cases.")] = None,
    method: Annotated[
        str, typer.Option(help=f"Methods, divided by commas: {', '.join(METHODS)}.")
    ] = "none,ike-always,memory",
    pool: Annotated[
        str, typer.Option(help="How many cases' edits are live together: 1,100,all.")
    ] = ALL,
    model: Annotated[
        str, typer.Option(help="A model folder or hub name, or a packaged model.")
    ] = DEFAULT_MODEL,
    engine: Annotated[
        str, typer.Option(help="vllm (in process), transformers, or openai (with --base-url).")
    ] = "vllm",
    base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server; implies --engine openai.")
    ] = None,
    surface: Annotated[
        str, typer.Option(help="chat, text, or auto: chat where the model has a template.")
    ] = "auto",
    data: Annotated[
        Path | None, typer.Option(help="The data folder.", show_default="$MEMEDIT_DATA, ./data")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="A dataset's own file, in its publisher's form.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/DATASET-...")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the cases and the intervals.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 24,
    forced: Annotated[
        int, typer.Option(min=0, help="Cases that are also rated by teacher forcing.")
    ] = 20,
    fluency: Annotated[int, typer.Option(min=0, help="Cases that get an open prompt.")] = 20,
    steps: Annotated[
        int, typer.Option(min=0, help="Looks at the sequence of edits, for retainability.")
    ] = 5,
    latency: Annotated[int, typer.Option(min=0, help="Prompts that are timed one by one.")] = 5,
    batch: Annotated[
        int, typer.Option(min=1, help="Prompts that go to the engine together.")
    ] = 128,
    at_once: Annotated[
        int,
        typer.Option(min=0, help="Edits that an editor of weights takes at a time; 0 for all."),
    ] = 0,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="A text file whose keys editors of weights leave as they are.",
            show_default="text that the model makes itself",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure editing methods by what a model generates, all edits of a pool live at once.

    A run that was stopped goes on when the same command is given again.
    """
    console.quiet = as_json
    settings = Settings(
        methods=_methods(method),
        pools=_pools(pool),
        limit=limit,
        seed=seed,
        max_tokens=max_tokens,
        forced=forced,
        fluency=fluency,
        steps=steps,
        latency=latency,
        batch=batch,
        at_once=at_once,
        corpus=str(corpus or ""),
    )
    loaded = _loaded(dataset.split(","), split, data, path)
    configured = configuration(config=config)
    # Plans first: what is wrong with them is said before a model is loaded.
    for one in loaded.values():
        make_plan(one.cases, settings)
    reports = {}
    with _engine(engine, model, base_url, seed) as made:
        settings = _with_surface(settings, surface, made)
        for name, one in loaded.items():
            folder = _folder(out, name, split, limit, len(loaded))
            reports[name] = _run(name, split, one, settings, made, configured, folder)
    if as_json:
        print_json(reports if len(reports) > 1 else next(iter(reports.values())))


def _run(
    name: str,
    split: str,
    loaded: datasets.Loaded,
    settings: Settings,
    engine: Engine,
    config: Config,
    folder: Path,
) -> dict[str, Any]:
    """One dataset's run; returns its report."""
    from memedit.evaluation.page import render
    from memedit.evaluation.report import summarise

    plan = make_plan(loaded.cases, settings)
    what = describe(_origin(name, split, loaded), plan, settings, engine, config)
    with run_folder(folder, what) as resumed:
        say(f"{name}: {len(plan.cases)} cases, {'resuming' if resumed else 'starting'} in {folder}")
        for reason, count in loaded.skipped.items():
            say(f"  {count} of {loaded.records} records skipped: {reason}")
        try:
            results = _carried_out(plan, settings, engine, config, folder)
        except KeyboardInterrupt:
            say(f"stopped; the same command goes on from here, in {folder}")
            raise
        what = {**what, "methods": results.methods}
        report = summarise(results.rows, results.sequence, what)
        write_whole(folder / "cases.jsonl", lines_of(results.rows))
        write_whole(folder / "sequence.jsonl", lines_of(results.sequence))
        write_whole(folder / "timings.json", json.dumps(results.timings, indent=2) + "\n")
        text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
        write_whole(folder / "report.json", text)
        write_whole(folder / "report.html", render(report, results.rows, results.timings))
    print_report(report, results.timings)
    say(f"written: {folder}/report.html, report.json, cases.jsonl")
    return report


def _carried_out(
    plan: Plan, settings: Settings, engine: Engine, config: Config, folder: Path
) -> Results:
    """The run itself, with its progress shown."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Console(stderr=True, quiet=console.quiet)
    disabled = not shown.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=shown, disable=disabled) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if not shown.is_terminal:  # a log gets a line, where a terminal gets a bar
                shown.print(f"{what}: {done} of {total}")

        return Runner(
            plan,
            settings,
            engine=engine,
            encoder=make_encoder(config),
            config=config,
            folder=folder,
            progress=progress,
        ).run()


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        method_class(name)
    if not names:
        raise InvalidInput(f"name a method: {', '.join(METHODS)}")
    return names


def _pools(text: str) -> tuple[int | str, ...]:
    pools: list[int | str] = []
    for part in (part.strip() for part in text.split(",")):
        if part != ALL and not part.isdecimal():
            raise InvalidInput(f"--pool takes numbers and {ALL!r}, divided by commas; not {part!r}")
        pools.append(part if part == ALL else int(part))
    return tuple(dict.fromkeys(pools))


def _loaded(
    names: Sequence[str], split: str, data: Path | None, path: Path | None
) -> dict[str, datasets.Loaded]:
    """The datasets that are there; what is not there is said, and is an error where nothing is."""
    found: dict[str, datasets.Loaded] = {}
    missing: list[MissingData] = []
    for name in dict.fromkeys(name.strip() for name in names):
        try:
            found[name] = datasets.load(name, split, data=data, path=path)
        except MissingData as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for absent in missing:
        say(f"skipped for lack of data: {absent}")
    return found


def _origin(name: str, split: str, loaded: datasets.Loaded) -> dict[str, Any]:
    """Which data a run is about: told by its content, not by where it lies."""
    content = json.dumps([asdict(case) for case in loaded.cases], ensure_ascii=False)
    return {
        "name": name,
        "split": split,
        "records": loaded.records,
        "cases": len(loaded.cases),
        "skipped": dict(loaded.skipped),
        "left_out": dict(loaded.left_out),
        "sha256": hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16],
    }


@contextmanager
def _engine(kind: str, model: str, base_url: str | None, seed: int) -> Iterator[Engine]:
    make_engine = import_module("memedit.adapters").make_engine
    options: dict[str, Any]
    if base_url is not None:
        kind, options = "openai", {"base_url": base_url}
        if model != DEFAULT_MODEL:
            options["model"] = model
    elif kind == "openai":
        raise InvalidInput("--engine openai needs --base-url, the server's address")
    else:
        place = str(packaged(model)) if model in PACKAGED else model
        options = {"model": place}
        if kind == "vllm":
            options["seed"] = seed
    with console.status(f"loading {model}"):
        made = make_engine(kind, **options)
    try:
        yield made
    finally:
        made.close()


def _with_surface(settings: Settings, surface: str, engine: Engine) -> Settings:
    has_chat = "chat" in engine.capabilities
    if surface not in ("auto", "chat", "text"):
        raise InvalidInput(f"--surface is chat, text or auto, not {surface!r}")
    if surface == "chat" and not has_chat:
        raise InvalidInput(f"{engine.name} has no chat template; use --surface text")
    if surface == "text" or (surface == "auto" and not has_chat):
        return replace(settings, surface="text")
    return replace(settings, surface="chat")


def _folder(out: Path | None, name: str, split: str, limit: int | None, runs: int) -> Path:
    if out is not None:
        return out / name if runs > 1 else out
    parts: Mapping[str, Any] = {"name": name, "split": split, "limit": limit or "all"}
    return Path("runs") / "-".join(str(part) for part in parts.values())
