"""Editors as methods of an evaluation, on the packaged model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memedit.adapters.transformers_local import TransformersLocal
from memedit.config import Config
from memedit.editors import EDITORS
from memedit.edits import Edit, sentence, structured
from memedit.evaluation.methods import METHODS, Answered, Ask, Bench, method_class
from memedit.evaluation.plan import Settings, make_plan
from memedit.evaluation.runner import Runner
from memedit.prompt import TextPrompt
from memedit.protocols import Encoder, Generation
from tests.editors.test_deltas import bits

ROOT = Path(__file__).parents[2]
FRANCE = structured("France", "The capital of {} is", "Oslo", id="france")
CHINA = structured("China", "The official language of {} is", "Greek", id="china")


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Iterator[TransformersLocal]:
    made = TransformersLocal(str(model_folder), dtype="float32")
    yield made
    made.close()


@pytest.fixture
def bench(engine: TransformersLocal, encoder: Encoder, tmp_path: Path) -> Bench:
    corpus = ROOT / "docs" / "serving.md"
    return Bench(Config(), encoder, tmp_path, engine, corpus=corpus)


def asked(engine: TransformersLocal, method: Any, space: str, *texts: str) -> list[Answered]:
    seen: list[str] = []

    def model(prompts: Sequence[Any], weights: str = "") -> list[Generation]:
        seen.append(weights)
        return engine.generate(prompts, 4)

    answers: list[Answered] = method.answers([Ask(TextPrompt(t), space) for t in texts], model)
    assert seen == [f"{method.name}, {space}"]
    return answers


def test_every_editor_is_a_method() -> None:
    for name in EDITORS:
        found = method_class(name)
        assert found.name == name
        assert "weights" in found.needs
    assert set(EDITORS) <= set(METHODS)


@pytest.mark.parametrize("name", EDITORS)
def test_the_corpus_reaches_every_editor_that_measures_in_one(name: str, bench: Bench) -> None:
    without = method_class(name)(replace(bench, corpus=None)).describe()
    told = method_class(name)(bench).describe()
    assert (told != without) == (name not in ("ft-l", "ft-target", "lora"))


def test_a_space_is_a_state_of_the_weights(engine: TransformersLocal, bench: Bench) -> None:
    before = bits(engine.model)
    method = method_class("r-rome")(bench)
    method.learn([FRANCE, sentence("it rains")], "one")
    method.learn([CHINA], "two")
    prompts = ("The capital of France is", "The official language of China is")
    first, second = asked(engine, method, "one", *prompts)
    assert "Oslo" in first.generation.text
    assert "Greek" not in second.generation.text
    assert (first.edits, second.edits) == (("france",), ())
    (namesake,) = asked(engine, method, "one", "Frances McDormand was born in")
    assert namesake.edits == ()
    first, second = asked(engine, method, "two", *prompts)
    assert "Oslo" not in first.generation.text
    assert "Greek" in second.generation.text
    assert bits(engine.model) == before
    assert first.weights is not None
    with first.weights.applied():
        assert bits(engine.model) != before
        assert "Greek" in engine.generate([TextPrompt(prompts[1])], 4)[0].text


@pytest.mark.slow
def test_lots_are_learned_one_on_the_other(engine: TransformersLocal, bench: Bench) -> None:
    from dataclasses import replace

    method: Any = method_class("r-rome")(replace(bench, at_once=1))
    method.learn([FRANCE, CHINA], "both")
    lots = method._spaces["both"]
    assert [lot.edits for lot in lots] == [(FRANCE,), (CHINA,)]
    method.learn([FRANCE], "first")
    assert method._spaces["first"][0] is lots[0], "what was learned already is not learned again"
    alone: Any = method_class("r-rome")(bench)
    alone.learn([CHINA], "alone")
    (on_top,), (by_itself,) = lots[1].deltas, alone._spaces["alone"][0].deltas
    assert on_top.name == by_itself.name
    assert not torch.allclose(on_top.dense(), by_itself.dense(), rtol=1e-3)
    first, second = asked(
        engine, method, "both", "The capital of France is", "The official language of China is"
    )
    assert "Oslo" in first.generation.text
    assert "Greek" in second.generation.text


@pytest.mark.slow
def test_ratings_come_from_the_edited_weights(
    engine: TransformersLocal, encoder: Encoder, tmp_path: Path
) -> None:
    from memedit.evaluation.cases import Case, Probe

    def case(edit: Edit, old: str, near: str) -> Case:
        probes = (
            Probe("accuracy", "prompt", edit.key, (edit.target or "",), (old,)),
            Probe("locality", "neighbourhood", near, (old,), (edit.target or "",)),
        )
        return Case(edit.id, (edit,), probes)

    cases = [
        case(FRANCE, "Paris", "The capital of Japan is"),
        case(CHINA, "Chinese", "The official language of Peru is"),
    ]
    settings = Settings(
        methods=("none", "r-rome"),
        pools=(1,),
        surface="text",
        max_tokens=4,
        steps=0,
        fluency=0,
        latency=1,
        corpus=str(ROOT / "docs" / "serving.md"),
    )
    plan = make_plan(cases, settings)
    for _ in range(2):  # the second time everything is remembered
        rows = (
            Runner(
                plan,
                settings,
                engine=engine,
                encoder=encoder,
                config=Config(),
                folder=tmp_path,
                progress=lambda *_: None,
            )
            .run()
            .rows
        )
        held = {
            (row["method"], row["case"]): (row["probes"][0]["holds"], row["probes"][0]["forced"])
            for row in rows
        }
        for one in ("france", "china"):
            plain, edited = held["none", one], held["r-rome", one]
            assert (plain[0], edited[0]) == (False, True)
            assert (plain[1]["prefers"], edited[1]["prefers"]) == (False, True)
            assert edited[1]["exact"]
