"""What ROME's and MEMIT's family share: contexts, keys, values, and the order of the work.

A subject's last token at a layer's down projection is a key; what the projection gives for it is
its value (Meng et al. 2022, arXiv:2202.05262, section 3). An editor of this family looks for the
values that make the model state the edits, and solves for a weight that maps keys to values and
other keys to what they were mapped to before. They differ in the solving.

What differs from the papers: an edit is learned from ``wordings``, too, prompts that hardly ask
anything. A value that gives the target after them is followed from more rephrases (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from memedit.editors.architectures import Architecture, architecture_of
from memedit.editors.covariance import Statistics
from memedit.editors.passes import observed
from memedit.editors.rows import Context, check, target_row
from memedit.editors.texts import contexts
from memedit.editors.values import Search, Values, values
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of edits at one layer.

    Attributes:
        every: (edits, contexts, in) float32, the bare prompt's first.
    """

    every: Tensor

    @property
    def mean(self) -> Tensor:
        """Averaged over the contexts, (edits, in)."""
        return self.every.mean(dim=1)

    @property
    def bare(self) -> Tensor:
        """Of the bare prompt, (edits, in)."""
        return self.every[:, 0]


@dataclass(frozen=True, slots=True)
class Found:
    """Edits with all that is known before the solving.

    Attributes:
        architecture: of the model.
        edits: checked ones.
        contexts: the bare one first.
        layers: the layers to edit, in order; values are of the last.
        values: one per edit.
    """

    architecture: Architecture
    edits: tuple[Edit, ...]
    contexts: tuple[Context, ...]
    layers: tuple[int, ...]
    values: Values

    def only(self, chosen: Sequence[int]) -> Found:
        """The same for some of the edits, by their places."""
        return Found(
            self.architecture,
            tuple(self.edits[i] for i in chosen),
            self.contexts,
            self.layers,
            self.values.only(chosen),
        )


@dataclass(frozen=True)
class Locating:
    """An editor that locates a fact and writes it there.

    Attributes:
        name: what reports call it.
        layers: numbers of the layers to edit, in order; the architecture's by default.
        prefixes: how many contexts the model makes itself, beside the bare one.
        prefix_tokens: their length.
        wordings: prompts that are learned beside the edit's own, with ``{}`` for the subject. One
            that says as little as can be makes the edit hold in other words.
        chat: whether a prompt is also learned as the user's turn of a chat.
        each: whether the key of every context is to give the value, or only their mean, as in the
            papers. A short prompt's key is often far from the mean. The rank is the same.
        seed: of the prefixes.
        search: how values are looked for.
        statistics: where the second moments of ordinary keys come from.
    """

    name: str = ""
    layers: tuple[int, ...] | None = None
    prefixes: NonNegativeInt = 2
    prefix_tokens: PositiveInt = 12
    wordings: tuple[str, ...] = ("{} is known for",)
    chat: bool = False
    each: bool = True
    seed: int = 0
    search: Search = field(default_factory=Search)
    statistics: Statistics = field(default_factory=Statistics)

    def describe(self, model: Any) -> Mapping[str, Any]:
        """Every setting, and the layers that they come to; see the protocol."""
        said = {name: value for name, value in asdict(self).items() if name != "statistics"}
        layers = self._layers(architecture_of(model))
        return {**said, "layers": list(layers), "statistics": self.statistics.describe()}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Contexts and second moments; see :class:`memedit.protocols.Editor`."""
        architecture = architecture_of(model)
        self._contexts(model, tokenizer)
        self.statistics.moments(model, tokenizer, architecture, self._layers(architecture))

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        """See :class:`memedit.protocols.Editor`."""
        with torch.no_grad():
            found = self._found(model, tokenizer, edits)
            return self._solved(model, tokenizer, found, earlier)

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        """See :class:`memedit.protocols.Editor`; values are optimised together."""
        with torch.no_grad():
            found = self._found(model, tokenizer, edits)
            return [self._solved(model, tokenizer, found.only([i]), ()) for i in range(len(edits))]

    def _found(self, model: Any, tokenizer: Any, edits: Sequence[Edit]) -> Found:
        check(edits)
        architecture = architecture_of(model)
        layers = self._layers(architecture)
        around = self._contexts(model, tokenizer)
        sought = values(model, tokenizer, architecture, edits, around, layers[-1], self.search)
        return Found(architecture, tuple(edits), tuple(around), layers, sought)

    def _contexts(self, model: Any, tokenizer: Any) -> list[Context]:
        return contexts(
            model,
            tokenizer,
            self.prefixes,
            self.prefix_tokens,
            chat=self.chat,
            wordings=self.wordings,
            seed=self.seed,
        )

    def _layers(self, architecture: Architecture) -> tuple[int, ...]:
        layers = self.layers or self._usual(architecture)
        for number in layers:
            architecture.layer_name(number)  # says so where there is no such layer
        if sorted(set(layers)) != list(layers):
            raise InvalidInput(f"the layers {layers} are not in order; name each once")
        if architecture.post_norm and len(layers) > 1:
            raise InvalidInput(
                f"{architecture.models} normalises what an MLP adds to the residual stream, so "
                "that values cannot be divided among layers; name one layer"
            )
        return layers

    def _usual(self, architecture: Architecture) -> tuple[int, ...]:
        """The layers where none are named."""
        return architecture.layers

    def _solved(
        self, model: Any, tokenizer: Any, found: Found, earlier: Sequence[Edit]
    ) -> list[WeightDelta]:
        """The deltas that these values come to."""
        raise NotImplementedError


def keys(
    model: Any,
    tokenizer: Any,
    architecture: Architecture,
    edits: Sequence[Edit],
    around: Sequence[Context],
    layers: Sequence[int],
) -> dict[int, Keys]:
    """The keys of edits at these layers, averaged over contexts (arXiv:2202.05262, equation (3)).

    Returns:
        By layer, keys of shape (edits, in).
    """
    rows = [
        target_row(tokenizer, edit, i, context)
        for i, edit in enumerate(edits)
        for context in around
    ]
    seen = observed(model, architecture, rows, layers)
    found = {}
    for n, all_keys in seen.keys.items():
        found[n] = Keys(all_keys.view(len(edits), len(around), -1))
    return found


def inverse_times(moment: Tensor, columns: Tensor, ridge: float) -> Tensor:
    """(moment + ridge · mean diagonal · I)⁻¹ columns, (in, n), solved in float64.

    Raises:
        InvalidInput: the moment is not positive definite; says what to do.
    """
    wide = moment.double()
    eye = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    wide = wide + ridge * wide.diagonal().mean() * eye
    factor, failed = torch.linalg.cholesky_ex(wide)
    if failed:
        raise InvalidInput(
            "the second moment of the keys is singular: read more tokens of text, or set a ridge"
        )
    return torch.cholesky_solve(columns.double(), factor)
