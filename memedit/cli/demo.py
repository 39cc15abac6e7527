"""``memedit demo``: a real model learns facts, forgets them again, and nothing else changes."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from memedit.cli.ask import Asker
from memedit.cli.options import JsonOption
from memedit.cli.output import console, print_json, print_table, say
from memedit.edits import Edit, from_mapping, structured
from memedit.evaluation.matching import took
from memedit.memory import EditMemory
from memedit.models import packaged
from memedit.server.process import ServerProcess

MODEL = "smollm2-135m-instruct"
LISTED_SHARE = 7 / 8
"""Share of the listed edits that must take."""

SAMPLE_SHARE = 0.75
"""Share of the sampled CounterFact edits that must take."""


@dataclass(frozen=True, slots=True)
class Taught:
    """One edit and the answers to its question."""

    statement: str
    ask: str
    target: str
    before: str
    after: str
    reverted: str
    route: str
    took: bool
    restored: bool


@dataclass(frozen=True, slots=True)
class Unrelated:
    """A question that no edit is about, and its answers without and with edits live."""

    ask: str
    kind: str
    before: str
    after: str
    route: str
    equal: bool


@dataclass(frozen=True, slots=True)
class Lesson:
    """An edit to teach, the question that asks for it, and the answers it replaces."""

    edit: Edit
    ask: str
    old: tuple[str, ...]


def demo(
    model: Annotated[
        str, typer.Option(help="A model folder or hub name instead of the packaged model.")
    ] = MODEL,
    sample: Annotated[
        int, typer.Option(min=0, help="How many CounterFact dev edits to try besides.")
    ] = 24,
    seed: Annotated[int, typer.Option(help="Draws the sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Serve a small real model, teach it facts, show before, after and after revert."""
    started = time.monotonic()
    console.quiet = as_json
    listed, unrelated = _listed()
    sampled = _sampled(sample, seed)
    with (
        tempfile.TemporaryDirectory(prefix="memedit-demo-") as folder,
        _server(model, Path(folder)) as (asker, memory),
    ):
        taught, same = _teach(listed, asker, memory, unrelated)
        _show(taught, same)
        drawn: list[Taught] = []
        if sampled:
            drawn, _ = _teach(sampled, asker, memory, ())
            _show_sample(drawn, seed)
    verdicts = _verdicts(taught, same, drawn)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        print_json(
            {
                "edits": [asdict(row) for row in taught],
                "unrelated": [asdict(row) for row in same],
                "sample": [asdict(row) for row in drawn],
                "verdicts": [{"passed": passed, "what": what} for passed, what in verdicts],
                "seconds": seconds,
            }
        )
    for passed, what in verdicts:
        say(f"{'✓' if passed else '✗'} {what}")
    say(f"{seconds:.0f} s")
    if not all(passed for passed, _ in verdicts):
        raise typer.Exit(1)


def _listed() -> tuple[list[Lesson], list[dict[str, str]]]:
    """The committed edits and unrelated questions."""
    data = json.loads(files("memedit.cli").joinpath("demo.json").read_text(encoding="utf-8"))
    lessons = [
        Lesson(from_mapping(row["edit"]), row["ask"], tuple(row["old"])) for row in data["edits"]
    ]
    return lessons, data["unrelated"]


def _sampled(n: int, seed: int) -> list[Lesson]:
    """Edits of CounterFact's dev part, drawn by seed; none where the data is not at hand."""
    file = Path(os.environ.get("MEMEDIT_DATA") or "data") / "counterfact" / "dev.json"
    if not n or not file.exists():
        return []
    rows = random.Random(seed).sample(json.loads(file.read_text(encoding="utf-8")), n)
    return [
        Lesson(
            structured(row["subject"], row["prompt"], row["target_new"]),
            row["prompt"],
            (row["ground_truth"],),
        )
        for row in rows
    ]


@contextmanager
def _server(model: str, folder: Path) -> Iterator[tuple[Asker, EditMemory]]:
    """A server on a memory of its own, and that memory."""
    path = folder / "memory.sqlite3"
    with console.status(f"preparing {model}") as status:
        if model == MODEL:
            packaged(MODEL)
        status.update("starting vLLM")
        server = ServerProcess(
            [model, "--max-model-len", "2048"],
            log=folder / "server.log",
            environ={"MEMEDIT_MEMORY_PATH": str(path)},
            waiting=lambda seconds: status.update(f"starting vLLM ({seconds:.0f} s)"),
        )
        server.__enter__()
    try:
        with EditMemory.open(path) as memory:
            yield Asker(server.url), memory
    finally:
        server.stop()


def _teach(
    lessons: Sequence[Lesson],
    asker: Asker,
    memory: EditMemory,
    unrelated: Sequence[dict[str, str]],
) -> tuple[list[Taught], list[Unrelated]]:
    """Asks, adds all edits, asks again, reverts them all, asks a third time."""
    asks = [lesson.ask for lesson in lessons]
    others = [row["ask"] for row in unrelated]
    before = _answers(asker, "before", [*asks, *others])
    for lesson in lessons:
        memory.add(lesson.edit, author="demo", reason="shows what an edit does")
    after = _answers(asker, "with the edits", [*asks, *others])
    for lesson in lessons:
        memory.revert(lesson.edit.id, author="demo")
    reverted = _answers(asker, "after revert", asks)
    taught = [
        Taught(
            statement=lesson.edit.statement,
            ask=lesson.ask,
            target=lesson.edit.target or "",
            before=old["answer"],
            after=new["answer"],
            reverted=last["answer"],
            route=new["route"],
            took=lesson.edit.id in new["edits"].split(",")
            and took(new["answer"], lesson.edit.target or "", lesson.old),
            restored=last["answer"] == old["answer"],
        )
        for lesson, old, new, last in zip(lessons, before, after, reverted, strict=False)
    ]
    same = [
        Unrelated(
            row["ask"],
            row["kind"],
            old["answer"],
            new["answer"],
            new["route"],
            old["answer"] == new["answer"],
        )
        for row, old, new in zip(unrelated, before[len(asks) :], after[len(asks) :], strict=True)
    ]
    return taught, same


def _answers(asker: Asker, what: str, asks: Sequence[str]) -> list[dict[str, Any]]:
    """One answer after the other: alone in the engine, an answer is the same to the bit."""
    answers = []
    with console.status(what) as status:
        for number, ask in enumerate(asks, 1):
            status.update(f"asking {what}: {number} of {len(asks)}")
            answers.append(asker.ask(ask, max_tokens=32))
    return answers


def _show(taught: Sequence[Taught], same: Sequence[Unrelated]) -> None:
    print_table(
        "facts taught",
        ("taught", "asked", "before", "after", "after revert", ""),
        [
            (
                row.statement,
                row.ask,
                _short(row.before),
                _short(row.after),
                "as before" if row.restored else _short(row.reverted),
                _mark(row.took and row.restored),
            )
            for row in taught
        ],
    )
    print_table(
        "unrelated questions",
        ("asked", "kind", "before", "after", ""),
        [
            (
                row.ask,
                row.kind,
                _short(row.before),
                "equal to the byte" if row.equal else _short(row.after),
                _mark(row.equal),
            )
            for row in same
        ],
    )


def _show_sample(drawn: Sequence[Taught], seed: int) -> None:
    print_table(
        f"{len(drawn)} CounterFact dev edits, all live at once (seed {seed})",
        ("taught", "before", "after", "route", ""),
        [
            (row.statement, _short(row.before), _short(row.after), row.route, _mark(row.took))
            for row in drawn
        ],
    )


def _verdicts(
    taught: Sequence[Taught], same: Sequence[Unrelated], drawn: Sequence[Taught]
) -> list[tuple[bool, str]]:
    """What must hold, and whether it does."""
    takes = sum(row.took for row in taught)
    restored = sum(row.restored for row in (*taught, *drawn))
    equal = sum(row.equal for row in same)
    verdicts = [
        (takes >= LISTED_SHARE * len(taught), f"{takes} of {len(taught)} listed edits take"),
        (
            restored == len(taught) + len(drawn),
            f"{restored} of {len(taught) + len(drawn)} reverts restore the old answer",
        ),
        (equal == len(same), f"{equal} of {len(same)} unrelated answers are equal to the byte"),
    ]
    if drawn:
        takes = sum(row.took for row in drawn)
        passed = takes >= SAMPLE_SHARE * len(drawn)
        verdicts.append((passed, f"{takes} of {len(drawn)} sampled CounterFact edits take"))
    else:
        verdicts.append((True, "no CounterFact sample: set MEMEDIT_DATA to a folder that has it"))
    return verdicts


def _short(text: str, limit: int = 90) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


def _mark(good: bool) -> Text:
    return Text("✓", "green") if good else Text("✗", "red")
