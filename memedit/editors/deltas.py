"""Weight deltas put to use: laid on a model for a while, or added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta


@contextmanager
def applied(model: Any, deltas: Sequence[WeightDelta]) -> Iterator[None]:
    """The model with these deltas in its weights, until the block ends.

    Deltas of one weight add up, in float32; the sum with the weight is then rounded once to the
    model's own type. What was there before is kept and put back, so that the weights are the same
    bit for bit afterwards, whatever happens in the block. Blocks may be nested.

    Raises:
        InvalidInput: the model has no such weight, or one of another shape.
    """
    kept: dict[str, Any] = {}
    changed = {delta.name: _summed(model, delta.name, deltas) for delta in deltas}
    try:
        for name, tensor in changed.items():
            parameter = model.get_parameter(name)
            kept[name] = parameter.data
            parameter.data = tensor
        yield
    finally:
        for name, tensor in kept.items():
            model.get_parameter(name).data = tensor


def matrix(model: Any, name: str) -> Any:
    """A weight as (out, in), whichever way the model stores it; a view.

    Raises:
        InvalidInput: the model has no such weight.
    """
    module, _, _ = name.rpartition(".")
    try:
        parameter = model.get_parameter(name)
    except AttributeError as error:
        raise InvalidInput(f"the model has no weight {name}; the delta is of another") from error
    return parameter.data.T if stored_transposed(model.get_submodule(module)) else parameter.data


def stored_transposed(module: Any) -> bool:
    """Whether a linear module holds its weight as (in, out), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def merged(deltas: Iterable[WeightDelta]) -> list[WeightDelta]:
    """One delta per weight: factors are joined, and added up where one of them is whole."""
    by_name: dict[str, list[WeightDelta]] = {}
    for delta in deltas:
        by_name.setdefault(delta.name, []).append(delta)
    return [_merged(name, parts) for name, parts in by_name.items()]


def _merged(name: str, parts: list[WeightDelta]) -> WeightDelta:
    if len(parts) == 1:
        return parts[0]
    last = parts[-1]  # one that was read from a file may be elsewhere than one just made
    device = (last.left if last.full is None else last.full).device
    if any(part.full is not None for part in parts):
        return WeightDelta(name, full=sum(part.dense().to(device) for part in parts))
    return WeightDelta(
        name,
        left=torch.cat([part.left.to(device) for part in parts], dim=1),
        right=torch.cat([part.right.to(device) for part in parts], dim=0),
    )


def _summed(model: Any, name: str, deltas: Sequence[WeightDelta]) -> Any:
    """The weight with its deltas, as the model stores it."""
    weight = matrix(model, name)
    total = weight.to(torch.float32)
    for delta in deltas:
        if delta.name != name:
            continue
        if delta.shape != tuple(weight.shape):
            raise InvalidInput(
                f"the delta of {name} is {delta.shape} and the weight {tuple(weight.shape)}: it "
                "was made for another model"
            )
        total = total + delta.dense().to(total.device)
    total = total.to(weight.dtype)
    module, _, _ = name.rpartition(".")
    return total.T.contiguous() if stored_transposed(model.get_submodule(module)) else total
