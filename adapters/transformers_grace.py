"""GRACE with a transformers model in this process: learning values, and the offline reference.

Source: Hartvigsen et al. 2023, arXiv:2211.11031. The layer that is wrapped is a decoder layer's
MLP. A key is what goes into it at the last token of the prompt, a value what comes out instead,
from that token on.

What differs from the paper: a value is learned for several prompts of an edit at once, and for
chats and texts apart, since the two are tokenized differently; edits are learned in batches; and
a value is in force for as many tokens as its answer has, not for all that follow
(docs/log.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from memedit.adapters import _tokens
from memedit.adapters.transformers_local import TransformersLocal
from memedit.edits import Edit
from memedit.errors import InvalidInput, Unsupported
from memedit.grace.codebook import Entries, Lesson, placed, separations
from memedit.grace.metric import Floats, Metric, fitted
from memedit.grace.prompts import in_scope, out_of_scope, unrelated, wordings
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Generation
from memedit.training.pairs import PHRASINGS

AnyPrompt = ChatPrompt | TextPrompt


@dataclass(frozen=True, slots=True)
class Study:
    """How values are learned.

    Attributes:
        steps: most gradient steps.
        rate: Adam's learning rate, in the units of the layer's output.
        enough: an answer is learned when each of its tokens has at most this loss, in nats, after
            every prompt.
        batch: prompts that are learned from at once.
    """

    steps: int = 60
    rate: float = 0.5
    enough: float = 0.1
    batch: int = 128


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a key reaches: a share of the way to the nearest prompt that is not about its edit.

    Attributes:
        share: of that distance by the codebook's metric, in (0, 1).
        others: prompts about other subjects, in the edit's own words, that are measured.
    """

    share: float = 0.6
    others: int = 5


@dataclass(frozen=True, slots=True)
class Exercise:
    """One answer to be learned, and where it is to come.

    Attributes:
        prompts: in-scope prompts, all of them chats or all of them texts.
        answer: what the model is to say after each.
    """

    prompts: Sequence[AnyPrompt]
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What came of an exercise.

    Attributes:
        value: shape (dim,), float32.
        span: the answer's tokens, a chat's end of turn among them: how long the value stays in
            force.
        held: whether every prompt was answered with confidence (:attr:`Study.enough`).
        steps: gradient steps that it took.
        loss: the mean loss of the answer's tokens at the end, in nats.
    """

    value: Floats
    span: int
    held: bool
    steps: int
    loss: float


class GraceLocal:
    """One MLP of a transformers model, wrapped.

    Args:
        engine: the model. Only its hooks are touched, and only while a method runs.
        layer: which decoder layer, from 0.

    Raises:
        Unsupported: the model does not keep decoder layers with an ``mlp`` where models of the
            Llama kind do.
        InvalidInput: it has no such layer.
    """

    def __init__(self, engine: TransformersLocal, layer: int) -> None:
        self._engine = engine
        self._decoder: Any = engine.model.get_decoder()
        layers = getattr(self._decoder, "layers", None)
        if layers is None or not hasattr(layers[0], "mlp"):
            raise Unsupported(
                f"{engine.name} has no decoder layers with an mlp; GRACE needs a model of the "
                "Llama kind"
            )
        if not 0 <= layer < len(layers):
            raise InvalidInput(f"layer {layer}: the model has layers 0 to {len(layers) - 1}")
        self._layers = layers
        self.layer = layer
        self._far: Floats | None = None

    @property
    def dim(self) -> int:
        """Length of keys and values."""
        return int(self._engine.model.config.get_text_config().hidden_size)

    def states(self, prompts: Sequence[AnyPrompt], batch: int = 64) -> Floats:
        """What goes into the MLP at the last token of each prompt, shape (prompts, dim)."""
        import torch

        ids = _tokens.prompt_ids(prompts, self._engine.tokenizer)
        found = np.empty((len(ids), self.dim), dtype=np.float32)
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        with torch.no_grad(), self._only_to_layer():
            shared = _shared(ids)
            past = self._read(ids[0][:shared]) if shared else []
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                tokens, mask = self._padded([ids[i][shared:] for i in rows])
                mask = torch.cat([mask.new_ones(len(rows), shared), mask], dim=1)
                seen: list[Any] = []
                with self._looking(seen.append):
                    self._decoder(
                        tokens,
                        attention_mask=mask,
                        position_ids=_positions(mask)[:, shared:],
                        past_key_values=_cache(past, len(rows)),
                        use_cache=True,
                    )
                found[rows] = seen[0][:, -1].float().cpu().numpy()
        return found

    def metric(self) -> Metric:
        """How far apart states of this layer are, from questions of our own in several wordings."""
        phrasings = json.loads(PHRASINGS.read_text(encoding="utf-8"))
        asked = [[_chat(text) for text in texts] for texts in wordings(phrasings)]
        return fitted(self._states_of(asked))

    def learn(self, exercises: Sequence[Exercise], study: Study | None = None) -> list[Learned]:
        """A value for each exercise.

        Raises:
            InvalidInput: an exercise has no prompt or no answer.
        """
        study = study or Study()
        done: list[Learned] = []
        batch: list[Exercise] = []
        for i, exercise in enumerate(exercises):
            if not exercise.prompts or not exercise.answer:
                raise InvalidInput(f"exercise {i} needs a prompt and an answer")
            if batch and sum(len(one.prompts) for one in (*batch, exercise)) > study.batch:
                done += self._learn(batch, study)
                batch = []
            batch.append(exercise)
        return done + (self._learn(batch, study) if batch else [])

    def _learn(self, exercises: Sequence[Exercise], study: Study) -> list[Learned]:
        """A batch: all prompts at once, one value per exercise, each until it holds."""
        import torch

        lesson = _Lesson(self, exercises)
        count = len(exercises)
        values = lesson.first.clone().requires_grad_(True)
        adam = torch.optim.Adam([values], lr=study.rate)
        kept, steps = values.detach().clone(), [study.steps] * count
        losses, held = [float("inf")] * count, torch.zeros(count, dtype=torch.bool)
        for step in range(study.steps + 1):
            rows = (~held[lesson.owner]).nonzero()[:, 0]
            if not len(rows):
                break
            mean, worst = lesson.loss(values, rows)
            for i in lesson.owner[rows].unique().tolist():
                mine = lesson.owner[rows] == i
                losses[i] = float(mean.detach()[mine].mean())
                if bool(worst[mine].max() <= study.enough):
                    held[i], steps[i] = True, step
                    kept[i] = values.detach()[i]
            if step < study.steps:
                adam.zero_grad()
                mean.sum().backward()
                adam.step()
        kept[~held] = values.detach()[~held]
        return [
            Learned(kept[i].cpu().numpy(), lesson.spans[i], bool(held[i]), steps[i], losses[i])
            for i in range(count)
        ]

    def answers(
        self,
        prompts: Sequence[AnyPrompt],
        max_tokens: int,
        entries: Entries,
        named: Sequence[Sequence[str]] | None = None,
        batch: int = 32,
    ) -> list[tuple[Generation, int]]:
        """Greedy answers with a codebook, and the entry that each prompt fired, or -1.

        Args:
            prompts: what is asked.
            max_tokens: most tokens of an answer.
            entries: the codebook's.
            named: of each prompt the edits that somebody else has found it to be about, whose
                entries alone count, whatever their radius; ``None`` leaves it to the radii.
            batch: prompts that run at once; at most the engine's own number.

        Raises:
            InvalidInput: as the engine's ``generate``.
        """
        lengths = [len(ids) for ids in _tokens.prompt_ids(prompts, self._engine.tokenizer)]
        # As the engine orders the prompts of one call, so that its rows are these.
        order = sorted(range(len(prompts)), key=lambda i: (lengths[i], i))
        done: dict[int, tuple[Generation, int]] = {}
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            about = None if named is None else [named[i] for i in rows]
            with self.applied(entries, about) as fired:
                said = self._engine.generate([prompts[i] for i in rows], max_tokens)
            done.update(zip(rows, zip(said, fired, strict=True), strict=True))
        return [done[i] for i in range(len(prompts))]

    def lessons(
        self,
        edits: Sequence[Edit],
        *,
        subjects: Sequence[str] = (),
        study: Study | None = None,
        reach: Reach | None = None,
        metric: Metric | None = None,
    ) -> list[tuple[Lesson, Learned]]:
        """What each edit brings to a codebook, for chats.

        Its keys are the states after its prompt, alone and in frames. Their radii follow from how
        far prompts are that are not about it: its own prompt about other subjects, and what people
        say to models otherwise.

        Args:
            edits: each with a prompt and a target.
            subjects: names to put into prompts in the place of the edit's own; those of the edits
                by default.
            study: how values are learned.
            reach: how radii follow from distances.
            metric: of the codebook that the lessons are for.

        Raises:
            InvalidEdit: an edit has no target.
        """
        reach = reach or Reach()
        asked = [[_chat(text) for text in in_scope(edit)] for edit in edits]
        learned = self.learn(
            [
                Exercise(prompts, edit.target or "")
                for prompts, edit in zip(asked, edits, strict=True)
            ],
            study,
        )
        names = list(subjects) or [edit.subject for edit in edits if edit.subject]
        others = [[_chat(t) for t in out_of_scope(edit, names, reach.others)] for edit in edits]
        keys, near = self._states_of(asked), self._states_of(others)
        if self._far is None:
            self._far = self.states([_chat(text) for text in unrelated()])
        made = []
        for edit, one, own, other in zip(edits, learned, keys, near, strict=True):
            n = len(own)
            outside = placed(metric, np.concatenate([self._far, other]))
            apart = separations(metric, placed(metric, own), outside)
            radii = reach.share * apart.min(axis=1)
            values, spans = np.tile(one.value, (n, 1)), np.full(n, one.span)
            made.append((Lesson(edit.id, edit.target or "", own, radii, values, spans), one))
        return made

    def _states_of(self, groups: Sequence[Sequence[AnyPrompt]]) -> list[Floats]:
        """:meth:`states` of each group."""
        rows = self.states([prompt for group in groups for prompt in group])
        ends = np.cumsum([len(group) for group in groups])
        return list(np.split(rows, ends[:-1])) if len(groups) else []

    def _read(self, ids: Sequence[int]) -> list[tuple[Any, Any]]:
        """What layers keep of tokens that several prompts begin with: keys and values of each."""
        import torch

        tokens, mask = self._padded([ids])
        cache = _cache([], 1)
        with torch.no_grad():
            self._decoder(tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
        return [(one.keys, one.values) for one in cache.layers]

    @contextmanager
    def applied(
        self, entries: Entries, named: Sequence[Sequence[str]] | None = None
    ) -> Iterator[list[int]]:
        """The engine with a codebook, generating and rating.

        Args:
            entries: the codebook's.
            named: as for :meth:`answers`, of one batch's prompts in their order there.

        Yields:
            What the prompts of the batch that ran last have fired, as it is filled in.
        """
        import torch

        fired: list[int] = []
        values = torch.from_numpy(entries.values)
        spans = torch.from_numpy(entries.spans)
        ahead: list[int] = []
        found = start = stop = torch.empty(0)

        def replace(_: Any, args: tuple[Any, ...], out: Any) -> Any:
            nonlocal ahead, found, start, stop
            width = out.shape[1]
            if self._engine.ahead is not ahead:  # prompts; what follows is answers, a token each
                ahead = self._engine.ahead
                start = width - 1 - torch.tensor(ahead)
                queries = args[0][torch.arange(len(ahead)), start].float().cpu().numpy()
                fired[:] = entries.lookup(queries, named).tolist()
                found = torch.tensor(fired)
                span = spans[found.clamp(min=0)] if len(spans) else torch.zeros_like(found)
                stop = torch.where(found < 0, start, start + span.where(span > 0, 1 << 30))
            places = torch.arange(width)
            live = (places >= start[:, None]) & (places < stop[:, None])
            start, stop = start - width, stop - width
            if live.any():
                rows = live.nonzero()[:, 0]
                out = out.clone()
                out[live.to(out.device)] = values[found[rows]].to(out)
            return out

        hook = self._layers[self.layer].mlp.register_forward_hook(replace)
        try:
            yield fired
        finally:
            hook.remove()

    @contextmanager
    def _looking(self, see: Any) -> Iterator[None]:
        """``see`` gets what goes into the MLP, shape (rows, tokens, dim)."""
        hook = self._layers[self.layer].mlp.register_forward_pre_hook(
            lambda _, args: see(args[0]) and None
        )
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def _only_to_layer(self) -> Iterator[None]:
        """Layers behind the wrapped one do nothing."""
        with _passing(self._layers[self.layer + 1 :]):
            yield

    def _padded(self, ids: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Token ids and mask, (rows, longest), filled up on the left."""
        import torch

        width = max(map(len, ids))
        tokens = torch.zeros((len(ids), width), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for row, of_prompt in enumerate(ids):
            tokens[row, width - len(of_prompt) :] = torch.tensor(of_prompt)
            mask[row, width - len(of_prompt) :] = 1
        device = self._engine.model.device
        return tokens.to(device), mask.to(device)


def _chat(text: str) -> ChatPrompt:
    return ChatPrompt(({"role": "user", "content": text},))


class _Lesson:
    """A batch of exercises, read into the model up to where values begin to matter.

    What stands before the last token of a prompt, and all layers below the wrapped one, do not
    depend on the values: they are computed once.

    Attributes:
        first: the MLP's own output at the last token, the mean over an exercise's prompts, shape
            (exercises, dim).
        owner: whose prompt each row is, shape (rows,).
        spans: tokens of each exercise's answer.
    """

    def __init__(self, grace: GraceLocal, exercises: Sequence[Exercise]) -> None:
        import torch

        engine = grace._engine
        self._model: Any = engine.model
        self._decoder: Any = grace._decoder
        self._layers: Any = grace._layers
        self._layer = grace.layer
        rows = [(i, prompt) for i, one in enumerate(exercises) for prompt in one.prompts]
        pairs = _tokens.forced(
            [prompt for _, prompt in rows], [exercises[i].answer for i, _ in rows], engine.tokenizer
        )
        device = self._model.device
        self.owner = torch.tensor([i for i, _ in rows], device=device)
        # A chat's turn ends with its answer.
        endings = [
            [engine.tokenizer.eos_token_id] if isinstance(prompt, ChatPrompt) else []
            for _, prompt in rows
        ]
        answers = [
            [*pair.ids[pair.start :], *end] for pair, end in zip(pairs, endings, strict=True)
        ]
        self.spans = [
            max(len(answers[row]) for row, (owner, _) in enumerate(rows) if owner == i)
            for i in range(len(exercises))
        ]
        before = [pair.ids[: pair.start - 1] for pair in pairs]
        said = [
            [pair.ids[pair.start - 1], *answer[:-1]]
            for pair, answer in zip(pairs, answers, strict=True)
        ]
        shared = _shared([[*left, right[0]] for left, right in zip(before, said, strict=True)])
        # Between what all prompts begin with and the rest of the shorter ones there is padding.
        self._width = max(1, *map(len, before))
        width = max(map(len, said))
        tokens = torch.zeros((len(rows), self._width + width), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        labels = torch.full((len(rows), width), -100)
        for row, (left, right, answer) in enumerate(zip(before, said, answers, strict=True)):
            rest = self._width - len(left) + shared
            tokens[row, :shared] = torch.tensor(left[:shared])
            tokens[row, rest : self._width] = torch.tensor(left[shared:])
            tokens[row, self._width : self._width + len(right)] = torch.tensor(right)
            mask[row, :shared] = 1
            mask[row, rest : self._width + len(right)] = 1
            labels[row, : len(answer)] = torch.tensor(answer)
        self._tokens, self._mask, self._labels = (
            part.to(device) for part in (tokens, mask, labels)
        )
        past = grace._read(before[0][:shared]) if shared else []
        self._cache = _cache(past, len(rows))
        seen: dict[str, Any] = {}
        wrapped = self._layers[self._layer]
        hooks = [
            wrapped.mlp.register_forward_hook(lambda _, __, out: seen.update(out=out)),
            wrapped.register_forward_pre_hook(
                lambda _, args, kwargs: seen.update(into=args[0] if args else None, **kwargs),
                with_kwargs=True,
            ),
        ]
        try:
            with torch.no_grad():
                if shared < self._width:
                    self._run(slice(shared, self._width), torch.arange(len(rows), device=device))
                self._past = [(one.keys, one.values) for one in self._cache.layers]
                self._run(slice(self._width, None), torch.arange(len(rows), device=device))
        finally:
            for hook in hooks:
                hook.remove()
        into = seen["into"] if seen["into"] is not None else seen["hidden_states"]
        self._into = into.detach()
        first = seen["out"][:, 0].detach().float()
        self.first = torch.stack([first[self.owner == i].mean(0) for i in range(len(exercises))])

    def loss(self, values: Any, rows: Any) -> tuple[Any, Any]:
        """Of each row, the mean and the highest loss of its answer's tokens, in nats."""
        from torch.nn.functional import cross_entropy

        for i, (keys, held) in enumerate(self._past):
            if i in (0, *range(self._layer, len(self._past))):  # the first tells the length
                self._cache.layers[i].keys = keys[rows]
                self._cache.layers[i].values = held[rows]
        mine = values[self.owner[rows]][:, None]
        wrapped = self._layers[self._layer]
        hook = wrapped.mlp.register_forward_hook(lambda _, __, out: mine.to(out).expand_as(out))
        below = self._layers[: self._layer]
        last = below[-1] if len(below) else None
        try:
            with _passing(below, **({} if last is None else {"last": self._into[rows]})):
                hidden = self._run(slice(self._width, None), rows)
        finally:
            hook.remove()
        labels = self._labels[rows]
        asked = labels >= 0
        logits = self._model.get_output_embeddings()(hidden[asked]).float()
        each = cross_entropy(logits, labels[asked], reduction="none")
        laid = each.new_zeros(labels.shape).masked_scatter(asked, each)
        return laid.sum(1) / asked.sum(1), laid.detach().max(1).values

    def _run(self, columns: slice, rows: Any) -> Any:
        """The last hidden states of these columns, behind what the cache holds."""
        mask = self._mask[rows][:, : columns.stop]
        return self._decoder(
            self._tokens[rows][:, columns],
            attention_mask=mask,
            position_ids=_positions(self._mask[rows])[:, columns],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """With how many tokens all of these begin, the last one of each left out."""
    first, least = ids[0] if ids else (), min(map(len, ids), default=1) - 1
    for at in range(least):
        if any(one[at] != first[at] for one in ids):
            return at
    return least


def _cache(past: Sequence[tuple[Any, Any]], rows: int) -> Any:
    """A cache in which each row has this past, of one row."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(past):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def _positions(mask: Any) -> Any:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@contextmanager
def _passing(layers: Any, last: Any = None) -> Iterator[None]:
    """These decoder layers give back what they get; the last of them gives ``last``, if any."""
    try:
        for layer in layers:
            layer.forward = _pass
        if last is not None:
            layers[-1].forward = lambda *_, **__: last
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _pass(hidden_states: Any, *_: Any, **__: Any) -> Any:
    return hidden_states
