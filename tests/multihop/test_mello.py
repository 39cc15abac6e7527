"""MeLLo's loop: what it asks, where it puts facts, and when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from memedit.edits import structured
from memedit.multihop.chain import Nearest, Outcome
from memedit.multihop.mello import ROUNDS, mello
from memedit.protocols import Generation, Request

QUESTION = "What is the capital of the country that Mira Solberg is a citizen of?"
FACT = structured("Mira Solberg", "{} is a citizen of", "Peru", id="citizen")
ROUND = "Subquestion: Of which country is she a citizen?\nGenerated answer: Norway.\n"


def run(*said: str, edit: Any = FACT) -> tuple[Outcome, list[Any]]:
    steps, seen, answers = mello(QUESTION), [], iter(said)
    value: Any = None
    while True:
        try:
            step = steps.send(value)
        except StopIteration as end:
            return end.value, seen
        seen.append(step)
        value = Generation(next(answers), 100, 5) if isinstance(step, Request) else edit


def test_the_fact_goes_behind_the_models_text_and_the_loop_goes_on() -> None:
    contradicts = (
        "Retrieved fact contradicts to generated answer, so the intermediate answer is: Peru"
    )
    outcome, seen = run(ROUND, f"{contradicts}\nFinal answer: Lima.")
    first, nearest, second = seen
    assert first.prompt.text.endswith(f"Question: {QUESTION}\n")
    assert nearest == Nearest("Of which country is she a citizen?")
    written = "\nGenerated answer: Norway.\nRetrieved fact: Mira Solberg is a citizen of Peru.\n"
    assert second.prompt.text.endswith(written)
    assert second.prompt.text.startswith(first.prompt.text)
    assert outcome.answer == "Lima"
    assert [edit.id for edit in outcome.edits] == ["citizen"]
    assert outcome.prompt_tokens == 200


def test_four_worked_questions_stand_in_front() -> None:
    _, seen = run("Final answer: Lima")
    assert seen[0].prompt.text.count("\nFinal answer:") == 4
    assert "Retrieved fact:" in seen[0].stop


def test_it_gives_up_after_its_rounds() -> None:
    outcome, seen = run(*[ROUND] * ROUNDS)
    assert outcome.answer is None
    assert f"{ROUNDS}" in outcome.reason
    assert sum(isinstance(step, Request) for step in seen) == ROUNDS


@pytest.mark.parametrize("said", ["", "Lima is the capital.", "Final answer: "])
def test_a_model_that_leaves_the_format_has_no_answer(said: str) -> None:
    outcome, _ = run(said)
    assert outcome.answer is None
    assert outcome.reason


def test_without_an_edit_there_is_nothing_to_retrieve() -> None:
    outcome, _ = run(ROUND, edit=None)
    assert outcome.answer is None
    assert outcome.edits == ()
