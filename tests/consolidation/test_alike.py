"""An adapter and a merged checkpoint of the same edits are the same model, on the packaged one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memedit.consolidation.export import Version, write_adapter, write_checkpoint
from memedit.editors import make_editor
from memedit.protocols import WeightDelta
from tests.consolidation.facts import FACTS, UNRELATED

ROOT = Path(__file__).parents[2]
EDITS = FACTS[18:30:3]
PROMPTS = [*(edit.key for edit in EDITS), *UNRELATED[:2]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapter ``a`` and the checkpoint ``c``."""
    folder = tmp_path_factory.mktemp("exported")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    corpus = ROOT / "docs" / "serving.md"
    editor = make_editor("memit", corpus=corpus, tokens=2_000, prefixes=2)
    deltas: Sequence[WeightDelta] = editor.deltas(model, tokenizer, EDITS)
    write_adapter(folder, Version("a"), model, deltas)
    write_checkpoint(folder, Version("c"), model, tokenizer, deltas)
    return folder


def test_the_logits_are_the_same(exported: Path, model_folder: Path) -> None:
    peft = pytest.importorskip("peft")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    plain, base = (
        AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
        for _ in range(2)
    )
    merged = AutoModelForCausalLM.from_pretrained(exported / "c", dtype=torch.float32).eval()
    adapted = peft.PeftModel.from_pretrained(base, exported / "a").eval()
    changed = 0.0
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            told = [model(input_ids=ids).logits for model in (plain, merged, adapted)]
            torch.testing.assert_close(told[2], told[1], rtol=0, atol=1e-3)
            changed = max(changed, (told[1] - told[0]).abs().max().item())
    assert changed > 1


def answers(monkeypatch: pytest.MonkeyPatch, model: Path, adapter: Path | None) -> list[str]:
    """Greedy answers of vLLM in float32."""
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    from vllm.lora.request import LoRARequest

    for name, value in (("VLLM_CPU_KVCACHE_SPACE", "1"), ("TORCH_COMPILE_DISABLE", "1")):
        monkeypatch.setenv(name, os.environ.get(name, value))
    options: dict[str, Any] = {"enable_lora": True, "max_lora_rank": 8} if adapter else {}
    llm = vllm.LLM(
        str(model),
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.25,
        max_model_len=256,
        disable_log_stats=True,
        **options,
    )
    try:
        asked = vllm.SamplingParams(temperature=0, max_tokens=8)
        request = LoRARequest("a", 1, str(adapter)) if adapter else None
        said = llm.generate(PROMPTS, asked, lora_request=request, use_tqdm=False)
        return [one.outputs[0].text for one in said]
    finally:
        llm.llm_engine.engine_core.shutdown()


@pytest.mark.vllm
def test_the_greedy_answers_in_vllm_are_the_same(
    exported: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = answers(monkeypatch, exported / "c", None)
    assert answers(monkeypatch, model_folder, exported / "a") == merged
    for edit, answer in zip(EDITS, merged, strict=False):
        assert (edit.target or "") in answer
