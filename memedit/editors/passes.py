"""Passes through a model that look at one position, and passes through its upper part alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from memedit.editors.architectures import Architecture
from memedit.editors.rows import Row, left_padded

_AT_ONCE = 64
# Rows of one pass without gradients.


@dataclass(frozen=True, slots=True)
class Seen:
    """What passes at the subject's last token of each row, float32.

    Attributes:
        keys: by layer, what the down projection gets, (rows, in).
        outputs: by layer, what it gives, (rows, out).
        streams: by layer, the residual stream behind the layer, (rows, hidden).
    """

    keys: dict[int, Tensor]
    outputs: dict[int, Tensor]
    streams: dict[int, Tensor]


class Enough(Exception):
    """Ends a pass when the last layer of interest has been seen."""


def observed(
    model: Any, architecture: Architecture, rows: Sequence[Row], layers: Sequence[int]
) -> Seen:
    """What these layers do at the subject's last token of each row.

    Only what stands up to that token is run, and only up to the last of the layers.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].subject)
    back = torch.tensor(sorted(range(len(rows)), key=order.__getitem__))
    parts: dict[tuple[str, int], list[Tensor]] = {}

    def keep(what: str, layer: int, tensor: Tensor) -> None:
        parts.setdefault((what, layer), []).append(tensor[:, -1].float())

    with torch.no_grad(), _watched(model, architecture, layers, keep):
        for start in range(0, len(order), _AT_ONCE):
            chunk = [rows[i].ids[: rows[i].subject + 1] for i in order[start : start + _AT_ONCE]]
            tokens, mask = left_padded(chunk, max(map(len, chunk)), model.device)
            with suppress(Enough):
                model.base_model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions(mask),
                    use_cache=False,
                )
    found = {at: torch.cat(tensors)[back] for at, tensors in parts.items()}
    return Seen(*({n: found[what, n] for n in layers} for what in ("keys", "outputs", "streams")))


@contextmanager
def _watched(
    model: Any, architecture: Architecture, layers: Sequence[int], keep: Any
) -> Iterator[None]:
    last = max(layers)

    def down_hook(layer: int) -> Any:
        def hook(_module: Any, args: Any, output: Tensor) -> None:
            keep("keys", layer, args[0])
            keep("outputs", layer, output)

        return hook

    def layer_hook(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            keep("streams", layer, hidden_of(output))
            if layer == last:
                raise Enough

        return hook

    hooks = []
    try:
        for n in layers:
            down = model.get_submodule(architecture.down_name(n))
            hooks.append(down.register_forward_hook(down_hook(n)))
            layer = model.get_submodule(architecture.layer_name(n))
            hooks.append(layer.register_forward_hook(layer_hook(n)))
        yield
    finally:
        for one in hooks:
            one.remove()


def positions(mask: Tensor) -> Tensor:
    """Position ids of a padded batch: the first token that counts stands at 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def hidden_of(output: Any) -> Tensor:
    """The hidden states of what a decoder layer returns, (rows, tokens, hidden)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@dataclass(frozen=True, slots=True)
class Start:
    """Where a pass can start when what lies below is known.

    Attributes:
        layer: the first one that is run.
        hidden: what it gets, (rows, tokens, hidden).
        tuples: whether layers give tuples, as GPT-J's do.
    """

    layer: int
    hidden: Tensor
    tuples: bool


def start_at(layer: int, args: Any, kwargs: Any, output: Any) -> Start:
    """From what a decoder layer was called with, and what it gave."""
    return Start(layer, args[0] if args else kwargs["hidden_states"], isinstance(output, tuple))


@contextmanager
def started(model: Any, architecture: Architecture, start: Start) -> Iterator[None]:
    """Passes start there: the layers below hand on what they get, which nothing looks at."""
    below = [model.get_submodule(architecture.layer_name(n)) for n in range(start.layer)]

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, None) if start.tuples else hidden

    def enter(_module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (start.hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": start.hidden}

    layer = model.get_submodule(architecture.layer_name(start.layer))
    hook = layer.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for one in below:
            one.forward = hand_on
        yield
    finally:
        hook.remove()
        for one in below:
            vars(one).pop("forward", None)


class Tails:
    """Rows of tokens of which only what an edit at the subject's last token changes is run.

    What stands before that token no edit there can change, since attention looks back alone: it is
    run once, and its attention keys and values are kept. From that token on, the layers below the
    edited one are run once, and their output is kept. A pass then costs the upper layers on a few
    tokens a row.

    Args:
        model: a transformers model; its weights stay as they are.
        architecture: its table.
        rows: what is run, but for the last tokens of their targets.
        layer: the layer whose down projection's output is changed.

    Attributes:
        rows: those that are left, see :meth:`only`.
        outputs: (rows, out), the down projection's output at the subject's last token.
        norms: (rows,), the residual stream's length behind the layer, at that token; where it opens
            the text, at the one behind it, since a text's first token can be a hundred times as
            long as any other.
        attended: (rows, hidden), the output of the attention's projection at that token.
    """

    def __init__(
        self, model: Any, architecture: Architecture, rows: Sequence[Row], layer: int
    ) -> None:
        self._model, self._architecture, self._layer = model, architecture, layer
        self.rows = list(rows)
        before = max(1, *(row.subject for row in rows))
        width = max(len(row.read) - row.subject for row in rows)
        heads, seen = left_padded([row.ids[: row.subject] for row in rows], before, model.device)
        tails, mask = [], []
        for row in rows:
            rest = list(row.read[row.subject :])
            tails.append(rest + [0] * (width - len(rest)))
            mask.append([1] * len(rest) + [0] * (width - len(rest)))
        self._tokens = torch.tensor(tails, device=model.device)
        self._mask = torch.cat([seen, torch.tensor(mask, device=model.device)], dim=1)
        self._positions = positions(self._mask)
        self._cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model.base_model(
                input_ids=heads,
                attention_mask=seen,
                position_ids=positions(seen),
                past_key_values=self._cache,
                use_cache=True,
            )
            self._first()

    def _first(self) -> None:
        """The pass through all layers, from which later ones start."""
        model, architecture = self._model, self._architecture
        down = model.get_submodule(architecture.down_name(self._layer))
        attention = model.get_submodule(architecture.attention_name(self._layer))
        layer = model.get_submodule(architecture.layer_name(self._layer))
        kept: dict[str, Any] = {}

        def layered(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            kept["start"] = start_at(self._layer, args, kwargs, output)
            lengths = hidden_of(output)[:, :2].float().norm(dim=-1)
            places = [int(row.subject == 0 and len(row.read) > 1) for row in self.rows]
            kept["norms"] = lengths[range(len(places)), places]

        def projected(name: str) -> Any:
            def hook(_module: Any, _args: Any, output: Tensor) -> None:
                kept[name] = output[:, 0].float()

            return hook

        hooks = [
            layer.register_forward_hook(layered, with_kwargs=True),
            down.register_forward_hook(projected("outputs")),
            attention.register_forward_hook(projected("attended")),
        ]
        try:
            self.last = self._run()
        finally:
            for one in hooks:
                one.remove()
        self._start: Start = kept["start"]
        self.outputs: Tensor = kept["outputs"]
        self.norms: Tensor = kept["norms"]
        self.attended: Tensor = kept["attended"]

    def _run(self) -> Tensor:
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(one) for one in self._cache.layers]
        out: Tensor = self._model.base_model(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions[:, -self._tokens.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return out

    def run(self, change: Tensor, attention: Tensor | None = None) -> Tensor:
        """The upper layers, with something added at the subject's last token of each row.

        Args:
            change: (rows, out), added to the down projection's output.
            attention: (rows, hidden), added to the output of the attention's projection.

        Returns:
            The last hidden states from the subject's last token on, (rows, tokens, hidden).
        """
        model, architecture = self._model, self._architecture

        def adding(what: Tensor) -> Any:
            def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
                first = output[:, :1] + what[:, None].to(output.dtype)
                return torch.cat([first, output[:, 1:]], dim=1)

            return hook

        down = model.get_submodule(architecture.down_name(self._layer))
        hooks = [down.register_forward_hook(adding(change))]
        if attention is not None:
            projection = model.get_submodule(architecture.attention_name(self._layer))
            hooks.append(projection.register_forward_hook(adding(attention)))
        try:
            with started(model, architecture, self._start):
                return self._run()
        finally:
            for one in hooks:
                one.remove()

    def only(self, wanted: Sequence[int]) -> Tails:
        """The same with some of the rows, by their places here."""
        chosen = copy.copy(self)
        index = torch.tensor(list(wanted), device=self._tokens.device)
        chosen.rows = [self.rows[i] for i in wanted]
        chosen._start = replace(self._start, hidden=self._start.hidden[index])
        for name in ("_tokens", "_mask", "_positions"):
            setattr(chosen, name, getattr(self, name)[index])
        for name in ("last", "outputs", "norms", "attended"):
            setattr(chosen, name, getattr(self, name)[index])
        chosen._cache = copy.copy(self._cache)
        chosen._cache.layers = [copy.copy(one) for one in self._cache.layers]
        for one in chosen._cache.layers:
            one.keys, one.values = one.keys[index], one.values[index]
        return chosen


def log_probabilities(model: Any, hidden: Tensor) -> Tensor:
    """What follows last hidden states, (..., hidden) to (..., vocabulary), float32, natural log."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = torch.tanh(logits / cap) * cap
    found: Tensor = logits.log_softmax(-1)
    return found
