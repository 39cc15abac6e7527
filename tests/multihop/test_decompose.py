"""The shipped decomposer: how questions are read, and what it refuses to load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from memedit.errors import ConfigError, InvalidInput
from memedit.multihop import decompose
from memedit.multihop.chain import Reading
from memedit.multihop.decompose import (
    Decomposer,
    may_be_nested,
    nested,
    shipped,
    surely_nested,
)
from memedit.multihop.relations import library, relation_of

WEIGHTS = Path(decompose.__file__).with_name("weights")


@pytest.mark.parametrize(
    ("question", "start", "chain"),
    [
        ("What is the capital of the country that Mira Solberg is a citizen of?",
         "Mira Solberg", ("citizenship", "capital")),
        ("Who is married to the author of The Blue Hour?",
         "The Blue Hour", ("author", "spouse")),
        ("Which continent is the country where Ole Brandt holds citizenship located in?",
         "Ole Brandt", ("citizenship", "continent")),
        ("In which city was the author of The Blue Hour born?",
         "The Blue Hour", ("author", "birth place")),
    ],
)  # fmt: skip
def test_questions_of_several_hops(question: str, start: str, chain: tuple[str, ...]) -> None:
    (readings,) = shipped().read([question])
    several = nested(readings)
    assert several[0].relations == chain
    assert start.endswith(several[0].start.removeprefix("The "))
    assert 0.0 < sum(reading.probability for reading in readings) <= 1.0 + 1e-4


def test_what_may_be_several_hops_and_what_surely_is() -> None:
    def readings(*odds: tuple[int, float]) -> list[Reading]:
        return [Reading("X", ("spouse",) * hops, p) for hops, p in odds]

    sure = readings((2, 0.4), (3, 0.3), (1, 0.1))
    assert nested(sure) == tuple(sure[:2])
    assert surely_nested(nested(sure))
    doubtful = readings((2, 0.3), (1, 0.2))
    assert nested(doubtful) == tuple(doubtful[:1])
    assert not surely_nested(nested(doubtful))
    assert nested(readings((2, 0.3), (1, 0.4))) == ()  # likelier one hop
    assert nested(readings((2, 0.1), (1, 0.05))) == ()  # neither


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Norway?",
        "Who founded Nordwind Systems?",
        "Where was Mira Solberg born?",
        "Tell me a joke about Norway.",
        "hello there",
        "",
    ],
)
def test_what_is_none(question: str) -> None:
    assert nested(shipped().read([question])[0]) == ()


def test_the_same_text_is_read_once_and_alike_in_any_company() -> None:
    texts = ["Who is married to the author of The Trial?", "What is the capital of Norway?"]
    together = Decomposer().read([*texts, "x " * 40, texts[0]])
    alone = Decomposer().read(texts[:1])
    assert together[0] == together[3]
    assert together[0][0].relations == alone[0][0].relations
    assert together[0][0].probability == pytest.approx(alone[0][0].probability, abs=1e-3)


def test_small_words_tell_what_is_worth_reading() -> None:
    assert may_be_nested("What is the capital of the country of Mira Solberg?")
    assert may_be_nested("Hi! Where was Ann's husband's employer founded?")
    assert not may_be_nested("What is the capital of France?")
    assert not may_be_nested("Write a haiku.")
    assert not may_be_nested("of the of the " * 5_000)


def test_every_relation_can_be_asked_and_stated() -> None:
    for name, relation in library().items():
        assert relation.question("Ann") == relation.ask.replace("[X]", "Ann"), name
        assert relation.ask.count("[X]") == 1, name
        assert relation.states.count("{}") == 1, name
        assert relation.of, name
    with pytest.raises(InvalidInput, match="no relation 'nonsense'"):
        relation_of("nonsense")


def test_weights_of_another_library_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    config = json.loads((folder / "config.json").read_text())
    config["relations"] = config["relations"][::-1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="another library"):
        Decomposer(folder).read(["Where was Ann Lee born?"])


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="memedit multihop train"):
        Decomposer(folder).read(["Where was Ann Lee born?"])
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Decomposer(folder).read(["Where was Ann Lee born?"])
