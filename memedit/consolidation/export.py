"""Deltas on disk: as a LoRA adapter in PEFT's layout, or merged into a checkpoint.

Both are folders that appear whole or not at all, with a ``manifest.json`` that says which model
they belong to, which edits they hold, how these were made and how far the export is from the
deltas.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import memedit
from memedit.consolidation.versions import MANIFEST, MAX_RANK, RANKS
from memedit.editors.covariance import fingerprint
from memedit.editors.deltas import applied, matrix, merged, stored_transposed
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta


@dataclass(frozen=True, slots=True)
class Version:
    """What a version of the weights is made of.

    Attributes:
        name: of the version; the folder is called so.
        edits: what it holds.
        method: what the editor says of itself (``describe``).
        gates: what was checked before it was written, with the figures; JSON types.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    method: Mapping[str, Any] = field(default_factory=dict)
    gates: Mapping[str, Any] = field(default_factory=dict)


def write_adapter(
    folder: Path,
    version: Version,
    model: Any,
    deltas: Sequence[WeightDelta],
    *,
    max_rank: int = MAX_RANK,
) -> dict[str, Any]:
    """Deltas as a LoRA adapter in PEFT's layout, float32, in ``folder / version.name``.

    Exact, rounding aside, for deltas whose rank is at most ``max_rank``; others are cut off by
    singular values, which is the nearest that the rank allows, and the manifest says how much of
    each is lost.

    Args:
        folder: where versions lie; made where it is not there.
        version: its name is the new folder's.
        model: the unedited model.
        deltas: at least one.
        max_rank: of the adapter, at most :data:`MAX_RANK`.

    Returns:
        The manifest.

    Raises:
        InvalidInput: the folder is there already, there is no delta, a rank makes no sense, or a
            delta does not fit the model.
    """
    from safetensors.torch import save_file

    if not 1 <= max_rank <= MAX_RANK:
        raise InvalidInput(f"max_rank is {max_rank}; an adapter's rank is 1 to {MAX_RANK}")
    joined = _checked(model, deltas)
    factors = {delta.name: low_rank(delta, max_rank) for delta in joined}
    needed = max(left.shape[1] for left, _, _ in factors.values())
    rank = min(max_rank, next(size for size in RANKS if size >= needed))
    tensors = {}
    for name, (left, right, _) in factors.items():
        module = name.removesuffix(".weight")
        room = rank - left.shape[1]
        filled = (
            torch.nn.functional.pad(left, (0, room)),
            torch.nn.functional.pad(right, (0, 0, 0, room)),
        )
        tensors[f"base_model.model.{module}.lora_B.weight"] = filled[0].cpu().contiguous()
        tensors[f"base_model.model.{module}.lora_A.weight"] = filled[1].cpu().contiguous()
    modules = [delta.name.removesuffix(".weight") for delta in joined]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "fan_in_fan_out": stored_transposed(model.get_submodule(modules[0])),
        "inference_mode": True,
    }
    manifest = _manifest(version, model, "adapter", joined)
    manifest["rank"] = rank
    manifest["lost"] = {name: lost for name, (_, _, lost) in factors.items()}
    with _new_folder(folder / version.name) as draft:
        save_file(tensors, str(draft / "adapter_model.safetensors"), metadata={"format": "pt"})
        _write_json(draft / "adapter_config.json", config)
        _write_json(draft / MANIFEST, manifest)
    return manifest


def read_adapter(folder: Path) -> list[WeightDelta]:
    """The deltas of an adapter that :func:`write_adapter` has written, without what fills it up.

    Raises:
        InvalidInput: there is no such adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"the adapter in {folder} cannot be read: {error}") from error
    found = []
    for key, left in tensors.items():
        if key.endswith(".lora_B.weight"):
            right = tensors[key.replace(".lora_B.", ".lora_A.")]
            used = left.any(dim=0)
            name = key.removeprefix("base_model.model.").replace(".lora_B.", ".")
            found.append(WeightDelta(name, left=left[:, used], right=right[used]))
    return found


def fitted(deltas: Sequence[WeightDelta], max_rank: int) -> list[WeightDelta]:
    """The deltas as an adapter of this rank has them."""
    found = []
    for delta in merged(deltas):
        left, right, _ = low_rank(delta, max_rank)
        found.append(WeightDelta(delta.name, left=left, right=right))
    return found


def write_checkpoint(
    folder: Path, version: Version, model: Any, tokenizer: Any, deltas: Sequence[WeightDelta]
) -> dict[str, Any]:
    """The model with the deltas in its weights, in Hugging Face's layout, in the model's own type.

    Returns:
        The manifest. ``lost`` is what rounding to the model's type takes of each delta.

    Raises:
        InvalidInput: as :func:`write_adapter`.
    """
    joined = _checked(model, deltas)
    manifest = _manifest(version, model, "checkpoint", joined)
    before = {delta.name: matrix(model, delta.name).float() for delta in joined}
    with _new_folder(folder / version.name) as draft, applied(model, joined):
        manifest["lost"] = {
            delta.name: _lost(delta.dense(), matrix(model, delta.name).float() - before[delta.name])
            for delta in joined
        }
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        _write_json(draft / MANIFEST, manifest)
    return manifest


def low_rank(delta: WeightDelta, max_rank: int) -> tuple[Tensor, Tensor, float]:
    """A delta as factors (out, r) and (r, in) of one size, r at most ``max_rank``.

    Returns:
        The factors, float32, and the share of the delta's Frobenius norm that is lost.
    """
    if delta.left is not None and delta.left.shape[1] <= max_rank:
        sizes = delta.left.norm(dim=0), delta.right.norm(dim=1)
        scale = (sizes[1] / sizes[0].clamp(min=1e-30)).sqrt().clamp(min=1e-30)
        return delta.left * scale, delta.right / scale[:, None], 0.0
    whole = delta.dense()
    left, amounts, right = torch.linalg.svd(whole.double(), full_matrices=False)
    rank = min(max_rank, len(amounts))
    root = amounts[:rank].sqrt()
    factors = (left[:, :rank] * root).float(), (root[:, None] * right[:rank]).float()
    return *factors, _lost(whole, factors[0] @ factors[1])


def _lost(wanted: Tensor, got: Tensor) -> float:
    """How far one is from the other, as a share of its Frobenius norm; 6 digits."""
    norm = wanted.norm().item()
    return round((wanted - got).norm().item() / norm, 6) if norm else 0.0


def _checked(model: Any, deltas: Sequence[WeightDelta]) -> list[WeightDelta]:
    if not deltas:
        raise InvalidInput("there is no delta to write; run an editor first")
    joined = merged(deltas)
    for delta in joined:
        shape = tuple(matrix(model, delta.name).shape)
        if delta.shape != shape:
            raise InvalidInput(
                f"the delta of {delta.name} is {delta.shape} and the weight {shape}: it was made "
                "for another model"
            )
    return joined


def _manifest(
    version: Version, model: Any, kind: str, deltas: Sequence[WeightDelta]
) -> dict[str, Any]:
    return {
        "memedit": memedit.__version__,
        "version": version.name,
        "kind": kind,
        "base": {"model_type": model.config.model_type, "fingerprint": fingerprint(model)},
        "weights": [delta.name for delta in deltas],
        "method": dict(version.method),
        "gates": dict(version.gates),
        "edits": [edit.to_mapping() for edit in version.edits],
    }


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A draft that becomes the folder when the block ends well."""
    if folder.exists():
        raise InvalidInput(f"{folder} is there already; give the version another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    file.write_text(text, encoding="utf-8")
