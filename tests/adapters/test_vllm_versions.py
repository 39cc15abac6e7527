"""What a vLLM is started with to take versions, and what it is asked without an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memedit.adapters import vllm_server as adapter
from memedit.adapters.vllm_versions import AT_ONCE, ServedVersions
from memedit.config import Config, ConsolidationConfig
from memedit.editors.architectures import down_projections
from memedit.encoders import HashEncoder
from memedit.errors import InvalidInput
from memedit.memory import EditMemory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[EditMemory]:
    with EditMemory(tmp_path / "memory.sqlite3", HashEncoder(), index="exact") as opened:
        yield opened


def test_there_is_room_for_the_rank_and_one_place_stays_empty() -> None:
    config = Config(consolidation=ConsolidationConfig(max_rank=50))
    argv = adapter.command("m", ["--seed", "1"], cpu=False, config=config)
    at = argv.index("--enable-lora")
    assert argv[at : at + 5] == [
        *("--enable-lora", "--max-lora-rank", "64", "--max-loras"),
        str(AT_ONCE + 1),
    ]
    assert argv[at + 5 :] == ["--lora-target-modules", *down_projections(), "--seed", "1"]
    assert "--enable-lora" not in adapter.command("m", [], cpu=False, config=Config())


def test_nobody_names_a_version(memory: EditMemory, tmp_path: Path) -> None:
    versions = ServedVersions(tmp_path, memory)
    versions.check({"model": "mine"})
    versions.check({"model": 7})
    versions.check({})
    with pytest.raises(InvalidInput, match="memedit itself names"):
        versions.check({"model": "memedit-v1"})
