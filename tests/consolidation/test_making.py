"""Batches are learned in turn, kept, and taken up again; gates are what the model answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from memedit.adapters.transformers_local import TransformersLocal
from memedit.consolidation.export import Version, fitted, read_adapter, write_adapter
from memedit.consolidation.gates import Gates, Probes, measured, own_rephrases
from memedit.consolidation.making import Before, make, remove
from memedit.editors import make_editor
from memedit.editors.architectures import architecture_of
from memedit.editors.covariance import Statistics
from memedit.editors.deltas import applied, matrix
from memedit.editors.rome import ROME
from memedit.edits import Edit, structured
from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta
from tests.editors import tiny
from tests.editors.test_deltas import bits

HELD_OUT = "The quick brown fox jumps over the lazy dog. " * 20


@dataclass
class Turning:
    """An editor that turns a weight by an amount that follows from its edits and the weights."""

    name: str = "turning"
    fails_at: int = -1
    calls: list[tuple[list[str], list[str], float]] = field(default_factory=list)

    def describe(self, model: Any) -> Mapping[str, Any]:
        return {"name": self.name}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        pass

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        if len(self.calls) == self.fails_at:
            raise RuntimeError("the power went out")
        name = f"{architecture_of(model).down_name(1)}.weight"
        weight = matrix(model, name)
        seen = float(weight.sum())
        self.calls.append(([e.id for e in edits], [e.id for e in earlier], seen))
        torch.manual_seed(len(earlier))
        left = torch.randn(weight.shape[0], len(edits))
        return [WeightDelta(name, left=left, right=torch.randn(len(edits), weight.shape[1]))]

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        raise NotImplementedError


def learn(model: Any, editor: Turning, work: Path, **options: Any) -> list[WeightDelta]:
    return make(model, tiny.tokenizer(), editor, tiny.edits(5), work, batch=2, **options)


def dense(deltas: Sequence[WeightDelta]) -> torch.Tensor:
    total: torch.Tensor = sum(delta.dense() for delta in deltas)  # type: ignore[assignment]
    return total


def test_each_batch_is_learned_on_the_weights_of_those_before(tmp_path: Path) -> None:
    model, editor = tiny.model("llama"), Turning()
    before = bits(model)
    told: list[tuple[int, int]] = []
    learn(model, editor, tmp_path / "w", progress=lambda done, number: told.append((done, number)))
    assert bits(model) == before
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert [call[0] for call in editor.calls] == [["e0", "e1"], ["e2", "e3"], ["e4"]]
    assert [call[1] for call in editor.calls][2] == ["e0", "e1", "e2", "e3"]
    assert len({call[2] for call in editor.calls}) == 3


def test_what_was_stopped_goes_on(tmp_path: Path) -> None:
    model = tiny.model("llama")
    whole = learn(model, Turning(), tmp_path / "whole")
    with pytest.raises(RuntimeError):
        learn(model, Turning(fails_at=2), tmp_path / "w")
    later = Turning()
    found = learn(model, later, tmp_path / "w")
    assert [call[0] for call in later.calls] == [["e4"]]
    assert torch.equal(dense(found), dense(whole))


@pytest.mark.parametrize("name", ["memit", "rect", "lora"])
def test_another_process_goes_on_as_this_one_would(tmp_path: Path, name: str) -> None:
    def learned(process: str, number: int, work: str) -> list[torch.Tensor]:
        statistics = Statistics(folder=tmp_path / process, tokens=512)
        own: dict[str, dict[str, Any]] = {
            "memit": {"statistics": statistics},
            "rect": {"inner": ROME(one_key=True, statistics=statistics)},
            "lora": {"rate": 0.1},
        }
        editor, model, edits = make_editor(name, **own[name]), tiny.model("llama"), tiny.edits(4)
        found = make(model, tiny.tokenizer(), editor, edits[:number], tmp_path / work, batch=2)
        return [delta.dense() for delta in found]

    whole = learned("one", 4, "w")
    learned("another", 2, "x")
    # A third has neither their prefixes nor their moments.
    torch.testing.assert_close(learned("third", 4, "x"), whole)


def test_other_work_is_begun_anew(tmp_path: Path) -> None:
    model = tiny.model("llama")
    learn(model, Turning(), tmp_path / "w")
    other = Turning(name="another")
    learn(model, other, tmp_path / "w")
    assert len(other.calls) == 3
    another = Turning(name="another")
    learn(tiny.model("llama", seed=1), another, tmp_path / "w")
    assert len(another.calls) == 3
    remove(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_batches_in_front_of_a_change_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, edits = tiny.model("llama"), tiny.edits(5)

    def learned(edits: Sequence[Edit], before: Before | None = None) -> list[list[str]]:
        editor = Turning()
        make(model, tiny.tokenizer(), editor, edits, tmp_path / "w", batch=2, before=before)
        return [call[0] for call in editor.calls]

    assert learned(edits[:4]) == [["e0", "e1"], ["e2", "e3"]]
    assert learned(edits) == [["e4"]]
    assert not caplog.records
    assert learned([*edits[:3], edits[4]]) == [["e2", "e4"]]
    assert "2 finished batches" in caplog.text
    # On the same edits in other weights.
    name = f"{architecture_of(model).down_name(1)}.weight"
    out, inner = matrix(model, name).shape
    for amount in (0.1, 0.2):
        there = WeightDelta(name, full=torch.full((out, inner), amount))
        assert learned(edits[4:], Before(tuple(edits[:4]), (there,))) == [["e4"]]
    assert learned(edits[4:], Before(tuple(edits[:4]), (there,))) == []


def test_what_is_there_is_built_on_as_its_adapter_has_it(tmp_path: Path) -> None:
    model = tiny.model("llama")
    first = learn(model, Turning(), tmp_path / "w")
    write_adapter(tmp_path, Version("v1"), model, first)
    again = read_adapter(tmp_path / "v1")
    torch.testing.assert_close(dense(again), dense(first))
    assert again[0].left.shape[1] == 5  # what fills the adapter's rank up is gone
    new = structured("Una", "{} sings in", "Bonn", id="new")
    editor = Turning()
    before = Before(tuple(tiny.edits(5)), tuple(again))
    found = make(model, tiny.tokenizer(), editor, [new], tmp_path / "x", before=before)
    assert editor.calls[0][:2] == (["new"], [f"e{i}" for i in range(5)])
    assert [delta.left.shape[1] for delta in found] == [5, 1]
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_adapter(tmp_path / "v2")


def test_what_is_checked_is_what_an_adapter_of_the_rank_does(tmp_path: Path) -> None:
    model = tiny.model("llama")
    deltas = learn(model, Turning(), tmp_path / "w")
    (cut,) = fitted(deltas, 2)
    write_adapter(tmp_path, Version("v1"), model, deltas, max_rank=2)
    torch.testing.assert_close(cut.dense(), dense(read_adapter(tmp_path / "v1")))
    assert (cut.dense() - dense(deltas)).norm() > 0.1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersLocal]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with TransformersLocal(str(folder), dtype="float32") as made:
        yield made


def asked(engine: TransformersLocal, edits: Sequence[Edit], **options: Any) -> dict[str, Any]:
    """The gates of weights that change nothing."""

    def plain(near: Sequence[Any]) -> list[str]:
        return [said.text.strip().partition("\n")[0].rstrip() for said in engine.generate(near, 12)]

    defaults: dict[str, Any] = {
        "weights": nullcontext,
        "edits": edits,
        "earlier": (),
        "probes": Probes({}, ["Far off"], HELD_OUT),
        "gates": Gates(),
        "memory": plain,
    }
    return measured(engine, **(defaults | options))


def test_gates_count_what_the_weights_answer(engine: TransformersLocal) -> None:
    wrong = structured("Ann", "The home of {} is", "Rome", id="wrong")
    found = asked(engine, [wrong])
    assert (found["passed"], found["held"], found["not_held"]) == (False, [], ["wrong"])
    checks = found["checks"]
    assert (checks["accuracy"]["value"], checks["accuracy"]["passed"]) == (0.0, False)
    assert (checks["locality"]["value"], checks["locality"]["asked"]) == (1.0, 1)
    assert (checks["drift"]["value"], checks["drift"]["passed"]) == (0.0, True)
    assert (checks["generality"]["value"], checks["generality"]["passed"]) == (None, True)
    assert (checks["earlier"]["value"], checks["earlier"]["passed"]) == (None, True)
    assert asked(engine, [wrong], gates=Gates(least={"accuracy": 0.0}))["passed"]
    found = asked(engine, [wrong], earlier=[wrong])
    assert (found["checks"]["earlier"]["value"], found["checks"]["earlier"]["passed"]) == (0, False)


def test_locality_is_judged_by_the_memory_route(engine: TransformersLocal) -> None:
    found = asked(engine, tiny.edits(1), memory=lambda near: ["something else"] * len(near))
    assert found["checks"]["locality"]["value"] == 0.0


def test_weights_that_change_all_are_seen(engine: TransformersLocal) -> None:
    torch.manual_seed(0)
    head = matrix(engine.model, "lm_head.weight")
    # Sure of itself, and of something else.
    other = WeightDelta("lm_head.weight", full=9 * head[torch.randperm(len(head))] - head)
    found = asked(engine, tiny.edits(1), weights=lambda: applied(engine.model, [other]))
    assert found["checks"]["drift"]["value"] > 0.05
    assert not found["checks"]["drift"]["passed"]
    assert found["checks"]["locality"]["value"] == 0.0


def test_a_short_held_out_text_and_unknown_gates_are_refused(engine: TransformersLocal) -> None:
    with pytest.raises(InvalidInput, match="fewer than 128 tokens"):
        asked(engine, tiny.edits(1), probes=Probes({}, [], "short"))
    with pytest.raises(InvalidInput, match="there is no gate 'luck'"):
        Gates(least={"luck": 1.0})


def test_edits_bring_other_prompts_along() -> None:
    edit = structured("France", "The capital of {} is", "Lyon", id="f", aliases=("la France",))
    assert own_rephrases([edit, *tiny.edits(1)]) == {"f": ["The capital of la France is"]}
