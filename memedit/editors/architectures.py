"""What editors have to know of a model's shape: ``architectures.toml``, read once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from memedit.errors import InvalidInput, Unsupported


@dataclass(frozen=True, slots=True)
class Architecture:
    """One table of the file, for a model of so many layers.

    Attributes:
        model_type: what the model's configuration calls it.
        depth: how many decoder layers the model has.
        models, layer, down, attention, embedding, post_norm: as the file describes them.
        layers: numbers of the layers that MEMIT's family edits, in order.
        layer_one: number of the layer that is edited where one is.
    """

    model_type: str
    depth: int
    models: str
    layer: str
    down: str
    attention: str
    embedding: str
    post_norm: bool
    layers: tuple[int, ...]
    layer_one: int

    def layer_name(self, number: int) -> str:
        """The decoder layer's module.

        Raises:
            InvalidInput: the model has no such layer.
        """
        if not 0 <= number < self.depth:
            raise InvalidInput(f"there is no layer {number}; the model has 0 to {self.depth - 1}")
        return self.layer.format(number)

    def down_name(self, number: int) -> str:
        """The MLP's down projection of a layer."""
        return f"{self.layer_name(number)}.{self.down}"

    def attention_name(self, number: int) -> str:
        """The attention's output projection of a layer."""
        return f"{self.layer_name(number)}.{self.attention}"


def architecture_of(model: Any) -> Architecture:
    """The table of a transformers model.

    Raises:
        Unsupported: the table has no such model; says what to add.
    """
    kind = str(model.config.model_type)
    table = _table()
    if kind not in table:
        raise Unsupported(
            f"editors do not know the architecture {kind!r}, only {', '.join(table)}; add a "
            f"table [{kind}] to memedit/editors/architectures.toml with the names of the layer, "
            "the MLP's down projection, the attention's output projection and the embedding, and "
            "with the layers to edit as shares of the depth"
        )
    depth = int(model.config.num_hidden_layers)
    fields = dict(table[kind])
    first, last = (_number(share, depth) for share in fields.pop("layers"))
    one = _number(fields.pop("layer_one"), depth)
    return Architecture(kind, depth, layers=tuple(range(first, last + 1)), layer_one=one, **fields)


def down_projections() -> list[str]:
    """What the modules whose weights editors change are called, in all architectures."""
    return sorted({str(fields["down"]).rpartition(".")[-1] for fields in _table().values()})


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    text = files("memedit.editors").joinpath("architectures.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _number(share: float, depth: int) -> int:
    """The layer at this share of the depth."""
    return min(depth - 1, round(share * depth))
