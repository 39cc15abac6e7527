"""The publishers' files, where they are: every record is a case or counted, and how many."""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from memedit.evaluation.datasets import DATASETS, Loaded, load, locate
from memedit.evaluation.datasets.parts import PARTS, part_of, subject_of
from memedit.training.worlds import knowedit

CASES = {
    ("counterfact", "train"): 10_000,
    ("counterfact", "dev"): 1_919,
    ("knowedit", "all"): 1_428,
    ("zsre", "all"): 650,
    ("mquake", "all"): 1_500,
    ("conflictedit", "coverage"): 500,
    ("conflictedit", "reverse"): 500,
    ("conflictedit", "composite"): 500,
    ("roundedit", "all"): 500,
}

PROBES: dict[tuple[str, str], dict[str, int]] = {
    ("counterfact", "dev"): {
        "accuracy prompt": 1_919,
        "generality rephrase": 1_919,
        "locality neighbourhood": 1_919,
    },
    ("knowedit", "all"): {
        "accuracy prompt": 1_428,
        "portability reasoning": 504,
        "portability subject aliasing": 1_410,
        "portability logical generalization": 305,
        "locality relation specificity": 1_254,
        "locality forgetfulness": 782,
    },
    ("zsre", "all"): {
        "accuracy prompt": 650,
        "generality rephrase": 650,
        "portability reasoning": 381,
        "portability subject aliasing": 135,
        "portability logical generalization": 134,
        "locality relation specificity": 1_300,
    },
    ("mquake", "all"): {
        "accuracy prompt": 3_008,
        "generality question": 3_008,
        "portability 2 hops": 1_500,
        "portability 3 hops": 1_500,
        "portability 4 hops": 1_500,
    },
    ("conflictedit", "composite"): {
        "accuracy prompt": 500,
        "generality question": 500,
        "portability composite": 419,
    },
    ("roundedit", "all"): {"accuracy prompt": 500, "generality question": 500},
}


def real(name: str, split: str) -> Loaded:
    if not os.environ.get("MEMEDIT_DATA"):
        pytest.skip("MEMEDIT_DATA is not set: no benchmark data")
    for one in locate(name):
        if split in ("all", one.split, *PARTS) and not one.found:
            pytest.skip(f"no benchmark data at {one.path}")
    return loaded_once(name, split)


@cache
def loaded_once(name: str, split: str) -> Loaded:
    return load(name, split)


@pytest.mark.parametrize(("name", "split"), CASES)
def test_every_record_becomes_a_case_or_is_counted(name: str, split: str) -> None:
    loaded = real(name, split)
    assert loaded.records == len(json.loads(loaded.path.read_text(encoding="utf-8")))
    assert len(loaded.cases) + sum(loaded.skipped.values()) == loaded.records
    assert len(loaded.cases) == CASES[name, split]
    assert not loaded.skipped
    assert not loaded.left_out
    ids = [case.id for case in loaded.cases]
    edits = [edit.id for case in loaded.cases for edit in case.edits]
    assert len(set(ids)) == len(ids)
    assert len(set(edits)) == len(edits)


@pytest.mark.parametrize(("name", "split"), PROBES)
def test_probes_by_kind(name: str, split: str) -> None:
    loaded = real(name, split)
    counts = Counter(f"{p.measure} {p.kind}" for case in loaded.cases for p in case.probes)
    assert counts == PROBES[name, split]


@pytest.mark.parametrize(("name", "split"), CASES)
def test_answers_are_consistent(name: str, split: str) -> None:
    for case in real(name, split).cases:
        assert case.probes
        assert case.states
        assert set(case.relies_on) & set(case.states)
        for probe in case.probes:
            assert probe.prompt
            assert probe.answers or not probe.in_scope
            assert not {text.casefold() for text in probe.old} & {
                text.casefold() for text in probe.answers
            }


@pytest.mark.parametrize("name", [n for n, d in DATASETS.items() if "all" in d.files])
def test_parts_are_disjoint_in_subject_and_make_the_whole(name: str) -> None:
    parts = {part: real(name, part) for part in PARTS}
    subjects = {
        part: {subject_of(case).casefold() for case in loaded.cases}
        for part, loaded in parts.items()
    }
    for part, names in subjects.items():
        assert all(part_of(subject) == part for subject in names)
    assert not subjects["fit"] & subjects["hold"]
    assert not subjects["report"] & (subjects["fit"] | subjects["hold"])
    whole = {case.id for case in load(name).cases}
    found = [case.id for loaded in parts.values() for case in loaded.cases]
    assert sorted(found) == sorted(whole)
    for loaded in parts.values():
        assert len(loaded.cases) + sum(loaded.skipped.values()) + loaded.elsewhere == loaded.records


@pytest.mark.parametrize("name", ["zsre", "roundedit"])
def test_two_runs_agree(name: str) -> None:
    assert real(name, "all") == load(name)


def test_counterfacts_own_parts_share_subjects_and_no_ids() -> None:
    train, dev = real("counterfact", "train"), real("counterfact", "dev")
    ids = [{case.id for case in loaded.cases} for loaded in (train, dev)]
    assert not ids[0] & ids[1]
    names = [{subject_of(case).casefold() for case in loaded.cases} for loaded in (train, dev)]
    assert len(names[0] & names[1]) == 109


def test_the_hops_that_edits_change() -> None:
    for case in real("mquake", "all").cases:
        hops = case.probes[-1].hops
        assert len(hops) == len(case.relies_on)
        assert sum(hop.edited for hop in hops) == len(case.states) == len(case.edits)
        assert case.probes[-1].answers[0] == hops[-1].answers[0]
        for probe in case.probes[: len(case.edits) * 2]:
            assert not probe.hops


def test_the_split_is_the_one_the_scope_classifier_was_trained_on() -> None:
    for name, file in (("knowedit", "wiki_counterfact"), ("zsre", "zsre")):
        for part in PARTS:
            loaded = real(name, part)  # skips where the file is not there
            (one,) = locate(name)
            world = knowedit(Path(one.path).parents[1], file, part)
            asked = {world.edits[place].subject for case in world.cases for place in case.right}
            assert asked == {case.edits[0].subject for case in loaded.cases}
