"""An editor over many edits: in batches, each kept on disk, so that what was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.editors.covariance import fingerprint
from memedit.editors.deltas import applied
from memedit.edits import Edit
from memedit.protocols import Editor, WeightDelta

_PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Before:
    """What the weights hold already.

    Attributes:
        edits: in the order in which they were learned.
        deltas: theirs.
    """

    edits: tuple[Edit, ...] = ()
    deltas: tuple[WeightDelta, ...] = ()


def make(
    model: Any,
    tokenizer: Any,
    editor: Editor,
    edits: Sequence[Edit],
    work: Path,
    *,
    before: Before | None = None,
    batch: int = 0,
    progress: Callable[[int, int], None] = lambda done, number: None,
) -> list[WeightDelta]:
    """The deltas of edits, learned batch by batch, each on the weights that the one before left.

    Args:
        model: the unedited model; it stays as it is.
        tokenizer: its tokenizer.
        editor: makes the deltas.
        edits: at least one, each with subject, prompt and target.
        work: a folder for the batches that are done. Where it holds those of the same model,
            editor and edits, they are not made again; whatever else it holds is removed.
        before: what the weights hold already.
        batch: edits that are learned at once; 0 for all.
        progress: told after each batch how many edits of how many are done.

    Returns:
        Those of ``before`` first.

    Raises:
        InvalidInput: as :meth:`memedit.protocols.Editor.deltas`.
    """
    before = before or Before()
    size = batch or len(edits)
    _opened(work, _key(model, editor, before, edits, size))
    deltas, learned = list(before.deltas), list(before.edits)
    for start in range(0, len(edits), size):
        chunk = edits[start : start + size]
        file = work / f"batch-{start:06}.safetensors"
        if file.exists():
            new = _read(file, model.device)
        else:
            with applied(model, deltas):
                new = editor.deltas(model, tokenizer, chunk, learned)
            _write(file, new)
        deltas += new
        learned += chunk
        progress(start + len(chunk), len(edits))
    return deltas


def remove(work: Path) -> None:
    """Does away with a folder of :func:`make`'s, when its version is written."""
    shutil.rmtree(work, ignore_errors=True)


def _key(
    model: Any, editor: Editor, before: Before, edits: Sequence[Edit], size: int
) -> dict[str, Any]:
    """What tells one piece of work from another."""
    told = [[edit.to_mapping() for edit in some] for some in (before.edits, edits)]
    hashed = hashlib.sha256(json.dumps(told, ensure_ascii=True).encode()).hexdigest()
    settings = json.loads(json.dumps(editor.describe(model)))
    return {"model": fingerprint(model), "editor": settings, "edits": hashed, "batch": size}


def _opened(work: Path, key: dict[str, Any]) -> None:
    plan = work / _PLAN
    if plan.exists() and plan.read_text(encoding="utf-8") == json.dumps(key):
        return
    remove(work)
    work.mkdir(parents=True)
    plan.write_text(json.dumps(key), encoding="utf-8")


def _write(file: Path, deltas: Sequence[WeightDelta]) -> None:
    from safetensors.torch import save_file

    parts = {
        f"{place} {part} {delta.name}": tensor.cpu().contiguous()
        for place, delta in enumerate(deltas)
        for part in ("left", "right", "full")
        if (tensor := getattr(delta, part)) is not None
    }
    draft = file.with_suffix(".draft")
    save_file(parts, draft)
    draft.replace(file)


def _read(file: Path, device: Any) -> list[WeightDelta]:
    from safetensors.torch import load_file

    found: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(file, device=str(device)).items():
        place, part, name = key.split(" ", 2)
        found.setdefault(int(place), {"name": name})[part] = tensor
    return [WeightDelta(**found[place]) for place in sorted(found)]
