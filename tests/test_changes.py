"""Changes to an edit as it was seen, superseding by name, and what a namespace went through."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memedit.edits import Edit, sentence, structured
from memedit.encoders import HashEncoder
from memedit.errors import EditChanged, KeyReused, WrongState
from memedit.memory import EditMemory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def memory(path: Path) -> Iterator[EditMemory]:
    with EditMemory(path, HashEncoder()) as opened:
        yield opened


def friend(name: str, *, subject: str = "Ann", **rest: Any) -> Edit:
    return structured(subject, "{} is a friend of", name, **rest)


def capital(target: str, **rest: Any) -> Edit:
    return structured("France", "The capital of {} is", target, **{"id": target, **rest})


def test_superseding_needs_no_shared_words_and_a_revert_undoes_it(memory: EditMemory) -> None:
    old, beside = memory.add([friend("Bo", id="old"), friend("Cy", id="beside")])
    new = memory.supersede(old, sentence("Ann is alone.", id="new"), author="di", reason="sad")
    assert (new.supersedes, new.author, new.reason) == (("old",), "di", "sad")
    assert memory.get("old").superseded_by == "new"
    assert memory.get("beside") == beside
    memory.revert("new")
    assert memory.get("old") == old
    with EditMemory(memory.stats()["file"], HashEncoder()) as again:
        assert again.records(states=("active", "reverted")) == memory.records(
            states=("active", "reverted")
        )
    assert memory.check() == []


def test_a_change_is_made_only_to_the_edit_as_it_was_seen(memory: EditMemory, path: Path) -> None:
    (seen,) = memory.add(friend("Bo", id="one"))
    with EditMemory(path, HashEncoder()) as other:
        gone = other.revert("one", seen=seen)
    for change in (memory.revert, memory.restore):
        with pytest.raises(EditChanged, match="reverted now"):
            change("one", seen=seen)
    with pytest.raises(EditChanged):
        memory.supersede(seen, friend("Cy"))
    with pytest.raises(WrongState, match="restore it first"):
        memory.supersede(gone, friend("Cy"))
    assert memory.restore("one", seen=gone) == seen
    assert len(memory.records(states=("active", "superseded"))) == 1


def test_superseding_again_under_one_key_changes_nothing(memory: EditMemory) -> None:
    old, other = memory.add([friend("Bo"), friend("Ed")])
    first = memory.supersede(old, friend("Cy"), idempotency_key="k")
    again = memory.supersede(memory.get(old.edit.id), friend("Cy"), idempotency_key="k")
    assert again == first
    with pytest.raises(KeyReused):
        memory.supersede(other, friend("Cy"), idempotency_key="k")


def test_events_of_a_namespace_keep_their_numbers(memory: EditMemory) -> None:
    memory.add([friend(name, id=name) for name in ("Bo", "Cy")], namespace="a")
    memory.add(friend("Di", id="Di"), namespace="b")
    memory.revert("Bo")
    said = [(event.kind, event.edit_id) for event in memory.events("a")]
    assert said == [("add", "Bo"), ("add", "Cy"), ("revert", "Bo")]
    assert [event.edit_id for event in memory.events("a", 1, 1)] == ["Cy"]
    assert memory.events("a", 3) == memory.events("nobody") == []


def test_what_stands_beside_another_is_disputed(memory: EditMemory) -> None:
    memory.add([capital("Lyon"), sentence("Iron floats.", id="iron")])
    memory.add(capital("Nice"), on_conflict="keep-both")
    assert [record.edit.id for record in memory.disputed()] == ["Nice"]
    for one, other in (("Lyon", "Nice"), ("Nice", "Lyon")):
        assert [found.record.edit.id for found in memory.conflicts(one)] == [other]
    assert memory.conflicts("iron") == []
    memory.revert("Nice")
    assert memory.disputed() == memory.conflicts("Lyon") == []


def test_what_is_disputed_is_found_without_looking_at_every_edit(path: Path) -> None:
    def calls(count: int) -> int:
        """Of functions while the disputed edits among so many others are found."""
        file = path.with_name(f"{count}.db")
        with EditMemory(file, HashEncoder()) as memory:
            memory.add([friend(f"Friend {i}", subject=f"Person {i}") for i in range(count)])
            memory.add(capital("Lyon"))
            memory.add([capital("Nice"), capital("Metz")], on_conflict="keep-both")
            memory.add(capital("Brest"), namespace="other")
            memory.add(capital("Nancy", id="there"), namespace="other", on_conflict="keep-both")
        made = 0

        def count_call(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event == "call"

        # Opened again: edits that stand alone have no objects then.
        with EditMemory(file, HashEncoder()) as memory:
            sys.setprofile(count_call)
            try:
                found = memory.disputed()
            finally:
                sys.setprofile(None)
            assert [record.edit.id for record in found] == ["Nice", "Metz"]
            assert [record.edit.id for record in memory.disputed("other")] == ["there"]
            memory.revert("Nice")
            assert [record.edit.id for record in memory.disputed()] == ["Metz"]
        return made

    assert calls(2_000) <= calls(20)


def test_find_gives_none_where_get_complains(memory: EditMemory) -> None:
    (record,) = memory.add(friend("Bo"))
    assert memory.find(record.edit.id) == record
    assert memory.find("nobody") is None
