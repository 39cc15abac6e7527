"""What of a query is put to the verifier: the right sentence, masked, and little else."""

from __future__ import annotations

import pytest

from memedit.lexicon import mentions
from memedit.prompt import ASKED
from memedit.scope.reading import masked_pronoun, readings
from memedit.sentences import split_sentences


def read(text: str, *names: str) -> list[str]:
    return readings(text, mentions(text, names), split_sentences(text))


def test_the_sentence_that_names_the_subject_is_read_and_others_are_not() -> None:
    text = "Shares fell on Monday. What is the capital of France? Thanks."
    assert read(text, "France") == ["What is the capital of [MASK]?"]


def test_every_mention_in_a_sentence_is_masked() -> None:
    text = "Is France's capital the largest city of France?"
    assert read(text, "France") == ["Is [MASK]'s capital the largest city of [MASK]?"]


def test_a_sentence_that_leans_on_the_mention_is_read_with_it() -> None:
    text = "Acme is a firm in Oslo. Who runs it now?"
    assert read(text, "Acme") == ["[MASK] is a firm in Oslo.", "Who runs [MASK] now?"]
    assert read("Who runs it now? Not Acme.", "Acme") == ["Not [MASK]."]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Who is its CEO?", "Who is [MASK]'s CEO?"),
        ("Where was she born?", "Where was [MASK] born?"),
        ("What is her job?", "What is [MASK]'s job?"),
        ("Did you meet her?", "Did you meet [MASK]?"),
        ("What time is it?", None),
        ("Is there a shop?", None),
        ("Who are you?", None),
    ],
)
def test_pronouns(sentence: str, expected: str | None) -> None:
    assert masked_pronoun(sentence) == expected


def test_what_a_document_says_is_not_asked() -> None:
    story = "The mayor of Paris opened the bridge. " + "Rain fell all day long. " * 12
    assert read(f"Summarise this. Please. {'And so on. ' * 4}{story}", "Paris") == []
    asked = read(f"{story}\nWho is the mayor of Paris?", "Paris")
    assert asked[-1] == "Who is the mayor of [MASK]?"
    first = read(f"Who is the mayor of Paris? Here is my diary. {story}", "Paris")
    assert first[0] == "Who is the mayor of [MASK]?"


def test_a_long_sentence_is_cut_around_the_mention() -> None:
    text = "well " * 400 + "what is the capital of France " + "you know " * 400
    (found,) = read(text, "France")
    assert len(found) < 400
    assert "what is the capital of [MASK]" in found


def test_a_boundary_inside_a_name_is_none() -> None:
    assert read("Who owns J. G. Brill? I forgot.", "J. G. Brill") == ["Who owns [MASK]?"]


def test_what_was_said_before_names_and_asks_nothing() -> None:
    assert read(f"Who is the mayor of Paris?{ASKED}Who ran it before?", "Paris") == [
        "Who ran [MASK] before?"
    ]
    assert read(f"Paris is large. I like it.{ASKED}Do they? And who runs it?", "Paris") == [
        "Do [MASK]?",
        "And who runs [MASK]?",
    ]
    assert read(f"Who is the mayor of Paris?{ASKED}Write a poem in German.", "Paris") == []
    assert read(f"Tell me of Rome.{ASKED}And that of Paris?", "Paris") == ["And that of [MASK]?"]
