"""Does an answer state the new fact, and not the old one?"""

import pytest

from memedit.evaluation.matching import mentions, took


@pytest.mark.parametrize(
    ("answer", "fact", "expected"),
    [
        ("The capital is Lyon.", "Lyon", True),
        ("the capital is LYON", "Lyon", True),
        ("Lyonnaise cooking", "Lyon", False),
        ("He moved to New\nYork in 1999", "New York", True),
        ("It is the Netherlands", "The Netherlands", True),
        ("Netherlands", "the Netherlands", True),
        ("C++ is used", "C++", True),
        ("Café Ａ", "café a", True),
        ("", "Lyon", False),
        ("Lyon", "", False),
        ("O’Neill plays", "O'Neill", True),
    ],
)
def test_mentions(answer: str, fact: str, expected: bool) -> None:
    assert mentions(answer, fact) is expected


def test_an_answer_that_also_states_the_old_fact_does_not_count() -> None:
    assert took("Lyon", "Lyon", ["Paris"])
    assert not took("Lyon, not Paris", "Lyon", ["Paris"])
    assert not took("Paris", "Lyon", ["Paris"])


def test_an_old_fact_inside_the_new_name_does_not_count_against_it() -> None:
    assert took("He plays American football", "American football", ["football"])
    assert not took("American football and football", "American football", ["football"])
