"""From a question to its readings: where it starts, and along which relations it goes.

:func:`~memedit.multihop.start.starts` finds the entity, which is masked; the packaged encoder reads
the masked question; a trained decoder
(:class:`~memedit.multihop.decoder.ChainDecoder`) names the relations of the library one after the
other. A beam keeps the likeliest chains. ``memedit multihop train`` makes the weights that lie in
``weights/``, 2.3 MB.

Source: that a question is a chain of relations from an entity is how MQuAKE's are made (Zhong et
al. 2023, arXiv:2305.14795).
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memedit.encoders import packaged_folder, without_bars
from memedit.errors import ConfigError, MissingDependency
from memedit.multihop.chain import Reading
from memedit.multihop.relations import library
from memedit.multihop.start import Span, starts
from memedit.scope.relation import MASK
from memedit.sentences import split_sentences

BEAM = 8
"""Readings that a question has at most."""

HOPS = 4
"""Longest chain, in hops."""

NESTED = 0.6
"""Probability of several hops from which a question is taken hop by hop: at 0.6 two of the 498
search questions with even places are, and 99.6 % of MQuAKE's tuning questions."""

LONGEST = 64
"""So many tokens of a question are read."""

DOUBTFUL = 0.25
"""From this probability of several hops on a question is taken hop by hop where the memory has an
edit for the first hop of a reading, which is evidence of its own."""

LAYERS = (2, 4, 6)
"""The encoder's layers whose token states are read side by side; its last says more of the whole
sentence and less of each word."""

LONGEST_QUESTION = 400
"""A sentence of more characters is no question to divide."""

_FOLDER = Path(__file__).with_name("weights")
_BATCH = 64
_REMEMBERED = 4_096
_LONGEST_TEXT = 4_000


class Decomposer:
    """The trained decomposer, loaded at its first use, with a cache. Thread-safe.

    Args:
        folder: weights as ``memedit multihop train`` writes them; the shipped ones where ``None``.
        threads: CPU threads for torch while it reads, or ``None`` for torch's own choice.
    """

    def __init__(self, folder: Path | None = None, *, threads: int | None = 1) -> None:
        self._folder = folder or _FOLDER
        self._threads = threads
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Reading, ...]] = {}

    def read(self, questions: Sequence[str]) -> list[tuple[Reading, ...]]:
        """The readings of each question, the likeliest first, at most :data:`BEAM`.

        A question that names nobody, or asks nothing that the library has, has none. Of several
        sentences the last that asks something counts.

        Raises:
            MissingDependency: torch, transformers or the packaged encoder is not installed.
            ConfigError: the weights are missing, damaged or of another library.
        """
        with self._lock:
            new = [text for text in dict.fromkeys(questions) if text not in self._known]
            if len(self._known) + len(new) > _REMEMBERED:
                self._known = {t: self._known[t] for t in questions if t in self._known}
            spans = [_start(text) for text in new]
            asked = [
                (text, span, _masked(text, span))
                for text, span in zip(new, spans, strict=True)
                if span is not None
            ]
            chains = self._model.chains([masked for _, _, masked in asked]) if asked else []
            self._known.update(dict.fromkeys(new, ()))
            for (text, span, _), found in zip(asked, chains, strict=True):
                start = text[slice(*span)]
                self._known[text] = tuple(Reading(start, names, p) for names, p in found)
            return [self._known[text] for text in questions]

    @functools.cached_property
    def _model(self) -> _Model:
        return _Model(self._folder, self._threads)


@functools.cache
def shipped() -> Decomposer:
    """The shipped decomposer, one for all who ask it."""
    return Decomposer()


def nested(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """The readings of more than one hop, where the question may well be one of several.

    That is where these together reach :data:`NESTED` (see :func:`surely_nested`), or reach
    :data:`DOUBTFUL` and are likelier than the readings of one hop.
    """
    several = tuple(reading for reading in readings if len(reading.relations) > 1)
    mass = _together(several)
    doubtful = mass >= DOUBTFUL and mass > _together(readings) - mass
    return several if doubtful or surely_nested(several) else ()


def surely_nested(several: Sequence[Reading]) -> bool:
    """Whether readings of more than one hop come to :data:`NESTED` together."""
    return _together(several) >= NESTED


def _together(readings: Sequence[Reading]) -> float:
    return sum(reading.probability for reading in readings)


_NESTING = re.compile(
    r"(?<!\w)(?:of|for|that|which|who|whom|whose|where|by|in which)(?!\w)|[’']s?(?=\s)",
    re.IGNORECASE,
)


def may_be_nested(text: str) -> bool:
    """Whether a text may be a question of several hops, by its small words alone: no model."""
    for start, end in split_sentences(text)[-4:] if len(text) <= _LONGEST_TEXT else ():
        if end - start <= LONGEST_QUESTION and len(_NESTING.findall(text, start, end)) > 1:
            return True
    return False


def _start(text: str) -> Span | None:
    """Where the last sentence that may ask something names its start."""
    sentences = [s for s in split_sentences(text) if s[1] - s[0] <= LONGEST_QUESTION]
    asking = [s for s in sentences if text[slice(*s)].rstrip(" \"'”)").endswith("?")]
    for start, end in reversed((asking or sentences)[-2:]):
        if found := starts(text[start:end]):
            return start + found[0][0], start + found[0][1]
    return None


def _masked(text: str, span: Span) -> str:
    """The sentence around a span, with the mask for it."""
    for start, end in split_sentences(text):
        if start <= span[0] < end:
            last = max(end, span[1])
            return (text[start : span[0]] + MASK + text[span[1] : last]).strip()
    return text[: span[0]] + MASK + text[span[1] :]


class _Model:
    """The packaged encoder as it is, and the decoder."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        try:
            import torch
            from safetensors.torch import load_file
            from transformers import AutoModel, AutoTokenizer

            from memedit.multihop.decoder import ChainDecoder
        except ImportError as error:
            raise MissingDependency(
                "the decomposer needs torch, transformers and safetensors: "
                "pip install 'memedit[models]'"
            ) from error
        self._torch = torch
        self._threads = threads
        base = packaged_folder()
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        except Exception as error:
            raise ConfigError(
                f"the decomposer {folder} cannot be read ({error}); make it again with 'memedit "
                "multihop train', or install memedit again"
            ) from error
        self._names = tuple(library())
        if tuple(config["relations"]) != self._names:
            raise ConfigError(
                f"the decomposer {folder} is of another library of relations; make it again with "
                "'memedit multihop train'"
            )
        with without_bars():
            self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            encoder = AutoModel.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        try:
            self._decoder = ChainDecoder(
                len(self._names) + 2, len(LAYERS) * encoder.config.hidden_size
            )
            self._decoder.load_state_dict(tensors)
        except RuntimeError as error:
            raise ConfigError(
                f"the decomposer {folder} does not fit the packaged encoder ({error}); make it "
                "again with 'memedit multihop train'"
            ) from error
        self._decoder.eval()
        self._encoder = encoder.eval()

    def chains(self, texts: Sequence[str]) -> list[list[tuple[tuple[str, ...], float]]]:
        """For each masked text its chains with their probabilities, the likeliest first."""
        torch = self._torch
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        found: list[list[tuple[tuple[str, ...], float]]] = [[] for _ in texts]
        try:
            with torch.inference_mode():
                order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
                for at in range(0, len(order), _BATCH):
                    places = order[at : at + _BATCH]
                    for place, chains in zip(
                        places, self._beams([texts[i] for i in places]), strict=True
                    ):
                        found[place] = chains
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)
        return found

    def _beams(self, texts: list[str]) -> list[list[tuple[tuple[str, ...], float]]]:
        torch, decoder = self._torch, self._decoder
        inputs = encoded(self._tokenizer, texts)
        states = token_states(self._encoder, inputs)
        hidden, keys, values = decoder.prepared(states, inputs["places"])
        rows, end = len(texts), len(self._names)
        # One beam at first; (rows, beams) throughout, flattened for the decoder.
        scores = torch.zeros(rows, 1)
        chains: list[list[tuple[int, ...]]] = [[()] for _ in texts]
        hidden, seen = hidden.unsqueeze(1), torch.zeros_like(hidden).unsqueeze(1)
        last = decoder.first.expand(rows, 1, -1)
        done: list[list[tuple[tuple[str, ...], float]]] = [[] for _ in texts]
        for step in range(HOPS + 1):
            beams = scores.shape[1]

            def spread(one: Any, beams: int = beams) -> Any:
                return one.unsqueeze(1).expand(-1, beams, *one.shape[1:]).flatten(0, 1)

            flat = (hidden.flatten(0, 1), last.flatten(0, 1), seen.flatten(0, 1))
            mask = spread(inputs["mask"])
            new, looked, odds = decoder.step(
                *flat, spread(keys), spread(values), mask, decoder.symbols
            )
            total = scores.unsqueeze(-1) + odds.log_softmax(-1).view(rows, beams, -1)
            for row in range(rows):
                for beam in range(beams):
                    if step:
                        names = tuple(self._names[i] for i in chains[row][beam])
                        done[row].append((names, float(total[row, beam, end].exp())))
            best, index = total[..., :end].flatten(1).topk(BEAM, -1)
            beam_of, symbol = index // end, index % end
            scores = best
            chains = [
                [(*held[beam], name) for beam, name in zip(beams_of, names, strict=True)]
                for held, beams_of, names in zip(
                    chains, beam_of.tolist(), symbol.tolist(), strict=True
                )
            ]
            take = (torch.arange(rows).unsqueeze(1), beam_of)
            hidden = new.view(rows, beams, -1)[take]
            seen = looked.view(rows, beams, -1)[take]
            last = decoder.symbols[symbol]
        return [sorted(of_text, key=lambda one: -one[1])[:BEAM] for of_text in done]


def encoded(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Token ids and which there are, (texts, tokens), and where each mask stands, (texts,)."""
    import torch

    rows = [tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"] for text in texts]
    width, mask_id = max(map(len, rows)), tokenizer.mask_token_id
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    places = torch.tensor([row.index(mask_id) if mask_id in row else 0 for row in rows])
    return {"ids": ids, "mask": mask, "places": places}


def token_states(encoder: Any, inputs: Mapping[str, Any]) -> Any:
    """The token states of :data:`LAYERS` side by side, (texts, tokens, dim).

    Args:
        encoder: the packaged one.
        inputs: of :func:`encoded`.
    """
    import torch

    layers = encoder(
        input_ids=inputs["ids"], attention_mask=inputs["mask"].long(), output_hidden_states=True
    ).hidden_states
    return torch.cat([layers[layer] for layer in LAYERS], -1)
