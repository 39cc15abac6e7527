"""``memedit grace``: what the engine's codebook is to answer."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from memedit.assemble import open_memory
from memedit.cli.options import (
    ConfigOption,
    JsonOption,
    MemoryOption,
    NamespaceOption,
    configuration,
)
from memedit.cli.output import print_json, say
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.grace.codebook import Codebook
from memedit.models import PACKAGED, packaged

app = typer.Typer(help="Codebooks in vLLM, which answer edits without a word in the prompt.")

_CHUNK = 10
"""Edits that are learned before they are written down."""


@app.callback()
def main() -> None:
    """Codebooks in vLLM, which answer edits without a word in the prompt."""


@app.command("learn")
def learn(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The model that is served: a folder, a hub name or a packaged one.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The codebook; what is in it already is not learned again.",
        ),
    ],
    layer: Annotated[
        int | None,
        typer.Option(
            "--layer", min=0, show_default=False, help="Decoder layer; the fifth from the end."
        ),
    ] = None,
    marked: Annotated[
        bool, typer.Option("--marked", help="Only edits whose route is grace.")
    ] = False,
    namespace: NamespaceOption = None,
    memory: MemoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn the live edits of a namespace into a codebook; seconds an edit on two cores.

    Edits that are no longer live leave it. Edits without a target, those whose route is ike, and
    those whose answer the model does not take up, are left out: they are answered in context.
    Where it is stopped, running it again goes on.
    """
    configured = configuration(memory, namespace, config)
    space = configured.memory.namespace
    with _alone(out):
        with open_memory(configured) as opened:
            records = opened.records(space)
            edits = [r.edit for r in records if r.edit.target is not None and r.edit.route != "ike"]
        folder = str(packaged(model)) if model in PACKAGED else model
        engine = import_module("memedit.adapters.transformers_local").TransformersLocal(folder)
        with engine:
            count = engine.model.config.get_text_config().num_hidden_layers
            wanted = count - 5 if layer is None else layer
            grace = import_module("memedit.adapters.transformers_grace").GraceLocal(engine, wanted)
            notes = {"model": engine.name, "layer": str(wanted), "namespace": space}
            book = _opened(out, grace, notes)
            live = {edit.id for edit in edits}
            gone = [edit_id for edit_id in book.edit_ids if edit_id not in live]
            for edit_id in gone:
                book.remove(edit_id)
            asked = [edit for edit in edits if edit.route == "grace"] if marked else edits
            new = [edit for edit in asked if edit.id not in book.edit_ids]
            failed = _learned(grace, book, edits, new, lambda: book.save(out, notes), as_json)
            book.save(out, notes)
    said: dict[str, Any] = {
        "edits": len(book.edit_ids),
        "learned": len(new) - len(failed),
        "removed": len(gone),
        "not taken up": failed,
        "entries": len(book.entries()),
        "layer": wanted,
    }
    if as_json:
        print_json(said)
    else:
        say(", ".join(f"{name}: {value}" for name, value in said.items()))


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Waits until no other process learns into this file."""
    with out.with_name(f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _opened(path: Path, grace: Any, notes: dict[str, str]) -> Codebook:
    """The codebook of that file, or a new one where there is none."""
    if not path.exists():
        return Codebook(grace.dim, metric=grace.metric())
    book, before = Codebook.load(path)
    if before != notes or book.dim != grace.dim:
        raise InvalidInput(
            f"{path} is for {_told(before)}, not for {_told(notes)}; name another file with --out"
        )
    return book


def _told(notes: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(notes.items()))


def _learned(
    grace: Any, book: Codebook, live: list[Edit], new: list[Edit], keep: Any, quiet: bool
) -> list[str]:
    """Learns edits into a codebook, chunk by chunk; gives the ids of those that did not hold."""
    subjects = [edit.subject for edit in live if edit.subject]
    failed = []
    for start in range(0, len(new), _CHUNK):
        chunk = new[start : start + _CHUNK]
        for lesson, one in grace.lessons(chunk, subjects=subjects, metric=book.metric):
            if one.held:
                book.add(lesson)
            else:
                failed.append(lesson.edit_id)
        keep()
        if not quiet:
            say(f"{start + len(chunk)} of {len(new)}")
    return failed
