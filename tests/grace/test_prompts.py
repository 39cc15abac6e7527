"""The words that an edit is learned in, and those that are kept out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memedit.edits import question, sentence, structured
from memedit.errors import InvalidEdit
from memedit.grace.prompts import FRAMES, in_scope, out_of_scope, unrelated, wordings

FRANCE = structured("France", "The capital of {} is", "Lyon", aliases=["the French Republic"])


def test_the_prompt_stands_alone_first_and_then_in_every_frame() -> None:
    found = in_scope(FRANCE)
    assert found[0] == "The capital of France is"
    assert len(found) == 1 + len(FRAMES)
    assert all(text.endswith("The capital of France is") for text in found)
    assert in_scope(question("Who runs Acme?", "Ann"))[0] == "Who runs Acme?"


def test_an_edit_without_an_answer_cannot_be_learned() -> None:
    with pytest.raises(InvalidEdit, match="has no target"):
        in_scope(sentence("Iron floats on water these days."))


def test_others_are_asked_about_in_the_same_words() -> None:
    names = ["Italy", "Spain", "France", "the French Republic", "Peru", "Italy"]
    found = out_of_scope(FRANCE, names, 5)
    assert sorted(found) == [f"The capital of {name} is" for name in ("Italy", "Peru", "Spain")]
    assert out_of_scope(FRANCE, names, 2) == out_of_scope(FRANCE, names[::-1], 2)
    assert len(out_of_scope(FRANCE, names, 2)) == 2
    assert out_of_scope(FRANCE, ["France"], 5) == []
    assert out_of_scope(replace(FRANCE, prompt=None), names, 5) == []


def test_unrelated_texts_are_there_once_each() -> None:
    assert len(set(unrelated())) == len(unrelated()) > 30


def test_each_question_is_asked_of_one_name_in_three_wordings() -> None:
    phrasings = {
        "relations": {
            name: {
                "statements": [f"{name} of [X] is", f"[X]'s {name}:"],
                "questions": [f"{name}? [X]"],
            }
            for name in ("capital", "mayor", "river")
        },
        "frames": ["Hello, {}"],
    }
    found = wordings(phrasings, 2)
    assert len(found) == 2
    for texts in found:
        assert len(set(texts)) == 3
        assert not any("[X]" in text or "{}" in text for text in texts)
        assert texts[1].startswith("Hello, ")
        (relation,) = {one for one in phrasings["relations"] if all(one in text for text in texts)}
        assert texts[2].startswith(relation)
        name = texts[2].removeprefix(f"{relation}? ")
        assert all(name in text for text in texts)
    assert len(wordings(phrasings)) == 3
    assert wordings(phrasings) == wordings(phrasings)
