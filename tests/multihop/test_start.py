"""Where a question starts."""

from __future__ import annotations

import pytest

from memedit.multihop.start import starts


@pytest.mark.parametrize(
    ("question", "start"),
    [
        ("What is the capital of the country that Mira Solberg is a citizen of?", "Mira Solberg"),
        ("Who founded the company that made the Vesta 9000?", "Vesta 9000"),
        ('Who is married to the author of "The Long Way, Home"?', "The Long Way, Home"),
        ("What is the birthplace of Ole Brandt's spouse?", "Ole Brandt"),
        ("Where was the CEO of Nordwind Systems born?", "Nordwind Systems"),
        ("Where is the iFlute made?", "iFlute"),
        ("Where was the coach of the Norway national handball team born?",
         "Norway national handball team"),
        ("Who leads the country where laddu originated?", "laddu"),
        ("What is the capital of the home country of Abd al-Rahman?", "Abd al-Rahman"),
        ("Who founded the religion of Leopoldo de' Conti?", "Leopoldo de' Conti"),
        ("Where was the founder of Acme Inc. born?", "Acme Inc."),
    ],
)  # fmt: skip
def test_the_likeliest_start_comes_first(question: str, start: str) -> None:
    first = starts(question)[0]
    assert question[slice(*first)] == start


@pytest.mark.parametrize("question", ["", "?", "what is it", "How are you doing today?"])
def test_a_text_that_names_nobody_has_no_start(question: str) -> None:
    assert starts(question) == []


def test_a_title_in_quotes_goes_before_names_around_it() -> None:
    question = 'Did Anna Berg write the book that "Blue Hour" in Oslo is based on?'
    first = starts(question)[0]
    assert question[slice(*first)] == "Blue Hour"
