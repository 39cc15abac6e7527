"""An editor over many edits: in batches, each kept on disk, so that what was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.editors.covariance import fingerprint
from memedit.editors.deltas import applied
from memedit.edits import Edit
from memedit.protocols import Editor, WeightDelta

logger = logging.getLogger("memedit.consolidation")


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
        work: a folder for the batches that are done, held by this process. A batch is not made
            again where model, editor, ``before`` and all edits up to its last are the same; other
            batches are removed, and the log says how many.
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
    chunks = [edits[start : start + size] for start in range(0, len(edits), size)]
    files = [work / f"batch-{key[:32]}.safetensors" for key in _keys(model, editor, before, chunks)]
    _opened(work, files)
    if not all(file.exists() for file in files):
        editor.prepare(model, tokenizer)
    deltas, learned = list(before.deltas), list(before.edits)
    for chunk, file in zip(chunks, files, strict=True):
        if file.exists():
            new = _read(file, model.device)
        else:
            with applied(model, deltas):
                new = editor.deltas(model, tokenizer, chunk, learned)
            _write(file, new)
        deltas += new
        learned += chunk
        progress(len(learned) - len(before.edits), len(edits))
    return deltas


def remove(work: Path) -> None:
    """Does away with a folder of :func:`make`'s, when its version is written."""
    shutil.rmtree(work, ignore_errors=True)


def _keys(
    model: Any, editor: Editor, before: Before, chunks: Sequence[Sequence[Edit]]
) -> Iterator[str]:
    """What tells each batch from others: all that its deltas depend on, the batches before too."""
    settings = [fingerprint(model), editor.describe(model)]
    key = _hash(json.dumps([settings, _told(before.edits)]), *map(_content, before.deltas))
    for chunk in chunks:
        key = _hash(key, json.dumps(_told(chunk)))
        yield key


def _told(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    return [edit.to_mapping() for edit in edits]


def _content(delta: WeightDelta) -> str:
    parts = [part for part in (delta.left, delta.right, delta.full) if part is not None]
    arrays = [part.float().cpu().contiguous().numpy() for part in parts]
    return _hash(delta.name, *(_hash(str(array.shape), array.tobytes()) for array in arrays))


def _hash(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(part if isinstance(part, bytes) else part.encode())
    return made.hexdigest()


def _opened(work: Path, files: Sequence[Path]) -> None:
    """Makes the folder, and removes batches in it that are not among these."""
    work.mkdir(parents=True, exist_ok=True)
    others = [file for file in work.glob("batch-*.safetensors") if file not in files]
    for file in others:
        file.unlink()
    if others:
        logger.warning(
            "%d finished batches in %s are of other edits, settings or weights, and are removed",
            *(len(others), work),
        )


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
