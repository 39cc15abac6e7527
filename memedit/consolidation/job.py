"""One version from beginning to end: choose edits, learn them, check what came of it, write it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memedit.assemble import Parts
from memedit.consolidation.choosing import Choice, chosen
from memedit.consolidation.export import (
    Version,
    fitted,
    read_adapter,
    write_adapter,
    write_checkpoint,
)
from memedit.consolidation.gates import Gates, Probes, measured, memory_answers
from memedit.consolidation.making import Before, make, remove
from memedit.consolidation.versions import MAX_RANK, check_name, published, stored
from memedit.editors.covariance import fingerprint
from memedit.editors.deltas import applied
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.evaluation.runner import alone
from memedit.memory import EditMemory
from memedit.protocols import Editor

Kind = Literal["adapter", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        name: of the new version.
        folder: where versions lie.
        namespace: whose edits.
        editor: learns them.
        gates: what has to be reached.
        choice: which of the edits that the memory answers.
        hits: how many prompts each edit has taken part in.
        batch: edits learned at once; 0 for all.
        kind: what is written.
        max_rank: of an adapter.
        fresh: whether what is published is learned anew, too, instead of being built on.
    """

    name: str
    folder: Path
    namespace: str
    editor: Editor
    gates: Gates = field(default_factory=Gates)
    choice: Choice = field(default_factory=Choice)
    hits: Mapping[str, int] = field(default_factory=dict)
    batch: int = 0
    kind: Kind = "adapter"
    max_rank: int = MAX_RANK
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """The edits of a job.

    Attributes:
        before: what is built on.
        again: what is published and has to be learned anew.
        new: what the memory answers until now.
        left: how many edits stay in the memory, by what keeps them.
        base: the fingerprint of the model that ``before`` was made for; empty where it is none.
    """

    before: Before
    again: tuple[Edit, ...]
    new: tuple[Edit, ...]
    left: Mapping[str, int]
    base: str = ""

    @property
    def edits(self) -> list[Edit]:
        """All that the version is to hold."""
        return [*self.before.edits, *self.again, *self.new]


def planned(job: Job, memory: EditMemory) -> Work:
    """The edits that a job is about.

    Raises:
        InvalidInput: its name is taken or malformed, or there is nothing to learn: no edit is to
            move, and none that is published has to be learned anew.
    """
    check_name(job.name)
    if (job.folder / job.name).exists():
        raise InvalidInput(f"there is a version {job.name} already; give this one another name")
    records = memory.records(job.namespace)
    new, left = chosen(records, job.choice, now=time.time(), hits=job.hits)
    before, base = (Before(), "") if job.fresh else _standing(memory, job.folder, job.namespace)
    known = {edit.id for edit in before.edits}
    held = [record.edit for record in memory.records(job.namespace, ("consolidated",))]
    again = tuple(edit for edit in held if edit.id not in known)
    if not new and not again:
        why = ", ".join(f"{reason}: {count}" for reason, count in left.items()) or "it has none"
        if known:
            why += "; all that is published still stands, and --fresh learns it anew"
        raise InvalidInput(f"no edit of {job.namespace!r} is to move into weights ({why})")
    return Work(before, again, tuple(new), left, base)


def done(
    job: Job,
    work: Work,
    parts: Parts,
    engine: Any,
    probes: Probes,
    progress: Callable[[int, int], None] = lambda done, number: None,
) -> dict[str, Any]:
    """Learns, checks and writes; what was stopped goes on where it was.

    Args:
        job: what is to be done.
        work: its edits.
        parts: the memory route, which locality is judged by.
        engine: the unedited model in this process, its weights at hand.
        probes: what is asked beside the edits.
        progress: told how many edits of how many are learned.

    Returns:
        The manifest of the version.

    Raises:
        InvalidInput: an edit, the editor's settings or the probes will not do, what is built on
            was made for another model, or another process is making a version of this name.
        Unsupported: the model's architecture is not known.
    """
    model, tokenizer = engine.model, engine.tokenizer
    if work.base not in ("", fingerprint(model)):
        raise InvalidInput(
            "the version that is published was made for another model; learn its edits anew with "
            "--fresh, or name the model that it was made for"
        )
    draft = job.folder / f".{job.name}.work"
    with alone(draft, "making a version"):
        deltas = make(
            *(model, tokenizer, job.editor, [*work.again, *work.new], draft),
            before=work.before,
            batch=job.batch,
            progress=progress,
        )
        exported = fitted(deltas, job.max_rank) if job.kind == "adapter" else deltas
        found = measured(
            engine,
            lambda: applied(model, exported),
            work.edits,
            [*work.before.edits, *work.again],
            probes,
            job.gates,
            memory_answers(
                engine, lambda texts: parts.router.decide(texts, job.namespace), parts.routes
            ),
        )
        version = Version(job.name, tuple(work.edits), job.editor.describe(model), found)
        if job.kind == "adapter":
            manifest = write_adapter(job.folder, version, model, deltas, max_rank=job.max_rank)
        else:
            manifest = write_checkpoint(job.folder, version, model, tokenizer, deltas)
        remove(draft)
        return manifest


def _standing(memory: EditMemory, folder: Path, namespace: str) -> tuple[Before, str]:
    """What is published, where it can be built on, and the fingerprint of its model.

    It can where it is one version, and all of its edits that held still stand.
    """
    answering = published(memory, namespace)
    if len(answering) != 1:
        return Before(), ""
    ((name, ids),) = answering.items()
    version = stored(folder, name)
    if sorted(ids) != sorted(edit.id for edit in version.held):
        return Before(), ""
    before = Before(tuple(version.held), tuple(read_adapter(version.folder)))
    return before, str(version.manifest["base"]["fingerprint"])
