"""A transformers model in process as an engine: slower than vLLM, and its weights are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from memedit.adapters import _tokens
from memedit.adapters._described import Described
from memedit.encoders import without_bars
from memedit.errors import InvalidInput, MissingDependency, Unsupported
from memedit.protocols import Capability, Feed, Generation, Scored

_WEIGHTS: frozenset[Capability] = frozenset({"weights"})


class TransformersLocal(Described):
    """A language model in transformers, in this process.

    Prompts run in padded batches of similar length. Which prompts share one follows from their
    lengths and places in the list alone, so that the same list gives the same answers.

    Args:
        model: folder or hub name.
        device: torch's name for it; ``cuda`` where there is one, else ``cpu``.
        dtype: ``bfloat16``, ``float16``, ``float32``; ``auto`` is what the model was saved in.
        batch_size: how many prompts run at once. Another number gives other batches, and answers
            that may differ in a few places.
        max_model_len: longest prompt and answer together, in tokens; the model's by default.

    Attributes:
        model: the ``torch.nn.Module``, in evaluation mode; ``None`` once closed.
        ahead: of each row of the batch that runs, how many tokens of its first pass stand behind
            the prompt; another list for each batch.
        tokenizer: its tokenizer.

    Raises:
        MissingDependency: transformers or torch is not installed.
        InvalidInput: the model cannot be loaded with these options.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 32,
        max_model_len: int | None = None,
    ) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingDependency(
                "this engine needs torch and transformers, which every install of memedit brings; "
                "install memedit with the extra cpu or gpu"
            ) from error
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; a batch takes at least 1 prompt")
        self._name = _tokens.short_name(str(model))
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            with without_bars():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
                loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
            self.model: Any = loaded.to(self._device).eval()
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InvalidInput(f"transformers cannot load {self._name}: {error}") from error
        self.ahead: list[int] = []
        self._batch_size = batch_size
        self._limit = _limit(self.model.config, max_model_len)
        self._stops = _stops(self.model, self.tokenizer)
        self._capabilities = _tokens.capabilities(self.tokenizer).union(_WEIGHTS)
        self._description = {
            "engine": "transformers",
            "model": self._name,
            "versions": _tokens.versions("transformers", "torch"),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "deterministic": True,
            "device": self._device,
            "max_model_len": self._limit,
            "batch_size": batch_size,
        }

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[Generation]:
        """Greedy answers; see :class:`memedit.protocols.Engine`.

        An answer ends early where the model's length does.
        """
        self._check_open()
        _tokens.check_budget(max_tokens)
        ids = _tokens.prompt_ids(prompts, self.tokenizer)
        _tokens.check_fits(map(len, ids), self._limit, "prompt")
        answers: dict[int, list[int]] = {}
        rooms = {
            i: min(max_tokens, self._limit - len(of_prompt)) for i, of_prompt in enumerate(ids)
        }
        by_length = sorted(rooms, key=lambda i: (len(ids[i]), i))
        # Prompts near the limit have less room than others and run with their like.
        for room, alike in groupby(by_length, key=rooms.__getitem__):
            for batch in _batches(list(alike), self._batch_size):
                answers.update(
                    zip(batch, self._answers([ids[i] for i in batch], room), strict=True)
                )
        return [
            Generation(self._text(of_prompt, answers[i]), len(of_prompt), len(answers[i]))
            for i, of_prompt in enumerate(ids)
        ]

    def flow(self, feed: Feed) -> None:
        """In rounds, each of all that was given in the one before; see
        :class:`memedit.protocols.Engine`. An answer is written to its end and cut at its stop.
        """
        asked = feed(())
        while asked:
            done: list[tuple[int, Generation]] = []
            for room in sorted({request.max_tokens for _, request in asked}):
                alike = [(number, one) for number, one in asked if one.max_tokens == room]
                said = self.generate([one.prompt for _, one in alike], room)
                for (number, request), answer in zip(alike, said, strict=True):
                    ends = [at for stop in request.stop if (at := answer.text.find(stop)) >= 0]
                    text = answer.text[: min(ends)] if ends else answer.text
                    done.append((number, replace(answer, text=text)))
            asked = feed(done)

    def score(self, prompts: Sequence[Any], continuations: Sequence[str]) -> list[Scored]:
        """Each continuation after its prompt; see :class:`memedit.protocols.Engine`."""
        self._check_open()
        pairs = _tokens.forced(prompts, continuations, self.tokenizer)
        _tokens.check_fits((len(p.ids) for p in pairs), self._limit, "prompt and continuation")
        rated: dict[int, Scored] = {}
        by_length = sorted(range(len(pairs)), key=lambda i: (len(pairs[i].ids), i))
        for batch in _batches(by_length, self._batch_size):
            rated.update(zip(batch, self._scores([pairs[i] for i in batch]), strict=True))
        return [rated[i] for i in range(len(pairs))]

    def close(self) -> None:
        """Lets go of the model; the engine cannot be asked afterwards."""
        self.model = None

    def _check_open(self) -> None:
        if self.model is None:
            raise Unsupported("this engine is closed; make another")

    def _answers(self, ids: list[list[int]], room: int) -> list[list[int]]:
        """Per row the new tokens, at most ``room``, the one that ends the answer included."""
        import torch
        from transformers import GenerationConfig

        tokens, mask = self._padded(ids)
        self.ahead = [0] * len(ids)
        # What is not said here is taken from the model's own file, penalties included.
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_length=0,
            max_new_tokens=room,
            eos_token_id=sorted(self._stops) or None,
            pad_token_id=self._pad,
        )
        with torch.inference_mode():
            out = self.model.generate(tokens, attention_mask=mask, generation_config=greedy)
        return [self._ended(row) for row in out[:, tokens.shape[1] :].tolist()]

    def _scores(self, pairs: list[_tokens.Forced]) -> list[Scored]:
        import torch

        tokens, mask = self._padded([pair.ids for pair in pairs])
        self.ahead = [len(pair.ids) - pair.start for pair in pairs]
        keep = max(self.ahead) + 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            # All continuations end at the right edge, so that only logits near it are needed.
            logits = self.model(
                tokens, attention_mask=mask, position_ids=positions, logits_to_keep=keep
            ).logits[:, -keep:]
        scored = []
        for row, pair in zip(logits, pairs, strict=True):
            forced = pair.ids[pair.start :]
            each = row[-1 - len(forced) : -1].float().log_softmax(-1)  # (tokens, vocabulary)
            chosen = each.gather(1, torch.tensor(forced, device=each.device)[:, None])[:, 0]
            scored.append(
                Scored(tuple(chosen.tolist()), tuple(forced), tuple(each.argmax(-1).tolist()))
            )
        return scored

    def _padded(self, ids: list[list[int]]) -> tuple[Any, Any]:
        """Token ids and attention mask, (rows, longest), int64, filled up on the left."""
        import torch

        width = max(map(len, ids))
        tokens = [[self._pad] * (width - len(row)) + row for row in ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
        return torch.tensor(tokens, device=self._device), torch.tensor(mask, device=self._device)

    @property
    def _pad(self) -> int:
        """What the mask hides; any token will do."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self._stops, default=0)

    def _ended(self, row: list[int]) -> list[int]:
        for at, token in enumerate(row):
            if token in self._stops:
                return row[: at + 1]
        return row

    def _text(self, prompt: list[int], answer: list[int]) -> str:
        """The answer as it stands after its prompt: some tokenizers drop a text's first space."""
        before, whole, alone = (
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in (prompt, [*prompt, *answer], answer)
        )
        return str(whole[len(before) :] if whole.startswith(before) else alone)


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _limit(config: Any, asked: int | None) -> int:
    """Longest prompt and answer together, in tokens."""
    own: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = own if asked is None else asked
    if limit is None:
        raise InvalidInput("the model's configuration names no longest length; give max_model_len")
    if limit < 2 or limit > (own or limit):
        raise InvalidInput(f"max_model_len is {limit}; expected 2 to {own or 'any number'}")
    return limit


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, the model's and the tokenizer's, as vLLM has them."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None)
