"""Does an answer state the new fact, and not the old one?"""

import pytest

from memedit.evaluation.matching import Stated, mentions, stated, took


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
    assert not took("Lyon and Paris", "Lyon", ["Paris"])
    assert not took("Lyon, not only Paris", "Lyon", ["Paris"])
    assert not took("Paris", "Lyon", ["Paris"])


def test_a_name_that_is_denied_is_not_asserted() -> None:
    assert took("Lyon, not Paris", "Lyon", ["Paris"])
    assert took("It is in Lyon instead of in Paris", "Lyon", ["Paris"])
    assert not took("It is not Lyon", "Lyon", ["Paris"])
    assert not took("It is no longer in Lyon but in Paris", "Lyon", ["Paris"])


def test_the_longest_name_is_what_is_meant() -> None:
    assert took("He plays American football", "American football", ["football"])
    assert not took("American football and football", "American football", ["football"])
    assert not took("He lives in New York", "York", ["New York"])
    assert took("He lives in York", "York", ["New York"])


def test_the_subject_is_no_answer() -> None:
    found = stated("The Nintendo DSi is by Sega", ["Sega"], ["Nintendo"], aside=["Nintendo DSi"])
    assert found.took
    assert not stated("Nintendo DSi", ["Nintendo"], aside=["Nintendo DSi"]).accepted


def test_any_alias_counts_and_a_name_that_is_both_is_accepted() -> None:
    assert stated("the U.S.", ["United States", "U.S."], ["France"]) == Stated(True, False)
    assert stated("Paris", ["Paris"], ["Paris"]) == Stated(True, False)
    assert stated("Lyon and Paris", ["Lyon"], ["Paris"]) == Stated(True, True)
    assert stated("Lyon", [], []) == Stated(False, False)
    assert stated("", ["Lyon"], ["Paris"]) == Stated(False, False)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Kolinda Grabar-Kitarovic", "Kolinda Grabar–Kitarović"),
        ("首都は東京です", "東京"),
        ("กรุงเทพมหานครคือเมืองหลวง", "กรุงเทพมหานคร"),
        ("STRASSE", "Straße"),
        ("ﬁn", "fin"),
        ("Москва — столица", "москва"),
    ],
)
def test_other_scripts_and_spellings(answer: str, name: str) -> None:
    assert mentions(answer, name)


def test_marks_that_tell_letters_apart_stay() -> None:
    assert not mentions("かき", "がき")
