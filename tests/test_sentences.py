"""Where sentences end, and which of them holds a place."""

from __future__ import annotations

import pytest

from memedit.sentences import around, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("J. G. Brill Co. was big. It fell.", ["J. G. Brill Co. was big.", "It fell."]),
        ("He met Dr. Who in the U.S. Army.", ["He met Dr. Who in the U.S. Army."]),
        ('He said "No." Then he left.\nNext', ['He said "No."', "Then he left.", "Next"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


def test_the_sentence_around_a_place_and_several_where_a_boundary_falls_into_it() -> None:
    text = "One. Two? Three"
    sentences = split_sentences(text)
    assert around(sentences, (5, 6)) == (5, 9)
    assert around(sentences, (7, 12)) == (5, 15)
    assert around([], (7, 12)) == (7, 12)
