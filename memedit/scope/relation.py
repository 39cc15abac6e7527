"""Does a query ask for the relation that an edit states? :class:`RelationVerifier`.

A cross-encoder: both texts, with :data:`MASK` for the subject, go through all-MiniLM-L6-v2 as one
pair, and a linear head on the mean of its last states says how likely they ask the same. The
encoder is the packaged one; what was trained is a low-rank change of its matrices (LoRA) and the
head, 1.3 MB, which lie beside this file in the layout of a PEFT adapter.

Source: LoRA, Hu et al. 2022 (arXiv:2106.09685). That a classifier reads query and edit together
is SERAC's idea (Mitchell et al. 2022, arXiv:2206.06520); that it is told which part is the
subject is PokeMQA's (Gu et al. 2024, arXiv:2312.15194).
"""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.encoders import packaged_folder, without_bars
from memedit.errors import ConfigError, MissingDependency

MASK = "[MASK]"
"""What stands for the subject in both texts: the encoder's own token for a word left out."""

PREFIX = "base_model.model."
"""PEFT's prefix of the names of tensors in an adapter."""

HEAD = ("head.weight", "head.bias")

LONGEST = 48
"""So many of each text's last tokens are read."""

_FOLDER = Path(__file__).with_name("verifier")
_BATCH = 64
_LONGEST_CACHED = 512


class RelationVerifier:
    """The trained verifier, loaded at its first use, with a cache. Thread-safe.

    Args:
        folder: an adapter as ``memedit scope train`` writes it; the one that is shipped where it
            is ``None``.
        device: as torch names it; by default the processor.
        cache_size: how many pairs to remember the answers to; 0 for none. Edits share their
            wordings, so most pairs of a busy server are known.
        threads: CPU threads for torch while it reads, or ``None`` for torch's own choice.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        device: str = "cpu",
        cache_size: int = 65_536,
        threads: int | None = 1,
    ) -> None:
        self._folder = folder or _FOLDER
        self._device = device
        self._cache_size = cache_size
        self._threads = threads
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.hits = 0
        """Pairs that were answered from the cache."""
        self.misses = 0
        """Pairs that the model had to read."""

    @property
    def folder(self) -> Path:
        """Where the adapter lies."""
        return self._folder

    def logits(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """For each pair of a query's text and an edit's, the log-odds that they ask the same.

        Returns:
            Shape (len(pairs),), float64. On processors that compute in bfloat16 values differ in
            the second decimal from those of others.

        Raises:
            MissingDependency: torch, transformers or the packaged encoder is not installed.
            ConfigError: the adapter is missing, damaged or of another encoder.
        """
        if not pairs:
            return np.zeros(0)
        found: dict[tuple[str, str], float] = {}
        with self._lock:
            for pair in dict.fromkeys(pairs):
                if (known := self._cache.get(pair)) is not None:
                    self._cache.move_to_end(pair)
                    found[pair] = known
            missing = [pair for pair in dict.fromkeys(pairs) if pair not in found]
            self.hits += len(found)
            self.misses += len(missing)
            if missing:
                fresh = dict(zip(missing, self._model.logits(missing), strict=True))
                found |= fresh
                if self._cache_size:
                    self._cache.update(
                        (pair, value)
                        for pair, value in fresh.items()
                        if len(pair[0]) + len(pair[1]) <= _LONGEST_CACHED
                    )
                    while len(self._cache) > self._cache_size:
                        self._cache.popitem(last=False)
        return np.array([found[pair] for pair in pairs])

    @functools.cached_property
    def _model(self) -> _Model:
        return _Model(self._folder, self._device, self._threads)


@functools.cache
def shipped() -> RelationVerifier:
    """The shipped verifier, one for all who ask it."""
    return RelationVerifier()


class _Model:
    """MiniLM with the adapter merged into its matrices."""

    def __init__(self, folder: Path, device: str, threads: int | None) -> None:
        try:
            import torch
            from safetensors import safe_open
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingDependency(
                "the scope verifier needs torch, transformers and safetensors: "
                "pip install 'memedit[models]'"
            ) from error
        self._torch = torch
        self._threads = threads
        self._device = device
        base = packaged_folder()
        tensors: dict[str, Any] = {}
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            scale = float(config["lora_alpha"]) / int(config["r"])
            with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    tensors[name] = file.get_tensor(name).float()
        except Exception as error:
            raise ConfigError(
                f"the scope verifier {folder} cannot be read ({error}); make it again with "
                "'memedit scope train', or install memedit again"
            ) from error
        with without_bars():
            self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            model = AutoModel.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        try:
            self._head_weight, self._head_bias = (tensors.pop(PREFIX + name) for name in HEAD)
            modules = dict(model.named_modules())
            with torch.no_grad():
                for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
                    stem = name.removesuffix(".lora_A.weight")
                    down, up = tensors.pop(name), tensors.pop(f"{stem}.lora_B.weight")
                    modules[stem.removeprefix(PREFIX)].weight += scale * (up @ down)
            if tensors:
                raise KeyError(next(iter(tensors)))
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f"the scope verifier {folder} does not fit the packaged encoder ({error}); make it "
                "again with 'memedit scope train'"
            ) from error
        # On a processor without bfloat16 instructions it would be emulated, and slow.
        fast = device != "cpu" or (torch.backends.mkldnn.is_available() and _has_bfloat16(torch))
        self._model = model.to(device, torch.bfloat16 if fast else torch.float32).eval()
        self._ids = functools.lru_cache(maxsize=65_536)(self._encoded)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The log-odds of these pairs, those of like length together."""
        torch = self._torch
        before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        values = [0.0] * len(pairs)
        try:
            with torch.inference_mode():
                for places, *inputs in self._batches(pairs):
                    for place, value in zip(places, self._read(*inputs), strict=True):
                        values[place] = value
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)
        return values

    def _batches(self, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, ...]]:
        rows = [pair_ids(self._ids(query), self._ids(key)) for query, key in pairs]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            yield (places, *padded(self._torch, [rows[i] for i in places], self._device))

    def _read(self, ids: Any, types: Any, mask: Any) -> list[float]:
        states = self._model(
            input_ids=ids, token_type_ids=types, attention_mask=mask
        ).last_hidden_state.float()
        pooled = mean_of(states, mask)
        logits = pooled @ self._head_weight.T.to(pooled) + self._head_bias.to(pooled)
        return [float(value) for value in logits.squeeze(-1).tolist()]

    def _encoded(self, text: str) -> tuple[int, ...]:
        return token_ids(self._tokenizer, text)


def token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The last :data:`LONGEST` tokens of a text, without the marks around it."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return tuple(tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"][-LONGEST:])


def pair_ids(query: Sequence[int], key: Sequence[int]) -> tuple[list[int], list[int]]:
    """Token ids and types of a pair: ``[CLS] query [SEP] key [SEP]``."""
    first = [_CLS, *query, _SEP]
    second = [*key, _SEP]
    return first + second, [0] * len(first) + [1] * len(second)


def padded(torch: Any, rows: Sequence[tuple[list[int], list[int]]], device: str) -> tuple[Any, ...]:
    """Token ids, types and attention mask, each of shape (rows, longest row), int64."""
    width = max(len(ids) for ids, _ in rows)
    tensors = (
        [ids + [0] * (width - len(ids)) for ids, _ in rows],
        [types + [0] * (width - len(types)) for _, types in rows],
        [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
    )
    return tuple(torch.tensor(rows, dtype=torch.long, device=device) for rows in tensors)


def mean_of(states: Any, mask: Any) -> Any:
    """The mean of each row's states over its tokens: (rows, tokens, dim) to (rows, dim)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


_CLS, _SEP = 101, 102


def _has_bfloat16(torch: Any) -> bool:
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check is not None and check())
