"""What the keys of ordinary text look like: their second moment, layer by layer.

Source: Meng et al. 2022, arXiv:2202.05262, appendix E: C = E[k kᵀ] over what the down projection
gets in ordinary text. They take 100,000 samples of Wikipedia; here the user names a text file, or
the model makes a text itself, and how much of it is enough is measured by
``benchmarks/editors.py``.

What is ours: ``names`` gives a share of the moment to the keys that edits compete with, those at
the end of a name in a sentence that has only begun.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from memedit.config import cache_folder
from memedit.editors.architectures import Architecture
from memedit.editors.passes import Enough, observed
from memedit.editors.rows import Row
from memedit.editors.texts import sampled
from memedit.errors import InvalidInput

_LENGTH = 128
_ROWS = 16
# A corpus is read in pieces of so many tokens, so many at once.
_NAMES = 8
# There is one name for so many tokens.
_SENTENCE = re.compile(r"[\n\r]+|(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Where second moments come from.

    Attributes:
        corpus: a text file in UTF-8; ``None`` for text that the model makes itself.
        tokens: how much of it is read, from its start.
        seed: of the text that the model makes.
        names: the share that keys at the ends of names have, from 0 (every token counts alike, as
            in the papers) to 1. Batches then leave more of what is said of other names.
        folder: where they are kept; the cache folder by default.
    """

    corpus: Path | None = None
    tokens: PositiveInt = 32_768
    seed: int = 0
    names: float = 0.0
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.names <= 1:
            raise InvalidInput(f"names is {self.names}; expected a share from 0 to 1")

    def moments(
        self, model: Any, tokenizer: Any, architecture: Architecture, layers: Sequence[int]
    ) -> dict[int, Tensor]:
        """E[k kᵀ] of each layer, (in, in) float32, from the cache where it is there.

        What editors change plays no part in what the cache goes by, so that edits made one after
        the other all have the moments that were measured before the first of them.

        Raises:
            InvalidInput: the corpus cannot be read, is empty, or has no names where they count.
        """
        text = self._corpus_text()
        known = _Cache(
            self.folder or cache_folder() / "moments", self._hash(model, architecture, text)
        )
        found = {n: moment for n in layers if (moment := known.load(n)) is not None}
        missing = [n for n in layers if n not in found]
        if missing:
            texts = self._texts(model, tokenizer, text)
            measured = _moments(model, architecture, self._rows(tokenizer, texts), missing)
            if self.names:
                of_names = observed(model, architecture, self._named(tokenizer, texts), missing)
                for n, keys in of_names.keys.items():
                    measured[n] = torch.lerp(measured[n], keys.T @ keys / len(keys), self.names)
            for n, moment in measured.items():
                known.save(n, moment)
            found.update(measured)
        return {n: moment.to(model.device) for n, moment in found.items()}

    def describe(self) -> dict[str, Any]:
        """What a report says of them."""
        text = self._corpus_text()
        name = "the model's own" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]
        said = {"corpus": name, "tokens": self.tokens, "seed": self.seed}
        return {**said, "names": self.names} if self.names else said

    def _corpus_text(self) -> str | None:
        if self.corpus is None:
            return None
        try:
            text = self.corpus.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the corpus {self.corpus} cannot be read: {error}") from error
        if not text.strip():
            raise InvalidInput(f"the corpus {self.corpus} is empty; name a file with text")
        return text

    def _hash(self, model: Any, architecture: Architecture, text: str | None) -> str:
        edited = {f"{architecture.down_name(n)}.weight" for n in range(architecture.depth)}
        parts = [fingerprint(model, edited), str(self.tokens)]
        parts += [f"seed {self.seed}"] if text is None else [text]
        parts += [f"names {self.names}"] if self.names else []
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def _texts(self, model: Any, tokenizer: Any, text: str | None) -> list[str]:
        if text is None:
            number = -(-self.tokens // _LENGTH)
            return sampled(model, tokenizer, number, _LENGTH, seed=self.seed)
        # What is far beyond the wanted tokens need not be tokenized.
        return [text[: 12 * self.tokens]]

    def _rows(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that count."""
        if self.corpus is None:
            rows = [tokenizer(one, add_special_tokens=True).input_ids for one in texts]
        else:
            ids = tokenizer(texts[0], add_special_tokens=False).input_ids[: self.tokens]
            rows = [ids[i : i + _LENGTH] for i in range(0, len(ids), _LENGTH)]
        return [row for row in rows if row]

    def _named(self, tokenizer: Any, texts: Sequence[str]) -> list[Row]:
        """Sentences up to the end of a name in them."""
        rows = []
        for start in names(texts):
            ids = tuple(tokenizer(start).input_ids)
            # A text's first token has a state unlike any other.
            if 1 < len(ids) <= _LENGTH:
                rows.append(Row(0, ids, len(ids) - 1, len(ids)))
            if len(rows) == -(-self.tokens // _NAMES):
                break
        if not rows:
            raise InvalidInput(
                "the corpus has no names, as capital letters tell them; take one that has, or "
                "set names to 0"
            )
        return rows


def names(texts: Sequence[str]) -> Iterator[str]:
    """Each sentence up to the end of each name in it: words in a row with capital letters.

    >>> list(names(["It was Ada Lovelace who wrote to Charles. He was glad."]))
    ['It was Ada Lovelace', 'It was Ada Lovelace who wrote to Charles']
    """
    for text in texts:
        for sentence in _SENTENCE.split(text):
            words = [(m.start(), m.end()) for m in re.finditer(r"[^\W_][\w'’-]*", sentence)]
            capital = [sentence[start].isupper() for start, _ in words]
            for i, (_, end) in enumerate(words):
                goes_on = i + 1 < len(words) and capital[i + 1] and sentence[end] == " "
                alone_in_front = i == 0 and not goes_on  # a capital that says nothing
                if capital[i] and not goes_on and not alone_in_front:
                    yield sentence[:end]


def fingerprint(model: Any, without: Collection[str] = ()) -> str:
    """A hash of a model's shape and weights, by a sample of every tensor but those named."""
    found = hashlib.sha256(model.config.to_json_string().encode())
    for name, parameter in model.named_parameters():
        if name in without:
            continue
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu()
        found.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        found.update(sample.numpy().tobytes())
    return found.hexdigest()


def _moments(
    model: Any, architecture: Architecture, rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> dict[int, Tensor]:
    """The mean of k kᵀ over all tokens of the rows."""
    sums: dict[int, Tensor] = {}
    mask: Tensor
    last = max(layers)

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, args: Any) -> None:
            keys = args[0][mask.bool()].float()
            sums[layer] = sums.get(layer, 0) + keys.T @ keys
            if layer == last:
                raise Enough

        return hook

    hooks = [
        model.get_submodule(architecture.down_name(n)).register_forward_pre_hook(hook_of(n))
        for n in layers
    ]
    count = 0
    try:
        with torch.no_grad():
            for start in range(0, len(rows), _ROWS):
                chunk = rows[start : start + _ROWS]
                width = max(map(len, chunk))
                tokens = [list(row) + [0] * (width - len(row)) for row in chunk]
                kept = [[1] * len(row) + [0] * (width - len(row)) for row in chunk]
                mask = torch.tensor(kept, device=model.device)
                count += int(mask.sum())
                with suppress(Enough):
                    model.base_model(
                        input_ids=torch.tensor(tokens, device=model.device),
                        attention_mask=mask,
                        use_cache=False,
                    )
    finally:
        for one in hooks:
            one.remove()
    return {n: total / count for n, total in sums.items()}


class _Cache:
    """Moments on disk, a file a layer."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name[:32]

    def load(self, layer: int) -> Tensor | None:
        from safetensors.torch import load_file

        file = self._folder / f"layer-{layer}.safetensors"
        return load_file(file)["moment"] if file.exists() else None

    def save(self, layer: int, moment: Tensor) -> None:
        from safetensors.torch import save_file

        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as draft:
            made = Path(draft) / "moment"
            save_file({"moment": moment.cpu().contiguous()}, made)
            made.replace(self._folder / f"layer-{layer}.safetensors")
