"""What a vLLM is started with to take versions of the weights."""

from __future__ import annotations

from memedit.adapters import vllm_server as adapter
from memedit.adapters.vllm_versions import AT_ONCE
from memedit.config import Config, ConsolidationConfig
from memedit.editors.architectures import down_projections


def test_there_is_room_for_the_rank_and_one_place_stays_empty() -> None:
    config = Config(consolidation=ConsolidationConfig(max_rank=50))
    argv = adapter.command("m", ["--seed", "1"], cpu=False, config=config)
    at = argv.index("--enable-lora")
    assert argv[at : at + 5] == [
        *("--enable-lora", "--max-lora-rank", "64", "--max-loras"),
        str(AT_ONCE + 1),
    ]
    assert argv[at + 5 :] == ["--lora-target-modules", *down_projections(), "--seed", "1"]
    own = ["--enable-lora", "--max-loras", "9"]  # adapters of the caller's may be of any module
    argv = adapter.command("m", own, cpu=False, config=config)
    assert argv[-5:] == ["--max-lora-rank", "64", *own]
    assert "--lora-target-modules" not in argv
    assert "--enable-lora" not in adapter.command("m", [], cpu=False, config=Config())
