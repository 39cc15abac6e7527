"""FT-L: fine-tuning of few weights that may not go far from where they were.

Source: Zhu et al. 2020, "Modifying Memories in Transformer Models", arXiv:2012.00363:
minimise the loss of the new facts subject to |θ - θ₀|∞ ≤ δ, by projected gradients on the weights
of few layers. The loss is that of the whole fact; the variant that frameworks add learns the target
alone, as a prompt's completion (``loss_on="target"``).

What differs: the bound is applied to what the model then gets, after every step, the last one
included; frameworks clamp what they train and then round or scale it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from memedit.editors.architectures import Architecture, architecture_of
from memedit.editors.deltas import matrix, stored_transposed
from memedit.editors.rows import Row, check, target_row
from memedit.editors.texts import contexts
from memedit.edits import Edit
from memedit.protocols import WeightDelta


@dataclass(frozen=True, slots=True)
class Training:
    """How long to train, and how fast.

    Attributes:
        steps: most steps of Adam.
        rate: its step size.
        stop: the mean probability of a target's token at which training ends, for the worst edit.
        batch: rows of one step.
        seed: of the batches' order.
    """

    steps: NonNegativeInt = 25
    rate: PositiveFloat = 1e-3
    stop: float = 0.9
    batch: PositiveInt = 32
    seed: int = 0


@dataclass(frozen=True)
class FineTuning:
    """Constrained fine-tuning of down projections.

    Attributes:
        name: what reports call it.
        layers: whose down projections are trained; the architecture's one layer by default.
        loss_on: the whole text (``"text"``) or the target alone (``"target"``).
        bound: δ, the largest change of any one weight.
        chat: whether a prompt is also learned as the user's turn of a chat.
        training: how long and how fast.
    """

    name: str = "ft-l"
    layers: tuple[int, ...] | None = None
    loss_on: Literal["text", "target"] = "text"
    bound: PositiveFloat = 2e-2
    chat: bool = False
    training: Training = field(default_factory=Training)

    def describe(self, model: Any) -> Mapping[str, Any]:
        """Every setting; see :class:`memedit.protocols.Editor`."""
        return {**asdict(self), "layers": list(layers_of(self.layers, architecture_of(model)))}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Nothing is needed; see :class:`memedit.protocols.Editor`."""

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        """See :class:`memedit.protocols.Editor`."""
        del earlier
        check(edits)
        architecture = architecture_of(model)
        around = contexts(model, tokenizer, 0, 0, chat=self.chat)
        rows = [target_row(tokenizer, e, i, c) for i, e in enumerate(edits) for c in around]
        names = [
            f"{architecture.down_name(n)}.weight" for n in layers_of(self.layers, architecture)
        ]
        before = {name: matrix(model, name).float() for name in names}
        changes = {
            name: torch.zeros_like(weight, requires_grad=True) for name, weight in before.items()
        }

        def run(**inputs: Tensor) -> Any:
            weights = {
                name: _stored(model, name, weight + changes[name])
                for name, weight in before.items()
            }
            return torch.func.functional_call(model, weights, kwargs=inputs)

        def hold() -> None:
            for change in changes.values():
                change.clamp_(-self.bound, self.bound)

        train(
            run,
            model,
            rows,
            list(changes.values()),
            self.training,
            whole=self.loss_on == "text",
            after=hold,
        )
        return [WeightDelta(name, full=change.detach()) for name, change in changes.items()]

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        """See :class:`memedit.protocols.Editor`; one after the other."""
        return [self.deltas(model, tokenizer, [edit]) for edit in edits]


def layers_of(chosen: tuple[int, ...] | None, architecture: Architecture) -> tuple[int, ...]:
    """The layers to train, checked; the architecture's one layer by default."""
    layers = chosen or (architecture.layer_one,)
    for number in layers:
        architecture.layer_name(number)
    return layers


def train(
    run: Callable[..., Any],
    model: Any,
    rows: Sequence[Row],
    parameters: Sequence[Tensor],
    training: Training,
    *,
    whole: bool,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Adam on the parameters until the rows' targets are probable enough.

    Args:
        run: the model with the parameters in it.
        model: the model itself, whose own parameters get no gradients meanwhile.
        rows: prompts with targets.
        parameters: what is trained, in place.
        training: how long and how fast.
        whole: whether a row is learned from its prompt on, or its target alone.
        after: called after each step, without gradients.
    """
    trained = {id(parameter) for parameter in parameters}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in trained]
    optimizer = torch.optim.Adam(list(parameters), lr=training.rate)
    random = torch.Generator().manual_seed(training.seed)
    waiting: list[list[int]] = []
    worst: dict[int, float] = {}
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for _ in range(training.steps):
            if not waiting:
                size = training.batch
                order = torch.randperm(len(rows), generator=random).tolist()
                waiting = [order[i : i + size] for i in range(0, len(order), size)]
            chunk = waiting.pop()
            with torch.enable_grad():
                every, targets = _log_probabilities(run, model, [rows[i] for i in chunk])
                worst.update(zip(chunk, targets.detach().exp().tolist(), strict=True))
                if len(worst) == len(rows) and min(worst.values()) >= training.stop:
                    break
                loss = -(every if whole else targets).mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            with torch.no_grad():
                after()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _log_probabilities(
    run: Callable[..., Any], model: Any, rows: Sequence[Row]
) -> tuple[Tensor, Tensor]:
    """Per row the mean log-probability of a token from the prompt on, and of the target's.

    Both of shape (rows,).
    """
    width = max(len(row.ids) for row in rows)
    device = model.device
    tokens = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows]).to(device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
    starts = torch.tensor([row.target for row in rows], device=device)[:, None]
    prompts = torch.tensor([row.prompt for row in rows], device=device)[:, None]
    at = torch.arange(1, width, device=device)[None]
    mask = (torch.arange(width, device=device)[None] < lengths).long()
    logits = run(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    told = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[:, :, 0]
    in_row = (at < lengths) & (at >= prompts)
    in_target = in_row & (at >= starts)
    every, targets = (
        (told * counted).sum(1) / counted.sum(1).clamp(min=1) for counted in (in_row, in_target)
    )
    return every, targets


def _stored(model: Any, name: str, weight: Tensor) -> Tensor:
    """A weight (out, in) as the model stores it, in its type."""
    module, _, _ = name.rpartition(".")
    kept = weight.T if stored_transposed(model.get_submodule(module)) else weight
    return kept.to(model.get_parameter(name).dtype)
