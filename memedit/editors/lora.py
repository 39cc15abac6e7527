"""LoRA: fine-tuning of low-rank factors beside the down projections.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
arXiv:2106.09685: W' = W + (α / r) B A. The factors are PEFT's, trained on the targets; the model is
given back without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from memedit.editors.architectures import architecture_of
from memedit.editors.finetune import Training, layers_of, train
from memedit.editors.rows import Context, check, target_row
from memedit.editors.texts import contexts
from memedit.edits import Edit
from memedit.errors import MissingDependency
from memedit.protocols import WeightDelta


@dataclass(frozen=True)
class LoRA:
    """Low-rank fine-tuning of down projections.

    Attributes:
        name: what reports call it.
        layers: whose down projections are trained; the architecture's layers by default.
        rank: r.
        alpha: α.
        training: how long and how fast; its seed is also that of the factors.
        prefixes: how many contexts the model makes itself, beside the bare one.
        prefix_tokens: their length.
        chat: whether a prompt is also learned as the user's turn of a chat.
    """

    name: str = "lora"
    layers: tuple[int, ...] | None = None
    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    training: Training = field(default_factory=lambda: Training(steps=40, rate=2e-3))
    prefixes: NonNegativeInt = 2
    prefix_tokens: PositiveInt = 8
    chat: bool = False

    def describe(self, model: Any) -> Mapping[str, Any]:
        """Every setting; see :class:`memedit.protocols.Editor`."""
        return {**asdict(self), "layers": list(self._layers(model))}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Contexts; see :class:`memedit.protocols.Editor`."""
        self._contexts(model, tokenizer)

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        """See :class:`memedit.protocols.Editor`.

        Raises:
            MissingDependency: PEFT is not installed.
        """
        del earlier
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise MissingDependency(
                "the editor lora needs the package peft; install memedit with the extra editors"
            ) from error
        check(edits)
        architecture = architecture_of(model)
        around = self._contexts(model, tokenizer)
        rows = [target_row(tokenizer, e, i, c) for i, e in enumerate(edits) for c in around]
        targets = [architecture.down_name(n) for n in self._layers(model)]
        needed = {name: p.requires_grad for name, p in model.named_parameters()}
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            wrapped = get_peft_model(
                model,
                LoraConfig(
                    r=self.rank,
                    lora_alpha=self.alpha,
                    lora_dropout=0.0,
                    target_modules=targets,
                    fan_in_fan_out=architecture.model_type == "gpt2",
                ),
            )
        try:
            factors = [p for p in wrapped.parameters() if p.requires_grad]
            for factor in factors:
                factor.data = factor.data.float()
            train(wrapped, wrapped, rows, factors, self.training, whole=False)
            found = []
            for name in targets:
                layer = model.get_submodule(name)
                left = layer.lora_B["default"].weight.detach().float().clone()
                right = layer.lora_A["default"].weight.detach().float().clone()
                scale = layer.scaling["default"]
                found.append(WeightDelta(f"{name}.weight", left=left * scale, right=right))
        finally:
            wrapped.unload()
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(needed[name])
        return found

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        """See :class:`memedit.protocols.Editor`; one after the other."""
        return [self.deltas(model, tokenizer, [edit]) for edit in edits]

    def _contexts(self, model: Any, tokenizer: Any) -> list[Context]:
        return contexts(
            model,
            tokenizer,
            self.prefixes,
            self.prefix_tokens,
            chat=self.chat,
            seed=self.training.seed,
        )

    def _layers(self, model: Any) -> tuple[int, ...]:
        architecture = architecture_of(model)
        return layers_of(self.layers or architecture.layers, architecture)
