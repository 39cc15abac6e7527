"""What a job builds on, and what it learns anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memedit.consolidation.choosing import Choice
from memedit.consolidation.export import Version, write_adapter
from memedit.consolidation.gates import Probes
from memedit.consolidation.job import Job, Work, done, planned
from memedit.consolidation.versions import publish, stored
from memedit.editors import make_editor
from memedit.editors.architectures import architecture_of
from memedit.editors.covariance import fingerprint
from memedit.editors.deltas import matrix
from memedit.encoders import HashEncoder
from memedit.errors import InvalidInput
from memedit.evaluation.runner import alone
from memedit.memory import EditMemory
from memedit.protocols import WeightDelta
from tests.editors import tiny

EDITS = tiny.edits(4)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.sqlite3", HashEncoder(), index="exact") as opened:
        opened.add(EDITS)
        yield opened


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("v2", tmp_path / "versions", "default", make_editor("memit"))


def published(memory: EditMemory, job: Job) -> WeightDelta:
    """The version v1 of the first three edits, of which the third did not hold."""
    model = tiny.model("llama")
    name = f"{architecture_of(model).down_name(1)}.weight"
    out, inner = matrix(model, name).shape
    torch.manual_seed(0)
    delta = WeightDelta(name, left=torch.randn(out, 3), right=torch.randn(3, inner))
    gates = {"passed": True, "forms": ["text"], "held": ["e0", "e1"], "checks": {}}
    write_adapter(job.folder, Version("v1", tuple(EDITS[:3]), {}, gates), model, [delta])
    publish(memory, stored(job.folder, "v1"), job.namespace)
    return delta


def ids(work: Work) -> tuple[list[str], list[str], list[str]]:
    """Of what is built on, learned anew, and new."""
    parts = (work.before.edits, work.again, work.new)
    one, two, three = ([edit.id for edit in part] for part in parts)
    return one, two, three


def test_a_version_builds_on_the_one_that_is_published(memory: EditMemory, job: Job) -> None:
    delta = published(memory, job)
    work = planned(job, memory)
    assert ids(work) == (["e0", "e1"], [], ["e2", "e3"])
    (before,) = work.before.deltas
    torch.testing.assert_close(before.dense(), delta.dense())
    assert work.base == fingerprint(tiny.model("llama"))
    assert ids(planned(replace(job, fresh=True), memory)) == ([], ["e0", "e1"], ["e2", "e3"])


def test_where_one_of_its_edits_fell_the_rest_is_learned_anew(memory: EditMemory, job: Job) -> None:
    published(memory, job)
    memory.revert("e0")
    assert ids(planned(job, memory)) == ([], ["e1"], ["e2", "e3"])


def test_a_version_is_made_without_new_edits_where_others_fell(
    memory: EditMemory, job: Job
) -> None:
    published(memory, job)
    for edit in ("e2", "e3"):
        memory.revert(edit)
    with pytest.raises(InvalidInput, match=r"it has none; all that is published still stands"):
        planned(job, memory)
    assert ids(planned(replace(job, fresh=True), memory)) == ([], ["e0", "e1"], [])
    memory.revert("e0")
    assert ids(planned(job, memory)) == ([], ["e1"], [])


def test_a_job_without_new_edits_or_a_name_is_none(memory: EditMemory, job: Job) -> None:
    with pytest.raises(InvalidInput, match=r"no edit of 'default' is to move .*\(age: 4\)"):
        planned(replace(job, choice=Choice(min_age=3600)), memory)
    with pytest.raises(InvalidInput, match="is no name for a version"):
        planned(replace(job, name="a/b"), memory)
    published(memory, job)
    with pytest.raises(InvalidInput, match="there is a version v1 already"):
        planned(replace(job, name="v1"), memory)


def test_a_name_is_made_by_one_process_at_a_time(memory: EditMemory, job: Job) -> None:
    engine: Any = SimpleNamespace(model=tiny.model("llama"), tokenizer=tiny.tokenizer())
    parts: Any = None
    with (
        alone(job.folder / ".v2.work", "making a version"),
        pytest.raises(InvalidInput, match="another process is making a version in"),
    ):
        done(job, planned(job, memory), parts, engine, Probes({}, [], ""))
