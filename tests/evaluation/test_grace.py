"""GRACE as a method of an evaluation, on the packaged model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memedit.adapters.transformers_local import TransformersLocal
from memedit.config import Config
from memedit.edits import sentence, structured
from memedit.evaluation.methods import Ask, Bench, method_class
from memedit.prompt import ChatPrompt
from memedit.protocols import Encoder, Generation

FRANCE = structured("France", "The capital of {} is", "Oslo", id="france")
CHINA = structured("China", "The official language of {} is", "Greek", id="china")


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[TransformersLocal]:
    made = TransformersLocal(str(model_folder), dtype="float32")
    yield made
    made.close()


@pytest.mark.slow
def test_a_space_is_a_codebook(engine: TransformersLocal, encoder: Encoder, tmp_path: Path) -> None:
    method: Any = method_class("grace")(Bench(Config(), encoder, tmp_path, engine))
    method.learn([FRANCE, CHINA, sentence("It rains.")], "both")
    method.learn([CHINA], "one")
    assert method.describe() == {"layer": 25, "not_taken_up": 0}
    prompts = [
        ChatPrompt(({"role": "user", "content": text},))
        for text in (FRANCE.key, CHINA.key, "How do I boil an egg?")
    ]
    asked: list[tuple[int, str]] = []

    def model(given: Sequence[Any], weights: str = "") -> list[Generation]:
        asked.append((len(given), weights))
        return engine.generate(given, 8)

    plain = [one.text for one in engine.generate(prompts, 8)]
    asks = [Ask(prompt, space) for space in ("both", "one") for prompt in prompts]
    found = method.answers(asks, model)
    assert asked == [(3, "grace, both"), (3, "grace, one")]
    assert [one.edits for one in found] == [("france",), ("china",), (), (), ("china",), ()]
    assert [one.route for one in found][:3] == ["grace", "grace", "passthrough"]
    assert "Oslo" in found[0].generation.text
    assert "Greek" in found[1].generation.text
    assert "Greek" in found[4].generation.text
    assert [found[place].generation.text for place in (2, 3, 5)] == [plain[2], plain[0], plain[2]]
    weights = found[0].weights
    assert weights is not None
    (before,) = engine.score(prompts[:1], ["Oslo"])
    with weights.applied():
        (after,) = engine.score(prompts[:1], ["Oslo"])
    assert sum(after.logprobs) > -1 > sum(before.logprobs)
    assert [one.text for one in engine.generate(prompts, 8)] == plain
