"""Conflicts: the same fact is recognised, and only the same fact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memedit.conflicts import (
    contradictions,
    fact_key,
    is_many_valued,
    relation_of,
    same_fact,
    same_target,
    share_subject,
)
from memedit.edits import Edit, question, sentence, structured
from memedit.encoders import SentenceEncoder
from memedit.errors import EditConflict
from memedit.memory import EditMemory


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture
def memory(tmp_path: Path, encoder: SentenceEncoder) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.db", encoder, index="exact") as opened:
        yield opened


CEO = structured("Acme", "The CEO of {} is", "Ann Li")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CEO, question("Who runs Acme?", "Bo Xu")),
        (question("Who runs Acme?", "Bo Xu"), CEO),
        (
            structured("Ellie Kemper", "{} is a citizen of", "Croatia"),
            question("What nationality does Ellie Kemper have?", "Peru"),
        ),
        (
            structured("Toko Yasuda", "{} died in", "Oslo"),
            structured("Toko Yasuda", "{} passed away in", "Bergen"),
        ),
        (
            sentence("Carl Sagan is employed by Acme."),
            question("Who is the employer of Carl Sagan?", "Apex Ltd"),
        ),
    ],
)
def test_the_same_fact_in_other_words_is_superseded(
    memory: EditMemory, old: Edit, new: Edit
) -> None:
    memory.add(old)
    (record,) = memory.add(new)
    assert record.supersedes == (old.id,)
    assert "in other words" in record.warnings[0]
    assert memory.get(old.id).superseded_by == new.id
    memory.revert(new.id)
    assert memory.get(old.id).state == "active"
    with pytest.raises(EditConflict, match="otherwise than"):
        memory.add(Edit(**{**new.to_mapping(), "id": "again"}), on_conflict="reject")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CEO, question("Who runs Apex?", "Bo Xu")),
        (CEO, structured("Acme", "The headquarters of {} are in", "Oslo")),
        (CEO, question("Who is the owner of Acme?", "Bo Xu")),
        (
            structured("Toko Yasuda", "{} died in", "Oslo"),
            structured("Toko Yasuda", "{} was born in", "Bergen"),
        ),
        (
            structured("Bo", "The mother of {} is", "Ann"),
            structured("Bo", "The father of {} is", "Cy"),
        ),
        (sentence("Ann knows Bo."), sentence("Ann knows Cy.")),
        (sentence("Ann knows Bo."), question("Who does Ann know?", "Cy")),
        (CEO, question("Who runs Acme?", "Ann Li")),  # no conflict: they agree
    ],
)
def test_other_facts_are_left_alone(memory: EditMemory, old: Edit, new: Edit) -> None:
    memory.add(old)
    (record,) = memory.add(new)
    assert (record.supersedes, record.warnings) == ((), ())
    assert memory.get(old.id).state == "active"


def test_one_call_that_says_a_fact_in_two_ways_keeps_the_later(memory: EditMemory) -> None:
    first, second = memory.add([CEO, question("Who runs Acme?", "Bo Xu")])
    assert (first.state, first.superseded_by) == ("superseded", second.edit.id)


def test_a_fact_that_agreeing_edits_state_is_retired_in_all_its_words(memory: EditMemory) -> None:
    asked = question("Who runs Acme?", "Ann Li")
    memory.add([CEO, asked])
    assert len(memory) == 2
    (new,) = memory.add(question("Who is the chief executive officer of Acme?", "Bo Xu"))
    assert sorted(new.supersedes) == sorted([CEO.id, asked.id])
    assert len(memory) == 1
    memory.revert(new.edit.id)
    assert len(memory) == 2


def test_what_was_added_while_a_fact_was_reverted_comes_after_it(memory: EditMemory) -> None:
    memory.add(CEO)
    memory.revert(CEO.id)
    (asked,) = memory.add(question("Who runs Acme?", "Bo Xu"))
    restored = memory.restore(CEO.id)
    assert (restored.state, restored.superseded_by) == ("superseded", asked.edit.id)
    memory.revert(asked.edit.id)
    assert memory.get(CEO.id).state == "active"


def test_inverse_relations_and_rules_of_two_steps_warn_and_retire_nothing(
    memory: EditMemory,
) -> None:
    memory.add(structured("Goya", "The notable work of {} is", "The Second of May"))
    (inverse,) = memory.add(structured("The Second of May", "The creator of {} is", "Ann Li"))
    assert "notable work is the inverse of creator" in inverse.warnings[0]
    memory.add(structured("Cy", "{} held the position of", "senator"))
    memory.add(structured("senator", "The jurisdiction of {} is", "Peru"))
    (rule,) = memory.add(structured("Cy", "The citizenship of {} is", "Chile"))
    assert "the jurisdiction of the position is the citizenship" in rule.warnings[0]
    assert len(memory) == 5
    (agrees,) = memory.add(structured("Di", "The mother of {} is", "Eve"))
    (other,) = memory.add(structured("Eve", "The child of {} is", "Di"))
    assert agrees.warnings == other.warnings == ()


def test_the_parts_of_the_decision() -> None:
    assert relation_of(CEO) == "The CEO of it is"
    assert relation_of(question("Who runs Acme?", "Bo"), CEO.names) == "Who runs it?"
    assert fact_key(sentence("Ann knows Bo.")) != fact_key(sentence("Ann knows Cy."))
    assert is_many_valued(sentence("One of Ann's friends is Di."))
    assert not is_many_valued(CEO)
    assert same_target(CEO, structured("Acme", "{} is run by", "ann li."))
    assert not share_subject(CEO, structured("Apex", "The CEO of {} is", "Bo"))
    assert share_subject(CEO, structured("ACME", "The CEO of {} is", "Bo", aliases=["Apex"]))


def test_without_a_trained_encoder_only_clear_cases_count() -> None:
    runs = structured("Acme", "The chief executive of {} is", "Bo")
    assert same_fact(CEO, runs).same
    assert not same_fact(CEO, structured("Acme", "The owner of {} is", "Bo")).same
    assert not same_fact(CEO, structured("Acme", "The colour of {} is", "red")).same


def test_contradictions_need_the_edits_that_make_them() -> None:
    creator = structured("The Second of May", "The creator of {} is", "Ann Li")
    work = structured("Goya", "The notable work of {} is", "The Second of May")
    assert contradictions(creator, lambda name: [], lambda name: []) == []
    assert contradictions(creator, lambda name: [], lambda name: [work])
