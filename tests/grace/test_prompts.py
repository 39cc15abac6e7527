"""The words that an edit is learned in, and those that are kept out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memedit.edits import question, sentence, structured
from memedit.errors import InvalidEdit
from memedit.grace.prompts import FRAMES, in_scope, out_of_scope, unrelated

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
