"""From what a model says to a name."""

from __future__ import annotations

import pytest

from memedit.multihop.answers import answer_of, names_of


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Lisbon", "Lisbon"),
        (" Lisbon.\nWhat is the capital of Spain?", "Lisbon"),
        ("The capital of Portugal is Lisbon.", "Lisbon"),
        ("The Trial was written by Franz Kafka", "Franz Kafka"),
        ('"The Trial"', "Trial"),
        ("Washington, D.C.", "Washington, D.C."),
        ("Lisbon (Portugal)", "Lisbon"),
        ("John Smith Jr.", "John Smith Jr."),
        ("tennis; golf", "tennis"),
        ("Answer: the United Kingdom", "United Kingdom"),
        ("the United Kingdom", "United Kingdom"),
    ],
)
def test_the_name_in_an_answer(said: str, answer: str) -> None:
    assert answer_of(said) == answer


@pytest.mark.parametrize(
    "said",
    [
        "",
        "\n",
        "Unknown",
        "I don't know.",
        "N/A",
        "None",
        "Sorry, I cannot say.",
        "word " * 20,
        "...",
    ],
)
def test_what_is_no_answer(said: str) -> None:
    assert answer_of(said) is None


def test_a_country_has_the_names_that_questions_use() -> None:
    assert names_of("USA")[0] == "USA"
    assert "United States of America" in names_of("USA")
    assert names_of("the Netherlands")[:2] == ("the Netherlands", "Netherlands")
    assert names_of("Erewhon") == ("Erewhon",)
