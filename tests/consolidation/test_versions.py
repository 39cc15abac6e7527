"""What is published stands in the journal; what a version is, in its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memedit.config import Config, ConsolidationConfig, MemoryConfig
from memedit.consolidation.choosing import Choice, chosen
from memedit.consolidation.versions import (
    MANIFEST,
    listed,
    publish,
    published,
    stored,
    unpublish,
    versions_folder,
)
from memedit.edits import Edit, sentence, structured
from memedit.encoders import HashEncoder
from memedit.errors import InvalidInput
from memedit.memory import EditMemory

FRANCE = structured("France", "The capital of {} is", "Lyon", id="france", source="atlas 1")
ITALY = structured("Italy", "The capital of {} is", "Oslo", id="italy", aliases=("Italia",))
SPAIN = structured("Spain", "The capital of {} is", "Nice", id="spain")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.sqlite3", HashEncoder(), index="exact") as opened:
        yield opened


def written(folder: Path, name: str, *edits: Edit, **gates: Any) -> None:
    """A version's manifest; nothing here reads more of it."""
    (folder / name).mkdir(parents=True)
    held = [edit.id for edit in edits]
    manifest = {
        "version": name,
        "kind": "adapter",
        "edits": [edit.to_mapping() for edit in edits],
        "gates": {"passed": True, "forms": ["text"], "held": held, "checks": {}} | gates,
    }
    (folder / name / MANIFEST).write_text(json.dumps(manifest))


def states(memory: EditMemory) -> dict[str, str]:
    """The version that answers each edit in force; empty for the memory."""
    return {r.edit.id: r.version for r in memory.records(states=("active", "consolidated"))}


def test_published_edits_are_those_that_held_and_still_stand(
    memory: EditMemory, tmp_path: Path
) -> None:
    memory.add([FRANCE, ITALY, SPAIN])
    written(tmp_path, "v1", FRANCE, ITALY, SPAIN, held=["france", "spain"])
    memory.revert("spain")
    assert publish(memory, stored(tmp_path, "v1"), "default", author="ann") == ["france"]
    assert states(memory) == {"france": "v1", "italy": ""}
    assert published(memory) == {"v1": ["france"]}
    assert memory.history("france")[-1].author == "ann"
    with pytest.raises(InvalidInput, match="not published"):
        unpublish(memory, "v2", "default")
    assert unpublish(memory, "v1", "default") == ["france"]
    assert published(memory) == {}


def test_an_edit_whose_content_is_another_now_stays_in_the_memory(
    memory: EditMemory, tmp_path: Path
) -> None:
    memory.add([FRANCE])
    other = structured("France", "The capital of {} is", "Metz", id="france")
    written(tmp_path, "v1", other)
    with pytest.raises(InvalidInput, match="no edit of the version v1 is in force"):
        publish(memory, stored(tmp_path, "v1"), "default")
    assert states(memory) == {"france": ""}


def test_a_later_version_takes_over_what_it_holds(memory: EditMemory, tmp_path: Path) -> None:
    memory.add([FRANCE, ITALY])
    written(tmp_path, "v1", FRANCE, ITALY)
    written(tmp_path, "v2", FRANCE)
    publish(memory, stored(tmp_path, "v1"), "default")
    publish(memory, stored(tmp_path, "v2"), "default")
    assert states(memory) == {"france": "v2", "italy": "v1"}
    # What replaces an edit, and a revert, act at once, whatever the weights hold.
    (new,) = memory.add(structured("France", "The capital of {} is", "Nice", id="nice"))
    assert states(memory) == {"nice": "", "italy": "v1"}
    memory.revert(new.edit.id)
    assert states(memory) == {"france": "v2", "italy": "v1"}


def test_a_version_whose_gates_are_not_passed_is_not_published(
    memory: EditMemory, tmp_path: Path
) -> None:
    memory.add([FRANCE])
    written(tmp_path, "v1", FRANCE, passed=False)
    with pytest.raises(InvalidInput, match="has not passed its gates"):
        publish(memory, stored(tmp_path, "v1"), "default")


@pytest.mark.parametrize("name", ["../v1", "", ".v1", "a b", "x" * 65])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no name for a version"):
        stored(tmp_path, name)


def test_what_is_no_version_is_said_to_be_none(tmp_path: Path) -> None:
    written(tmp_path, "v1", FRANCE)
    (tmp_path / "notes").mkdir()
    assert [one.name for one in listed(tmp_path)] == ["v1"]
    with pytest.raises(InvalidInput, match="there is v1"):
        stored(tmp_path, "v2")
    (tmp_path / "v1" / MANIFEST).write_text("{")
    with pytest.raises(InvalidInput, match="cannot be read"):
        stored(tmp_path, "v1")
    written(tmp_path, "v3", FRANCE)
    (tmp_path / "v3").rename(tmp_path / "v4")
    with pytest.raises(InvalidInput, match="not of a version v4"):
        stored(tmp_path, "v4")


def test_versions_lie_beside_the_memory_unless_told_otherwise(tmp_path: Path) -> None:
    memory = MemoryConfig(path=tmp_path / "m.sqlite3")
    assert versions_folder(Config(memory=memory)) == tmp_path / "m.sqlite3.versions"
    told = ConsolidationConfig(folder="/srv/versions")
    assert versions_folder(Config(consolidation=told)) == Path("/srv/versions")


def test_what_moves_and_what_stays(memory: EditMemory) -> None:
    memory.add([FRANCE, sentence("It rains.", id="rain")], author="ann")
    memory.add([ITALY, SPAIN], author="bob")
    records = memory.records()
    now = max(record.created_at for record in records)

    def moved(
        hits: dict[str, int] | None = None, **choice: Any
    ) -> tuple[list[str], dict[str, int]]:
        taken, left = chosen(records, Choice(**choice), now=now + 10, hits=hits or {})
        return [edit.id for edit in taken], left

    assert moved() == (["france", "italy", "spain"], {"no subject": 1})
    assert moved(limit=1) == (["france"], {"no subject": 1, "limit": 2})
    assert moved(min_age=3600) == ([], {"age": 3, "no subject": 1})
    assert moved({"italy": 2, "spain": 1}, min_hits=2)[0] == ["italy"]
    assert moved(filters={"author": "b*", "subject": "*a*"})[0] == ["italy", "spain"]
    assert moved(filters={"source": "atlas ?"}) == (["france"], {"no subject": 1, "source": 2})
    with pytest.raises(InvalidInput, match="not filtered by 'target'"):
        Choice(filters={"target": "x"})


@pytest.mark.parametrize("route", ["ike", "grace"])
def test_an_edit_that_says_who_answers_it_stays(memory: EditMemory, route: str) -> None:
    memory.add([FRANCE, replace(ITALY, route=route)])
    taken, left = chosen(memory.records(), Choice(), now=time.time(), hits={})
    assert (taken, left) == ([FRANCE], {"route": 1})
