"""Values: what an MLP has to put into the residual stream for a model to state edits.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv:2202.05262,
equation (4): the vector z that minimises -log P(target | prefix + prompt) over random prefixes,
plus the divergence of what follows "X is a" from what followed it before. Li et al. 2024, "PMET:
Precise Model Editing in a Transformer", arXiv:2308.08742, optimises the attention's
output beside it, and uses the MLP's part alone.

What differs: all edits are optimised in the same padded batches, each with an objective of its
own; only the layers above the edited one are run, from the subject's last token on
(:class:`~memedit.editors.passes.Tails`), in bfloat16; an edit is done when all its contexts give
the target with the wanted probability; and each step goes down the gradient by a set length
instead of Adam's, which moves every coordinate alike. Such steps find shorter values in fewer
steps (docs/log.md), so that no term has to hold their norm down.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from memedit.editors.architectures import Architecture
from memedit.editors.passes import Tails, log_probabilities, observed
from memedit.editors.rows import Context, Row, essence_row, target_row
from memedit.edits import Edit


@dataclass(frozen=True, slots=True)
class Search:
    """How values are looked for.

    Attributes:
        steps: most steps down the gradient.
        rate: a step's length, as a share of the residual stream's norm at the subject (the median
            over contexts; see :attr:`memedit.editors.passes.Tails.norms`).
        stop: the mean probability of a target's token at which an edit is done, in its worst
            context.
        kl: weight of the divergence of "X is a", in nats.
        clamp: longest change, as a share of that norm.
        attention: whether the attention's output is changed beside it (PMET).
        batch: edits that are optimised together. Those of like length share a batch: more at once
            means more padding, which on a processor costs as much as anything else.
        bfloat16: whether a float32 model's upper layers run in bfloat16 meanwhile: several times
            faster, and a few steps' worth less exact. What is added is kept in float32.
    """

    steps: NonNegativeInt = 15
    rate: PositiveFloat = 0.08
    stop: float = 0.85
    kl: NonNegativeFloat = 0.0625
    clamp: PositiveFloat = 0.75
    attention: bool = False
    batch: PositiveInt = 16
    bfloat16: bool = True


@dataclass(frozen=True, slots=True)
class Values:
    """What was found.

    Attributes:
        changes: (edits, out) float32, what is to be added to the down projection's output.
        streams: (edits, hidden) float32, the residual stream behind the layer at the subject's
            last token of the bare prompt, before the edit.
        outputs: (edits, out) float32, the down projection's output there.
        probabilities: (edits,), each target's mean token probability in its worst context.
        steps: (edits,), how many steps each took.
    """

    changes: Tensor
    streams: Tensor
    outputs: Tensor
    probabilities: Tensor
    steps: Tensor

    def only(self, chosen: Sequence[int]) -> Values:
        """Those of some edits, by their places."""
        index = list(chosen)
        return Values(
            self.changes[index],
            self.streams[index],
            self.outputs[index],
            self.probabilities[index],
            self.steps[index],
        )


def values(
    model: Any,
    tokenizer: Any,
    architecture: Architecture,
    edits: Sequence[Edit],
    contexts: Sequence[Context],
    layer: int,
    search: Search,
) -> Values:
    """The values of edits at one layer.

    Args:
        model: its weights neither change nor get gradients.
        tokenizer: a fast one.
        architecture: of the model.
        edits: checked ones.
        contexts: the bare one first.
        layer: whose MLP is to give the values.
        search: how to look.
    """
    rows = [
        [target_row(tokenizer, edit, i, context) for context in contexts]
        for i, edit in enumerate(edits)
    ]
    # Rows of like length share a batch, so that little is padded.
    order = sorted(range(len(edits)), key=lambda i: max(len(r.ids) - r.subject for r in rows[i]))
    seen = observed(model, architecture, [of_edit[0] for of_edit in rows], [layer])
    streams, outputs = seen.streams[layer], seen.outputs[layer]
    searched = _fast(model) if search.bfloat16 and model.dtype == torch.float32 else model
    parts = []
    frozen = [p for p in searched.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        # In bfloat16 on a processor, torch's fused attention takes longer than all the rest.
        with sdpa_kernel(SDPBackend.MATH) if searched is not model else nullcontext():
            for start in range(0, len(order), search.batch):
                chosen = order[start : start + search.batch]
                mine = [replace(row, edit=n) for n, i in enumerate(chosen) for row in rows[i]]
                essence = [essence_row(tokenizer, edits[i], n) for n, i in enumerate(chosen)]
                parts.append(_batch(searched, architecture, mine, essence, layer, search))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__))
    changes, probabilities, steps = (torch.cat(part)[back] for part in zip(*parts, strict=True))
    return Values(changes, streams, outputs, probabilities, steps)


def _fast(model: Any) -> Any:
    """The same model with its weights in bfloat16; its float32 weights are not copied first."""
    cast = {
        id(parameter): torch.nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, dict(cast))


def _batch(
    model: Any,
    architecture: Architecture,
    rows: list[Row],
    essence: list[Row],
    layer: int,
    search: Search,
) -> tuple[Tensor, Tensor, Tensor]:
    """One batch: changes, probabilities and steps as in :class:`Values`.

    Rows carry the edit's place in the batch and stand edit by edit, as many for each.
    """
    tails = Tails(model, architecture, [*rows, *essence], layer)
    number = len(essence)
    before = _essence(model, tails, tails.last)
    norms = tails.norms[: len(rows)].view(number, -1)
    scale = norms.median(dim=1, keepdim=True).values  # (edits, 1)
    change = torch.zeros_like(tails.outputs[:number], requires_grad=True)
    aside = torch.zeros_like(tails.attended[:number], requires_grad=True)
    moved = [change, aside] if search.attention else [change]
    found, best = torch.zeros_like(change), torch.zeros(number)
    taken = torch.zeros(number, dtype=torch.long)
    active = list(range(number))
    for step in range(search.steps + 1):
        of_row = torch.tensor([row.edit for row in tails.rows])
        with torch.enable_grad():
            hidden = tails.run(change[of_row], aside[of_row] if search.attention else None)
            told = _targets(model, tails, hidden)  # (active, contexts)
            worst = told.detach().min(dim=1).values.exp()
            best[active], taken[active] = worst.cpu(), step
            found[active] = change.detach()[active]
            going = [
                n for n, share in zip(active, worst.tolist(), strict=True) if share < search.stop
            ]
            if not going or step == search.steps:
                break
            after = _essence(model, tails, hidden)  # (active, vocabulary)
            drift = (after.exp() * (after - before[active])).sum(-1)
            loss = (search.kl * drift - told.mean(dim=1)).sum()
        gradients = torch.autograd.grad(loss, moved)
        with torch.no_grad():
            for tensor, gradient in zip(moved, gradients, strict=True):
                tensor.sub_(search.rate * scale * normalize(gradient, dim=-1))
                norm = tensor.norm(dim=-1, keepdim=True).clamp(min=1e-12)
                tensor.mul_((search.clamp * scale / norm).clamp(max=1))
        if len(going) < len(active):
            left = set(going)
            tails = tails.only([i for i, row in enumerate(tails.rows) if row.edit in left])
            active = going
    return found, best, taken


def _targets(model: Any, tails: Tails, hidden: Tensor) -> Tensor:
    """The mean log-probability of a target's token, (edits, contexts), edits in order."""
    places = [
        (i, at - row.subject - 1, row.ids[at])
        for i, row in enumerate(tails.rows)
        for at in range(row.target, len(row.ids))
    ]
    at_row, at_column, token = torch.tensor(places, device=hidden.device).unbind(1)
    told = log_probabilities(model, hidden[at_row, at_column])
    each = told.gather(1, token[:, None].to(told.device))[:, 0]
    wanted = [i for i, row in enumerate(tails.rows) if row.target < len(row.ids)]
    at_row = at_row.to(each.device)
    none = torch.zeros(len(tails.rows), device=each.device)
    sums = none.index_add(0, at_row, each)
    counts = none.index_add(0, at_row, torch.ones_like(each))
    # Rows stand edit by edit, as many for each: one a context.
    number = len(tails.rows) - len(wanted)
    return (sums / counts.clamp(min=1))[wanted].view(number, -1)


def _essence(model: Any, tails: Tails, hidden: Tensor) -> Tensor:
    """What follows "X is a", log-probabilities, (edits, vocabulary), edits in order."""
    rows = [i for i, row in enumerate(tails.rows) if row.target == len(row.ids)]
    ends = [len(tails.rows[i].ids) - 1 - tails.rows[i].subject for i in rows]
    return log_probabilities(model, hidden[rows, ends])
