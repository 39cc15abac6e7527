"""What is written is what was computed: adapters through PEFT, checkpoints through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from memedit.consolidation.export import Version, low_rank, write_adapter, write_checkpoint
from memedit.editors.architectures import architecture_of
from memedit.editors.deltas import applied, matrix
from memedit.errors import InvalidInput
from memedit.protocols import WeightDelta
from tests.editors import tiny
from tests.editors.test_deltas import bits

IDS = torch.tensor([[5, 9, 7, 30, 4, 100]])


def deltas_of(model: Any, *, rank: int = 3, whole: bool = False) -> list[WeightDelta]:
    """Changes of two layers, one of them twice, which change answers a lot."""
    torch.manual_seed(0)
    found = []
    for layer in (1, 2, 2):
        name = f"{architecture_of(model).down_name(layer)}.weight"
        out, inside = matrix(model, name).shape
        left, right = torch.randn(out, rank), torch.randn(rank, inside) * 0.1
        one = (
            WeightDelta(name, full=left @ right)
            if whole
            else WeightDelta(name, left=left, right=right)
        )
        found.append(one)
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_adapter_and_checkpoint_give_the_logits_of_the_deltas(
    kind: str, whole: bool, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = tiny.model(kind)
    before = bits(model)
    deltas = deltas_of(model, whole=whole)
    plain = logits(model)
    with applied(model, deltas):
        wanted = logits(model)
    assert (wanted - plain).abs().max() > 0.1
    adapter = write_adapter(tmp_path, Version("a"), model, deltas)
    checkpoint = write_checkpoint(tmp_path, Version("c"), model, tiny.tokenizer(), deltas)
    assert bits(model) == before
    assert max(adapter["lost"].values()) < 1e-5
    assert max(checkpoint["lost"].values()) < 1e-5
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "c").eval()
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=1e-3)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    torch.testing.assert_close(logits(adapted), wanted, rtol=0, atol=1e-3)


def test_a_rank_that_is_too_high_is_cut_off_at_the_least_loss(tmp_path: Path) -> None:
    model = tiny.model("llama")
    name = f"{architecture_of(model).down_name(1)}.weight"
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(tiny.HIDDEN, 4))
    right, _ = torch.linalg.qr(torch.randn(tiny.INNER, 4))
    delta = WeightDelta(name, left=left * torch.tensor([4.0, 3.0, 2.0, 1.0]), right=right.T)
    manifest = write_adapter(tmp_path, Version("a"), model, [delta], max_rank=2)
    assert manifest["rank"] == 2
    assert manifest["lost"][name] == pytest.approx((5 / 30) ** 0.5, abs=1e-5)
    one, other, lost = low_rank(delta, 4)
    assert lost == 0.0
    torch.testing.assert_close(one @ other, delta.dense())
    torch.testing.assert_close(one.norm(dim=0), other.norm(dim=1))


def test_the_manifest_says_what_the_version_is(tmp_path: Path) -> None:
    model = tiny.model("llama")
    edits = tuple(tiny.edits(2))
    version = Version("v1", edits, {"name": "memit"}, {"accuracy": 1.0})
    write_adapter(tmp_path, version, model, deltas_of(model))
    found = json.loads((tmp_path / "v1" / "manifest.json").read_text())
    assert found["version"] == "v1"
    assert found["kind"] == "adapter"
    assert found["method"] == {"name": "memit"}
    assert found["gates"] == {"accuracy": 1.0}
    assert [edit["id"] for edit in found["edits"]] == ["e0", "e1"]
    assert found["weights"] == [f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)]
    other = tiny.model("llama", seed=1)
    write_adapter(tmp_path / "other", version, other, deltas_of(other))
    theirs = json.loads((tmp_path / "other" / "v1" / "manifest.json").read_text())
    assert theirs["base"]["fingerprint"] != found["base"]["fingerprint"]


def test_a_version_is_never_overwritten_and_never_half_there(tmp_path: Path) -> None:
    model = tiny.model("llama")
    deltas = deltas_of(model)
    write_adapter(tmp_path, Version("v1"), model, deltas)
    before = {file.name: file.read_bytes() for file in (tmp_path / "v1").iterdir()}
    with pytest.raises(InvalidInput, match="is there already; give the version another name"):
        write_checkpoint(tmp_path, Version("v1"), model, tiny.tokenizer(), deltas)
    assert {file.name: file.read_bytes() for file in (tmp_path / "v1").iterdir()} == before

    class Broken:
        def save_pretrained(self, _folder: Path) -> None:
            raise OSError("no space")

    weights = bits(model)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, Version("v2"), model, Broken(), deltas)
    assert [folder.name for folder in tmp_path.iterdir()] == ["v1"]
    assert bits(model) == weights


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    model = tiny.model("llama")
    with pytest.raises(InvalidInput, match="no delta to write"):
        write_adapter(tmp_path, Version("v"), model, [])
    with pytest.raises(InvalidInput, match="rank is 1 to 512"):
        write_adapter(tmp_path, Version("v"), model, deltas_of(model), max_rank=513)
    gpt = tiny.model("gpt2")
    with pytest.raises(InvalidInput, match="no weight"):
        write_adapter(tmp_path, Version("v"), gpt, deltas_of(model))
    assert not list(tmp_path.iterdir())
