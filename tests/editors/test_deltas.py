"""Deltas are laid on and taken off without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from memedit.editors.architectures import architecture_of
from memedit.editors.deltas import applied, matrix, merged
from memedit.errors import InvalidInput, Unsupported
from memedit.protocols import WeightDelta
from tests.editors import tiny


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, tensor in model.state_dict().items()
    }


def a_delta(model: torch.nn.Module, layer: int = 1, seed: int = 0) -> WeightDelta:
    torch.manual_seed(seed)
    name = f"{architecture_of(model).down_name(layer)}.weight"
    out, inside = matrix(model, name).shape
    return WeightDelta(name, left=torch.randn(out, 2), right=torch.randn(2, inside))


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_weights_are_restored_bit_for_bit(kind: str) -> None:
    model = tiny.model(kind).to(torch.bfloat16)
    before = bits(model)
    delta = a_delta(model)
    with applied(model, [delta, a_delta(model, seed=1), a_delta(model, layer=2)]):
        inside = bits(model)
        with pytest.raises(RuntimeError, match="broke"), applied(model, [delta]):
            raise RuntimeError("broke")
        assert bits(model) == inside
    assert {n for n in before if before[n] != inside[n]} == {
        f"{architecture_of(model).down_name(n)}.weight" for n in (1, 2)
    }
    assert bits(model) == before


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_a_delta_is_added_to_what_the_projection_gives(kind: str) -> None:
    model = tiny.model(kind)
    delta = a_delta(model)
    module = model.get_submodule(delta.name.rpartition(".")[0])
    given = torch.randn(5, delta.shape[1])
    before = module(given)
    with applied(model, [delta]):
        after = module(given)
    torch.testing.assert_close(after, before + given @ delta.dense().T, rtol=1e-4, atol=1e-4)


def test_deltas_of_one_weight_add_up_before_they_are_rounded() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    delta = a_delta(model)
    weight = matrix(model, delta.name)
    small = WeightDelta(delta.name, full=weight.float() * 2**-10)  # each alone is rounded away
    with applied(model, [small] * 4):
        assert not torch.equal(matrix(model, delta.name), weight)
    (joined,) = merged([delta, small])
    torch.testing.assert_close(joined.dense(), delta.dense() + small.dense())
    (factors,) = merged([delta, delta])
    assert factors.left.shape[1] == 4
    torch.testing.assert_close(factors.dense(), 2 * delta.dense())


@pytest.mark.parametrize("whole", [False, True])
def test_deltas_that_were_read_join_those_that_were_made_elsewhere(whole: bool) -> None:
    read = WeightDelta("a", left=torch.ones(3, 1), right=torch.ones(1, 2))
    with torch.device("meta"):  # which mixes as little with a processor's tensors as a GPU does
        factors = {"left": torch.ones(3, 1), "right": torch.ones(1, 2)}
        made = WeightDelta("a", **({"full": torch.ones(3, 2)} if whole else factors))
    (joined,) = merged([read, made])
    assert joined.dense().device.type == "meta"


def test_a_delta_of_another_model_is_refused_and_changes_nothing() -> None:
    model = tiny.model("llama")
    before = bits(model)
    good = a_delta(model)
    for wrong, said in (
        (WeightDelta(good.name, full=torch.zeros(3, 3)), "made for another model"),
        (WeightDelta("model.layers.99.mlp.down_proj.weight", full=torch.zeros(3, 3)), "no weight"),
    ):
        with pytest.raises(InvalidInput, match=said), applied(model, [good, wrong]):
            pass
        assert bits(model) == before


def test_a_delta_is_in_factors_or_whole() -> None:
    for parts in (
        {},
        {"left": torch.zeros(2, 1)},
        {"full": torch.zeros(2, 2), "left": 1, "right": 1},
    ):
        with pytest.raises(ValueError, match="needs left and right, or full"):
            WeightDelta("w", **parts)
    with pytest.raises(ValueError, match="do not fit"):
        WeightDelta("w", left=torch.zeros(2, 1), right=torch.zeros(2, 2))


def test_an_unknown_architecture_says_what_to_add() -> None:
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=9,
    )
    with pytest.raises(Unsupported, match=r"add a table \[gpt_neox\] to .*architectures.toml"):
        architecture_of(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_the_table_names_modules_that_are_there(kind: str) -> None:
    model = tiny.model(kind)
    architecture = architecture_of(model)
    for n in range(architecture.depth):
        down = matrix(model, f"{architecture.down_name(n)}.weight")
        assert tuple(down.shape) == (tiny.HIDDEN, tiny.INNER)
        attention = matrix(model, f"{architecture.attention_name(n)}.weight")
        assert tuple(attention.shape) == (tiny.HIDDEN, tiny.HIDDEN)
    assert model.get_submodule(architecture.embedding).weight.shape[0] == tiny.VOCABULARY
    with pytest.raises(InvalidInput, match="there is no layer 4"):
        architecture.layer_name(4)


def test_every_architecture_of_the_table_is_tested() -> None:
    import tomllib

    import memedit.editors

    table = Path(memedit.editors.__file__).with_name("architectures.toml").read_text()
    assert set(tomllib.loads(table)) == set(tiny.CONFIGS)
