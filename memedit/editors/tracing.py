"""Causal tracing: which layers carry a fact, and so which to edit.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv:2202.05262,
section 2. The subject's embeddings are blurred by noise of three times the embeddings' deviation,
so that the model no longer gives its answer. Then one state of the undisturbed run is put back, and
the answer's probability is compared: what it gains is the state's indirect effect. For MLPs and
attentions, which each do little, a window of layers is put back.

Facts are best such as the model knows (:func:`known`). What differs: an answer is its first token,
and a window a fifth of the layers (the paper's 10 of 48).
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from memedit.editors.architectures import Architecture, architecture_of
from memedit.editors.passes import Start, hidden_of, log_probabilities, start_at, started
from memedit.editors.rows import Context, Row, check, target_row
from memedit.edits import Edit
from memedit.errors import InvalidEdit, InvalidInput

Kind = Literal["stream", "mlp", "attention"]
"""Which state is put back: behind a whole layer, or what its MLP or its attention gives."""

Place = Literal["subject", "end"]
"""Where: at the subject's last token, or at the prompt's."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Mean effects over facts.

    Attributes:
        facts: how many there were.
        clean: the mean probability of the model's answer.
        blurred: the same with the subject blurred.
        window: layers that are put back together, for MLPs and attentions.
        effects: by kind and place, what each layer's state gives back, (layers,), in the
            difference of probabilities. A window is named by its middle.
    """

    facts: int
    clean: float
    blurred: float
    window: int
    effects: dict[Kind, dict[Place, tuple[float, ...]]]

    @property
    def best(self) -> int:
        """The layer around which MLPs at the subject's last token give back most."""
        effects = self.effects["mlp"]["subject"]
        return max(range(len(effects)), key=effects.__getitem__)


def known(model: Any, tokenizer: Any, edits: Iterable[Edit]) -> Iterator[Edit]:
    """Those of the edits whose old answer the model gives, by its first token.

    Args:
        model: a transformers model.
        tokenizer: its fast tokenizer.
        edits: any; those without an old answer, or without what tracing needs, are passed over.
    """
    for edit in edits:
        if edit.missing_for_weights or not edit.old_target:
            continue
        try:
            row = target_row(tokenizer, edit, 0, Context(), edit.old_target)
        except InvalidEdit:  # the answer shares a token with the subject
            continue
        with torch.no_grad():
            told = _last(model, torch.tensor([row.ids[: row.target]], device=model.device))
        if int(told[0].argmax()) == row.ids[row.target]:
            yield edit


def trace(
    model: Any,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    samples: int = 4,
    noise: float = 3.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Trace:
    """The mean effects over the prompts of these edits; the answer is what the model says to each.

    Args:
        model: a transformers model; it stays as it is.
        tokenizer: its fast tokenizer.
        edits: each with subject and prompt.
        samples: draws of the noise for each fact.
        noise: its deviation, in deviations of the embeddings.
        seed: of the noise.
        progress: is told how many facts are done.

    Raises:
        InvalidInput: a number makes no sense, or an edit lacks what tracing needs.
        Unsupported: the model's architecture is not known.
    """
    check(edits)
    if samples < 1 or noise < 0:
        raise InvalidInput(f"samples is {samples} and noise {noise}; expected at least 1 and 0")
    architecture = architecture_of(model)
    window = max(1, round(architecture.depth / 5))
    embedding = model.get_submodule(architecture.embedding)
    weights = embedding.weight.detach()
    spread = weights.float().std()
    random = torch.Generator().manual_seed(seed)
    facts = []
    with torch.no_grad():
        for done, edit in enumerate(edits):
            progress(done, len(edits))
            row = target_row(tokenizer, edit, 0, Context(), "")
            first = _first_of_subject(tokenizer, edit, row)
            shape = (samples, row.subject + 1 - first, weights.shape[1])
            size = noise * (spread * _scale(embedding, row.ids)).item()
            blur = size * torch.randn(shape, generator=random)
            facts.append(_fact(model, architecture, row, first, blur, window))
    progress(len(edits), len(edits))
    number = len(facts)
    return Trace(
        number,
        sum(fact.clean for fact in facts) / number,
        sum(fact.blurred for fact in facts) / number,
        window,
        {
            kind: {
                place: tuple(
                    sum(fact.effects[kind][place][n] for fact in facts) / number
                    for n in range(architecture.depth)
                )
                for place in get_args(Place)
            }
            for kind in get_args(Kind)
        },
    )


def _scale(embedding: Any, ids: Sequence[int]) -> Tensor:
    """What an embedding multiplies its weights by, which is the square root of Gemma's width."""
    tokens = torch.tensor(ids, device=embedding.weight.device)
    given: Tensor = embedding(tokens).float().norm()
    return given / embedding.weight[tokens].float().norm()


def _first_of_subject(tokenizer: Any, edit: Edit, row: Row) -> int:
    """Where the subject's first token stands."""
    start = (edit.prompt or "").index("{}")
    places = tokenizer(edit.key, return_offsets_mapping=True)["offset_mapping"]
    return next(i for i in range(row.subject + 1) if places[i][1] > start)


def _fact(
    model: Any, architecture: Architecture, row: Row, first: int, blur: Tensor, window: int
) -> Trace:
    """The effects for one fact."""
    kept: dict[tuple[Kind, int], Tensor] = {}
    starts: list[Start] = []
    ids = torch.tensor([row.ids], device=model.device)
    with _hooked(model, _every(architecture, lambda kind, n: _keeping(kept, kind, n))):
        told = _last(model, ids)
    answer = int(told[0].argmax())
    many = ids.expand(len(blur), -1)

    def probability() -> float:
        return float(_last(model, many)[:, answer].exp().mean())

    layers = [(architecture.layer_name(n), _noting(starts, n)) for n in range(architecture.depth)]
    blurring = (architecture.embedding, _blurring(blur.to(model.device), first))
    with _hooked(model, [blurring, *layers]):
        blurred = probability()

    def effect(kind: Kind, at: int, middle: int) -> float:
        """What is gained with the states of one layer, or of a window, put back there."""
        wide = 1 if kind == "stream" else window
        lowest = middle - wide // 2
        back = range(max(lowest, 0), min(lowest + wide, architecture.depth))
        hooks = [(_module(architecture, kind, n), _restoring(kept[kind, n], at)) for n in back]
        with started(model, architecture, starts[back[0]]), _hooked(model, hooks):
            return probability() - blurred

    places: dict[Place, int] = {"subject": row.subject, "end": len(row.ids) - 1}
    effects: dict[Kind, dict[Place, tuple[float, ...]]] = {
        kind: {
            place: tuple(effect(kind, at, n) for n in range(architecture.depth))
            for place, at in places.items()
        }
        for kind in get_args(Kind)
    }
    return Trace(1, told[0, answer].exp().item(), blurred, window, effects)


def _last(model: Any, ids: Tensor) -> Tensor:
    """What follows each row, log-probabilities, (rows, vocabulary)."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return log_probabilities(model, hidden[:, -1])


def _module(architecture: Architecture, kind: Kind, number: int) -> str:
    names = {
        "stream": architecture.layer_name,
        "mlp": architecture.down_name,
        "attention": architecture.attention_name,
    }
    return names[kind](number)


def _every(architecture: Architecture, make: Callable[[Kind, int], Any]) -> list[tuple[str, Any]]:
    return [
        (_module(architecture, kind, n), make(kind, n))
        for kind in get_args(Kind)
        for n in range(architecture.depth)
    ]


def _keeping(kept: dict[tuple[Kind, int], Tensor], kind: Kind, number: int) -> Any:
    def hook(_module: Any, _args: Any, _kwargs: Any, output: Any) -> None:
        kept[kind, number] = hidden_of(output)[0]

    return hook


def _noting(starts: list[Start], number: int) -> Any:
    def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        starts.append(start_at(number, args, kwargs, output))

    return hook


def _restoring(clean: Tensor, at: int) -> Any:
    def hook(_module: Any, _args: Any, _kwargs: Any, output: Any) -> Any:
        changed = hidden_of(output).clone()
        changed[:, at] = clean[at]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _blurring(blur: Tensor, first: int) -> Any:
    def hook(_module: Any, _args: Any, _kwargs: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, first : first + blur.shape[1]] += blur.to(output.dtype)
        return changed

    return hook


@contextmanager
def _hooked(model: Any, hooks: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """The model with forward hooks on the modules of these names."""
    placed = [
        model.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
        for name, hook in hooks
    ]
    try:
        yield
    finally:
        for one in placed:
            one.remove()


_WIDTH, _HEIGHT, _EDGE = 360, 200, 40
_COLOURS = {"subject": "#1f6feb", "end": "#d1741f"}
_NAMES = {"subject": "at the subject's last token", "end": "at the prompt's last token"}
_TITLES = {"stream": "one layer's state", "mlp": "MLPs", "attention": "attentions"}


def chart(found: Trace, title: str) -> str:
    """The plot of the paper's figure 1, as an SVG document: a panel a kind, a line a place."""
    panels = "".join(
        f'<g transform="translate({i * _WIDTH} 30)">{_panel(found, kind)}</g>'
        for i, kind in enumerate(get_args(Kind))
    )
    said = (
        f"{title}: {found.facts} facts, the answer's probability is {found.clean:.2f}, and "
        f"{found.blurred:.2f} with the subject blurred"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * _WIDTH} {_HEIGHT + 90}" '
        f'font-family="sans-serif" font-size="11"><title>{html.escape(said)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="10" y="18">{html.escape(said)}</text>'
        f"{panels}</svg>\n"
    )


def _panel(found: Trace, kind: Kind) -> str:
    lines = found.effects[kind]
    depth = len(lines["subject"])
    top = max(0.01, *(value for line in lines.values() for value in line))
    bottom = min(0.0, *(value for line in lines.values() for value in line))

    def x(layer: int) -> float:
        return _EDGE + layer * (_WIDTH - 2 * _EDGE) / max(1, depth - 1)

    def y(value: float) -> float:
        return 20 + (top - value) * (_HEIGHT - 30) / (top - bottom)

    of = "" if kind == "stream" else f", {found.window} layers at once"
    parts = [f'<text x="{_EDGE}" y="10">put back: {_TITLES[kind]}{of}</text>']
    parts += [
        f'<line x1="{_EDGE}" x2="{_WIDTH - _EDGE}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
        f'stroke="#ddd"/><text x="{_EDGE - 4}" y="{y(value) + 4:.1f}" text-anchor="end">'
        f"{value:.2f}</text>"
        for value in (bottom, 0.0, top)
    ]
    for place, line in lines.items():
        points = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(line))
        style = f'fill="none" stroke-width="2" stroke="{_COLOURS[place]}"'
        parts.append(f'<polyline points="{points}" {style}/>')
    ticks = sorted({0, depth // 4, depth // 2, 3 * depth // 4, depth - 1})
    parts += [
        f'<text x="{x(n):.1f}" y="{_HEIGHT + 10}" text-anchor="middle">{n}</text>' for n in ticks
    ]
    for i, place in enumerate(get_args(Place)):
        style = f'fill="{_COLOURS[place]}"'
        parts.append(
            f'<text x="{_EDGE}" y="{_HEIGHT + 28 + 14 * i}" {style}>{_NAMES[place]}</text>'
        )
    return "".join(parts)
