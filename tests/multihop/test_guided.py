"""mello-guided, step by step: what it needs to know, and what comes of each answer."""

from __future__ import annotations

from typing import Any

from memedit.edits import Edit, sentence, structured
from memedit.multihop.chain import Look, Outcome, Reading, Steps
from memedit.multihop.guided import NO_EDIT, gold, guided
from memedit.multihop.relations import relation_of
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Decision, Generation, Request

CITIZEN = structured("Mira Solberg", "{} is a citizen of", "Peru", id="citizen")
CAPITAL = structured("Peru", "The capital of {} is", "Cusco", id="capital")
READING = Reading("Mira Solberg", ("citizenship", "capital"), 0.9)


class World:
    """Answers steps: with live edits by question, and with a model's answers by question."""

    def __init__(self, edits: dict[str, Edit], said: dict[str, str]) -> None:
        self.edits = edits
        self.said = said
        self.asked: list[str] = []
        self.prompts: list[Any] = []

    def run(self, steps: Steps) -> Outcome:
        value: Any = None
        while True:
            try:
                step = steps.send(value)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            if isinstance(step, Request):
                self.prompts.append(step.prompt)
                self.asked.append(step.prompt.query)
                value = Generation(self.said[step.prompt.query], 10, 2)
            else:
                assert isinstance(step, Look)
                value = [self.decision(query) for query in step.queries]

    def decision(self, query: str) -> Decision:
        edit = self.edits.get(query)
        return Decision("ike", (edit,)) if edit else Decision("passthrough")


FIRST = "What is the country of citizenship of Mira Solberg?"


def test_edits_answer_their_hops_and_nobody_is_asked() -> None:
    world = World({FIRST: CITIZEN, "What is the capital of Peru?": CAPITAL}, {})
    outcome = world.run(guided([READING]))
    assert outcome.answer == "Cusco"
    assert [edit.id for edit in outcome.edits] == ["citizen", "capital"]
    assert world.asked == []
    assert [fact.statement for fact in outcome.facts] == [CITIZEN.statement, CAPITAL.statement]


def test_the_model_answers_the_hop_that_no_edit_is_about() -> None:
    world = World(
        {FIRST: CITIZEN}, {"What is the capital of Peru?": "The capital of Peru is Lima."}
    )
    outcome = world.run(guided([READING]))
    assert outcome.answer == "Lima"
    assert [edit.id for edit in outcome.edits] == ["citizen"]
    assert world.asked == ["What is the capital of Peru?"]
    assert isinstance(world.prompts[0], ChatPrompt)
    assert outcome.facts[1].statement == "The capital of Peru is Lima."
    assert (outcome.prompt_tokens, outcome.tokens) == (10, 2)


def test_a_later_hop_is_found_edited_through_the_models_answer() -> None:
    world = World({"What is the capital of Peru?": CAPITAL}, {FIRST: "Peru"})
    assert world.run(guided([READING])).answer == "Cusco"


def test_a_question_without_an_edited_hop_is_nobodys_business_and_costs_no_last_hop() -> None:
    world = World({}, {FIRST: "Norway"})
    outcome = world.run(guided([READING]))
    assert outcome.edits == ()
    assert outcome.reason == NO_EDIT
    assert world.asked == [FIRST]


def test_a_hop_that_nobody_can_answer_is_said_to_be_so() -> None:
    world = World({FIRST: CITIZEN}, {"What is the capital of Peru?": "I don't know."})
    outcome = world.run(guided([READING]))
    assert outcome.answer is None
    assert "What is the capital of Peru?" in outcome.reason
    assert outcome.hops[-1].answer is None


def test_the_next_likely_reading_is_tried_and_an_unlikely_one_is_not() -> None:
    other = Reading("Mira Solberg", ("birth place", "country of location"), 0.8)
    world = World({FIRST: CITIZEN}, {"What is the capital of Peru?": "Lima",
                                     "In which city was Mira Solberg born?": "Oslo"})  # fmt: skip
    outcome = world.run(guided([other, READING]))
    assert outcome.answer == "Lima"
    assert outcome.reading == READING
    far = Reading("Mira Solberg", ("citizenship", "capital"), 0.002)
    assert world.run(guided([other, far])).edits == ()


def test_a_reading_whose_first_hop_is_edited_goes_first() -> None:
    born, where = "In which city was Mira Solberg born?", relation_of("country of location")
    oslo = structured("Oslo", "{} is located in", "Sweden", id="oslo")
    other = Reading("Mira Solberg", ("birth place", "country of location"), 0.8)
    edited = Reading("Mira Solberg", ("citizenship", "capital"), 0.1)
    edits = {where.question("Oslo"): oslo}
    said = {born: "Oslo", "What is the capital of Peru?": "Lima"}
    assert World(edits, said).run(guided([other, edited])).answer == "Sweden"
    assert World({**edits, FIRST: CITIZEN}, said).run(guided([other, edited])).answer == "Lima"


def test_in_doubt_whether_there_are_several_hops_an_edit_for_the_first_decides() -> None:
    doubtful = [Reading("Mira Solberg", ("citizenship", "capital"), 0.4)]
    said = {FIRST: "Peru", "What is the capital of Peru?": "Lima"}
    assert World({FIRST: CITIZEN}, said).run(guided(doubtful)).answer == "Lima"
    later = World({"What is the capital of Peru?": CAPITAL}, said)
    outcome = later.run(guided(doubtful))
    assert (outcome.edits, outcome.reason, later.asked) == ((), NO_EDIT, [])


def test_an_edit_without_a_target_is_shown_to_the_model() -> None:
    told = sentence("Mira Solberg has lived and voted in Peru since spring.", id="told")
    if told.target is not None:
        told = Edit("told", told.statement, "Mira Solberg")
    shown = f"{told.statement} {FIRST}"
    world = World({FIRST: told}, {shown: "Peru", "What is the capital of Peru?": "Lima"})
    outcome = world.run(guided([READING]))
    assert outcome.answer == "Lima"
    assert [edit.id for edit in outcome.edits] == ["told"]


def test_the_same_hop_is_asked_once_a_question() -> None:
    twice = [READING, Reading("Mira Solberg", ("citizenship", "anthem"), 0.8)]
    world = World({}, {FIRST: "Norway"})
    world.run(guided(twice))
    assert world.asked == [FIRST]


def test_a_text_model_is_asked_in_text() -> None:
    world = World({FIRST: CITIZEN}, {})
    steps = guided([READING], chat=False)
    request = next(steps)
    while isinstance(request, Look):
        request = steps.send([world.decision(query) for query in request.queries])
    assert isinstance(request.prompt, TextPrompt)
    assert request.prompt.text.endswith("Question: What is the capital of Peru?\nAnswer:")
    assert request.stop == ("\n",)


def test_the_oracle_asks_gold_hops_with_the_same_prompts() -> None:
    world = World({}, {"What is the capital of Peru?": "Lima"})
    outcome = world.run(gold([FIRST, "What is the capital of Peru?"], [CITIZEN, None]))
    assert outcome.answer == "Lima"
    assert [hop.answer for hop in outcome.hops] == ["Peru", "Lima"]
