"""What each editor promises, on a small random model of every architecture."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from memedit.editors import EDITORS, make_editor, options_of
from memedit.editors.alphaedit import null_projector
from memedit.editors.architectures import Architecture, architecture_of
from memedit.editors.deltas import applied, matrix
from memedit.editors.locating import Locating, keys
from memedit.editors.passes import Tails, hidden_of, log_probabilities, observed
from memedit.editors.rows import Context, Row, target_row
from memedit.editors.texts import contexts
from memedit.editors.values import Search, Values, _targets, values
from memedit.edits import Edit, sentence
from memedit.errors import InvalidEdit, InvalidInput
from memedit.protocols import Editor, WeightDelta
from tests.editors import tiny
from tests.editors.test_deltas import bits

KINDS = list(tiny.CONFIGS)
LAYER = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Second moments are measured once for all tests of a model."""
    return tmp_path_factory.mktemp("moments")


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Little of everything, so that a test takes a moment."""
    return {
        "layers": (LAYER,),
        "prefixes": 2,
        "prefix_tokens": 3,
        "steps": 3,
        "tokens": 512,
        "folder": folder,
        "bfloat16": False,
        "each": False,
        **more,
    }


def small_editor(name: str, folder: Path) -> Editor:
    """Any editor, with settings under which it takes a moment."""
    if "corpus" in options_of(make_editor(name)):
        return make_editor(name, **settings(folder))
    return make_editor(name, layers=(LAYER,), steps=3)


def around(model: Any) -> list[Context]:
    return contexts(model, tiny.tokenizer(), 2, 3, chat=False, wordings=Locating.wordings)


def keys_of(
    model: Any, architecture: Architecture, layer: int, number: int
) -> tuple[Tensor, Tensor]:
    """Mean and bare keys, (in, edits)."""
    found = keys(model, tiny.tokenizer(), architecture, tiny.edits(number), around(model), [layer])[
        layer
    ]
    return found.mean.T, found.bare.T


def sought(
    model: Any, architecture: Architecture, layer: int, number: int, **search: Any
) -> Tensor:
    """The values' changes, (out, edits)."""
    found = values(
        model,
        tiny.tokenizer(),
        architecture,
        tiny.edits(number),
        around(model),
        layer,
        Search(steps=3, bfloat16=False, **search),
    )
    return found.changes.T


def moment_of(model: Any, folder: Path, layer: int = LAYER) -> Tensor:
    from memedit.editors.covariance import Statistics

    statistics = Statistics(tokens=512, folder=folder)
    return statistics.moments(model, tiny.tokenizer(), architecture_of(model), [layer])[layer]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["rome", "r-rome"])
def test_rome_maps_the_key_to_the_value_exactly(kind: str, name: str, folder: Path) -> None:
    model, architecture = tiny.model(kind), None
    architecture = architecture_of(model)
    (delta,) = make_editor(name, **settings(folder)).deltas(model, tiny.tokenizer(), tiny.edits(1))
    mean, bare = keys_of(model, architecture, LAYER, 1)
    key = mean if name == "r-rome" else bare
    weight = matrix(model, delta.name)
    value = weight @ key + sought(model, architecture, LAYER, 1)
    torch.testing.assert_close((weight + delta.dense()) @ key, value, rtol=1e-4, atol=1e-4)
    assert delta.left.shape[1] == 1
    assert (weight @ key - value).norm() > 0.1 * value.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_edits_rome_maps_the_last_key_exactly(kind: str, folder: Path) -> None:
    model = tiny.model(kind)
    editor = make_editor("r-rome", **settings(folder))
    (delta,) = editor.deltas(model, tiny.tokenizer(), tiny.edits(3))
    mean, _ = keys_of(model, architecture_of(model), LAYER, 3)
    wanted = sought(model, architecture_of(model), LAYER, 3)
    torch.testing.assert_close(delta.dense() @ mean[:, 2], wanted[:, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_rome_reaches_the_key_of_each_context_with_one_rank(kind: str, folder: Path) -> None:
    model, architecture = tiny.model(kind), architecture_of(tiny.model(kind))
    options = settings(folder, each=True, slack=0.0)
    (delta,) = make_editor("r-rome", **options).deltas(model, tiny.tokenizer(), tiny.edits(1))
    here = keys(model, tiny.tokenizer(), architecture, tiny.edits(1), around(model), [LAYER])[LAYER]
    wanted = sought(model, architecture, LAYER, 1)
    every = here.every[0].T  # (in, contexts)
    assert every.shape[1] == 4
    torch.testing.assert_close(delta.dense() @ every, wanted.expand(-1, 4), rtol=1e-3, atol=1e-4)
    assert delta.left.shape[1] == 1


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_memit_of_each_context_is_a_least_squares_solve_over_them(kind: str, folder: Path) -> None:
    model, architecture = tiny.model(kind), architecture_of(tiny.model(kind))
    options = settings(folder, each=True, weight=0.7, ridge=0.0)
    (delta,) = make_editor("memit", **options).deltas(model, tiny.tokenizer(), tiny.edits(2))
    here = keys(model, tiny.tokenizer(), architecture, tiny.edits(2), around(model), [LAYER])[LAYER]
    wanted = sought(model, architecture, LAYER, 2)
    residual = wanted.repeat_interleave(4, dim=1).double()  # one column a context and edit
    root = torch.linalg.cholesky(moment_of(model, folder).double() * 0.7)
    left = torch.cat([here.every.flatten(0, 1).T.double(), root], dim=1).T
    right = torch.cat([residual, torch.zeros(tiny.HIDDEN, tiny.INNER)], dim=1).T
    direct = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(delta.dense().double(), direct, rtol=1e-3, atol=1e-5)
    assert delta.left.shape[1] == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 3])
def test_memit_equals_a_direct_least_squares_solve(kind: str, number: int, folder: Path) -> None:
    """min |Δ K - R|² + λ tr(Δ C Δᵀ), as one stacked least-squares problem."""
    model = tiny.model(kind)
    architecture = architecture_of(model)
    editor = make_editor("memit", **settings(folder, weight=0.7, ridge=0.0))
    (delta,) = editor.deltas(model, tiny.tokenizer(), tiny.edits(number))
    mean, _ = keys_of(model, architecture, LAYER, number)
    residual = sought(model, architecture, LAYER, number)
    root = torch.linalg.cholesky(moment_of(model, folder).double() * 0.7)
    left = torch.cat([mean.double(), root], dim=1).T  # (edits + in, in)
    right = torch.cat([residual.double(), torch.zeros(tiny.HIDDEN, tiny.INNER)], dim=1).T
    direct = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(delta.dense().double(), direct, rtol=1e-3, atol=1e-5)
    assert direct.norm() > 1e-3


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("gemma")])
@pytest.mark.parametrize("name", ["memit", "pmet"])
def test_memit_spreads_what_the_last_layer_still_lacks(kind: str, name: str, folder: Path) -> None:
    """With ordinary keys counting for nothing, the last layer gets all of the rest."""
    model = tiny.model(kind)
    architecture = architecture_of(model)
    editor = make_editor(name, **settings(folder, layers=(0, 1, 2), weight=1e-6))
    deltas = editor.deltas(model, tiny.tokenizer(), tiny.edits(3))
    assert [delta.name for delta in deltas] == [
        f"{architecture.down_name(n)}.weight" for n in (0, 1, 2)
    ]
    assert all(delta.dense().norm() > 1e-3 for delta in deltas)
    some, near = tiny.edits(3), around(model)
    search = Search(steps=3, attention=name == "pmet", bfloat16=False)
    found = values(model, tiny.tokenizer(), architecture, some, near, 2, search)
    bare = [target_row(tiny.tokenizer(), edit, i, Context()) for i, edit in enumerate(some)]
    with applied(model, deltas[:2]):
        seen = observed(model, architecture, bare, [2])
        mean = keys(model, tiny.tokenizer(), architecture, some, near, [2])[2].mean
    moved = {"memit": seen.streams[2] - found.streams, "pmet": seen.outputs[2] - found.outputs}
    given = mean @ deltas[2].dense().T
    torch.testing.assert_close(given, found.changes - moved[name], rtol=1e-2, atol=1e-3)


def test_what_is_normalised_afterwards_is_not_divided_among_layers(folder: Path) -> None:
    editor = make_editor("memit", **settings(folder, layers=(1, 2)))
    with pytest.raises(InvalidInput, match="cannot be divided among layers"):
        editor.deltas(tiny.model("gemma2"), tiny.tokenizer(), tiny.edits())


@pytest.mark.parametrize("kind", KINDS)
def test_emmet_with_one_edit_equals_rome(kind: str, folder: Path) -> None:
    model = tiny.model(kind)
    same = settings(folder, slack=0.0)
    (one,) = make_editor("emmet", **same).deltas(model, tiny.tokenizer(), tiny.edits(1))
    (other,) = make_editor("r-rome", **same).deltas(model, tiny.tokenizer(), tiny.edits(1))
    torch.testing.assert_close(one.dense(), other.dense(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_emmet_maps_every_key_to_its_value(kind: str, folder: Path) -> None:
    model = tiny.model(kind)
    architecture = architecture_of(model)
    editor = make_editor("emmet", **settings(folder, slack=0.0))
    (delta,) = editor.deltas(model, tiny.tokenizer(), tiny.edits(5))
    mean, _ = keys_of(model, architecture, LAYER, 5)
    wanted = sought(model, architecture, LAYER, 5)
    torch.testing.assert_close(delta.dense() @ mean, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_alphaedit_leaves_preserved_keys_alone(kind: str, folder: Path) -> None:
    """The preserved keys are fewer than the dimensions, so that there is a null space."""
    corpus = folder / "corpus.txt"
    corpus.write_text("Preserved text.", encoding="utf-8")
    model = tiny.model(kind)
    architecture = architecture_of(model)
    # The penalty is small beside the edits' keys: what can be learned in the null space is.
    editor = make_editor("alphaedit", **settings(folder, corpus=corpus, null=0.0, penalty=1e-6))
    (delta,) = editor.deltas(model, tiny.tokenizer(), tiny.edits(3))
    module = model.get_submodule(architecture.down_name(LAYER))
    kept: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    ids = tiny.tokenizer()(corpus.read_text(), return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        model(input_ids=ids.input_ids)
    hook.remove()
    preserved = kept[0][0].T  # (in, tokens)
    assert preserved.shape[1] < tiny.INNER
    before = matrix(model, delta.name) @ preserved
    after = (matrix(model, delta.name) + delta.dense()) @ preserved
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * before.abs().max().item())
    mean, _ = keys_of(model, architecture, LAYER, 3)
    wanted = sought(model, architecture, LAYER, 3)
    torch.testing.assert_close(delta.dense() @ mean, wanted, rtol=1e-2, atol=1e-2)


def test_alphaedit_leaves_earlier_edits_alone(folder: Path) -> None:
    model = tiny.model("llama")
    editor = make_editor("alphaedit", **settings(folder, null=0.99, penalty=1e-7))
    first, second = tiny.edits(4)[:2], tiny.edits(4)[2:]
    deltas = editor.deltas(model, tiny.tokenizer(), first)
    with applied(model, deltas):
        (knowing,) = editor.deltas(model, tiny.tokenizer(), second, earlier=first)
        (unaware,) = editor.deltas(model, tiny.tokenizer(), second)
        alone = [Context()]
        before = keys(model, tiny.tokenizer(), architecture_of(model), first, alone, [LAYER])[
            LAYER
        ].bare
    assert (knowing.dense() @ before.T).norm() < 0.02 * (unaware.dense() @ before.T).norm()


@pytest.mark.parametrize("number", [0, 3])
def test_alphaedit_equals_a_direct_solve(number: int) -> None:
    torch.manual_seed(0)
    wide = torch.randn(64, 12, dtype=torch.float64)
    moment = (wide.T @ wide / 64).float()
    new, earlier = torch.randn(12, 2, dtype=torch.float64), torch.randn(number, 12)
    editor = make_editor("alphaedit", null=0.5, penalty=0.1)
    projector, old = null_projector(moment, 0.5), earlier.double()
    eta = 0.1 * new.pow(2).sum(0).mean() * torch.eye(12)
    wanted = new.T @ projector @ torch.linalg.inv((old.T @ old + new @ new.T) @ projector + eta)
    got = editor._rights(new, moment, earlier if number else None)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)
    assert 0 < round(projector.trace().item()) < 12


def test_moments_are_those_of_the_unedited_model(folder: Path) -> None:
    model = tiny.model("llama")
    before = moment_of(model, folder)
    name = architecture_of(model).down_name(0) + ".weight"
    change = WeightDelta(name, full=torch.randn_like(model.get_parameter(name)))
    with applied(model, [change]):
        torch.testing.assert_close(moment_of(model, folder), before, rtol=0, atol=0)
    with torch.no_grad():
        model.get_parameter(architecture_of(model).attention_name(0) + ".weight").mul_(2)
    assert not torch.allclose(moment_of(model, folder), before)


def test_the_null_space_holds_its_share_of_the_trace() -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    amounts = torch.tensor([0, 0, 1, 2, 3, 4, 40, 50], dtype=torch.float64)
    moment = basis @ amounts.diag() @ basis.T
    for share, rank in ((0.0, 2), (0.011, 3), (0.031, 4), (0.101, 6)):
        projector = null_projector(moment, share)
        torch.testing.assert_close(projector @ projector, projector)
        assert round(projector.trace().item()) == rank
        assert (moment @ projector).trace() <= share * 100 + 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_tail_gives_what_the_whole_model_gives(kind: str) -> None:
    """With something added at the subject's last token, and rows of different lengths."""
    model = tiny.model(kind)
    architecture = architecture_of(model)
    rows = [
        target_row(tiny.tokenizer(), edit, i, context)
        for i, edit in enumerate(tiny.edits(3))
        for context in (Context(), Context(before="Some words. "))
    ]
    torch.manual_seed(1)
    change, aside = torch.randn(2, len(rows), tiny.HIDDEN)
    with torch.no_grad():
        tails = Tails(model, architecture, rows, 2)
        got = tails.run(change, aside)
        fewer = tails.only([4, 1]).run(change[[4, 1]], aside[[4, 1]])
        plain = tails.run(torch.zeros_like(change))
    torch.testing.assert_close(plain, tails.last, rtol=1e-4, atol=1e-4)
    for i, row in enumerate(rows):
        wanted = whole(model, architecture, row, change[i], aside[i])
        length = len(wanted)
        torch.testing.assert_close(got[i, :length], wanted, rtol=1e-4, atol=1e-4)
        if i in (4, 1):
            torch.testing.assert_close(
                fewer[[4, 1].index(i), :length], wanted, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_the_subject_opens_is_measured_behind_it(kind: str) -> None:
    """A first token's stream can be a hundred times as long, and a value by it ruins a model."""
    model = tiny.model(kind)
    architecture = architecture_of(model)
    row = target_row(tiny.tokenizer(), tiny.edits(1)[0], 0, Context(before="Some words. "))
    opening = replace(row, subject=0)
    norms = Tails(model, architecture, [row, opening], 2).norms
    streams: list[Tensor] = []
    layer = model.get_submodule(architecture.layer_name(2))
    hook = layer.register_forward_hook(lambda _m, _a, output: streams.append(hidden_of(output)[0]))
    with hook, torch.no_grad():
        model.base_model(input_ids=torch.tensor([row.read]), use_cache=False)
    wanted = streams[0].norm(dim=-1)[[row.subject, 1]]
    torch.testing.assert_close(norms, wanted, rtol=1e-4, atol=1e-4)


def whole(
    model: Any, architecture: Architecture, row: Row, change: Tensor, aside: Tensor
) -> Tensor:
    """The last hidden states of what one row has to read, from the subject's last token on."""

    def adding(what: Tensor) -> Any:
        def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[0, row.subject] += what
            return output

        return hook

    hooks = [
        model.get_submodule(name).register_forward_hook(adding(what))
        for name, what in (
            (architecture.down_name(2), change),
            (architecture.attention_name(2), aside),
        )
    ]
    try:
        with torch.no_grad():
            out = model.base_model(input_ids=torch.tensor([row.read]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return hidden_of(out.last_hidden_state)[0, row.subject :]


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_models_own(kind: str) -> None:
    model = tiny.model(kind)
    ids = torch.tensor([[5, 9, 7]])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state
        wanted = model(input_ids=ids).logits.log_softmax(-1)
        torch.testing.assert_close(log_probabilities(model, hidden), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_values_make_targets_more_probable_and_stop_when_they_are(kind: str) -> None:
    model = tiny.model(kind)
    parts = (model, tiny.tokenizer(), architecture_of(model))
    search = Search(steps=12, rate=0.3, stop=2.0, kl=0.0, clamp=50.0, bfloat16=False)

    def found(edits: Sequence[Edit], **other: Any) -> Values:
        return values(*parts, edits, [Context()], LAYER, replace(search, **other))

    some = tiny.edits(3)
    before, after = found(some, steps=0), found(some)
    assert not before.changes.any()
    assert (after.probabilities > 1.02 * before.probabilities).all()
    assert after.steps.tolist() == [12, 12, 12]
    enough = after.probabilities.min().item() * 0.999
    stopped = found(some, stop=enough)
    assert (stopped.probabilities >= enough).all()
    assert stopped.steps.min() < 12
    alone = [found([edit], stop=enough) for edit in some]
    assert [int(one.steps[0]) for one in alone] == stopped.steps.tolist()
    changes = torch.cat([one.changes for one in alone])
    torch.testing.assert_close(stopped.changes, changes, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_values_found_in_bfloat16_are_those_of_the_float32_model(kind: str) -> None:
    model = tiny.model(kind)
    parts = (model, tiny.tokenizer(), architecture_of(model), tiny.edits(3), [Context()], LAYER)
    search = Search(steps=6, rate=0.1, stop=2.0, kl=0.0, clamp=50.0, bfloat16=False)
    exact, fast = values(*parts, search), values(*parts, replace(search, bfloat16=True))
    assert model.dtype == torch.float32
    assert fast.changes.dtype == torch.float32
    torch.testing.assert_close(fast.streams, exact.streams, rtol=0, atol=0)
    torch.testing.assert_close(fast.outputs, exact.outputs, rtol=0, atol=0)
    assert (torch.cosine_similarity(fast.changes, exact.changes) > 0.9).all()
    assert not torch.equal(fast.changes, exact.changes)


def test_values_are_held_by_the_clamp() -> None:
    """It is a share of the stream's norm in the middle one of the contexts."""
    model, near = tiny.model("llama"), around(tiny.model("llama"))
    architecture, some = architecture_of(model), tiny.edits(2)
    search = Search(steps=5, rate=5.0, stop=2.0, clamp=0.1)
    found = values(model, tiny.tokenizer(), architecture, some, near, 1, search)
    assert len(near) == 4
    for i, edit in enumerate(some):
        rows = [target_row(tiny.tokenizer(), edit, n, one) for n, one in enumerate(near)]
        norms = observed(model, architecture, rows, [1]).streams[1].norm(dim=-1)
        middle = norms.sort().values[1]
        torch.testing.assert_close(found.changes[i].norm(), 0.1 * middle, rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "gemma3_text"])
@pytest.mark.parametrize("name", EDITORS)
def test_every_editor_leaves_the_model_as_it_is(kind: str, name: str, folder: Path) -> None:
    model = tiny.model(kind)
    if name == "lora":
        pytest.importorskip("peft")
    editor = small_editor(name, folder)
    before, needed = bits(model), [p.requires_grad for p in model.parameters()]
    modules = [name for name, _ in model.named_modules()]
    deltas = editor.deltas(model, tiny.tokenizer(), tiny.edits(2))
    assert bits(model) == before
    assert [p.requires_grad for p in model.parameters()] == needed
    assert [name for name, _ in model.named_modules()] == modules
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(not module._forward_hooks for module in model.modules())
    assert any(delta.dense().abs().max() > 0 for delta in deltas)
    with applied(model, deltas):
        assert bits(model) != before
    assert bits(model) == before


@pytest.mark.parametrize("name", EDITORS)
def test_alone_an_edit_gets_what_it_gets_beside_others(name: str, folder: Path) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    model = tiny.model("qwen2")
    editor = small_editor(name, folder)
    each = editor.separately(model, tiny.tokenizer(), tiny.edits(2))
    for edit, deltas in zip(tiny.edits(2), each, strict=True):
        alone = editor.deltas(model, tiny.tokenizer(), [edit])
        for one, other in zip(deltas, alone, strict=True):
            assert one.name == other.name
            torch.testing.assert_close(one.dense(), other.dense(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["ft-l", "ft-target"])
def test_fine_tuning_keeps_its_bound_and_learns(kind: str, name: str) -> None:
    model = tiny.model(kind)
    editor = make_editor(name, bound=0.02, rate=0.01, steps=12)
    (delta,) = editor.deltas(model, tiny.tokenizer(), tiny.edits(1))
    assert delta.dense().abs().max() <= 0.02
    assert delta.dense().abs().max() > 0.019  # it would go further
    row = target_row(tiny.tokenizer(), tiny.edits(1)[0], 0, Context())
    start = row.target if name == "ft-target" else 1

    def loss() -> float:
        ids = torch.tensor([row.ids])
        told = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return -told.gather(1, ids[0, 1:, None])[start - 1 :].mean().item()

    with torch.no_grad():
        before = loss()
        with applied(model, [delta]):
            assert loss() < before - 0.1


def test_rect_keeps_the_largest_relative_changes(folder: Path) -> None:
    from memedit.editors.rect import RECT

    model = tiny.model("llama")
    inner = make_editor("r-rome", **settings(folder))
    (whole_delta,) = inner.deltas(model, tiny.tokenizer(), tiny.edits(1))
    (delta,) = RECT(inner=inner, keep=0.25).deltas(model, tiny.tokenizer(), tiny.edits(1))
    kept = delta.full != 0
    assert kept.float().mean().item() == pytest.approx(0.25, abs=1e-3)
    relative = (whole_delta.dense() / matrix(model, delta.name)).abs()
    assert relative[kept].min() >= relative[~kept].max()
    torch.testing.assert_close(delta.full[kept], whole_delta.dense()[kept])


def test_an_edit_without_a_subject_is_refused() -> None:
    edit = sentence("it rains")
    with pytest.raises(InvalidEdit, match=f"{edit.id} has no"):
        make_editor("rome").deltas(tiny.model("llama"), tiny.tokenizer(), [edit])
    with pytest.raises(InvalidEdit, match="no edit to learn"):
        make_editor("rome").deltas(tiny.model("llama"), tiny.tokenizer(), [])


def test_unknown_editors_and_options_are_refused() -> None:
    with pytest.raises(InvalidInput, match="there is no editor 'roma'; there are ft-l, "):
        make_editor("roma")
    with pytest.raises(InvalidInput, match=r"rome has no option 'speed'; it has layers, .*steps"):
        make_editor("rome", speed=1)
    with pytest.raises(InvalidInput, match="memit has no option 'search'"):
        make_editor("memit", search=3)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("memit", "spread", "evn"),
        ("ft-l", "loss_on", "txt"),
        ("rome", "steps", "many"),
        ("rome", "layers", "five"),
        ("lora", "rank", 0),
        ("rect", "keep", 1.5),
        ("rect", "tokens", -1),
    ],
)
def test_values_that_an_option_cannot_have_are_refused(
    name: str, option: str, value: object
) -> None:
    with pytest.raises(InvalidInput, match=f"the option {option} cannot be {value!r}: Input"):
        make_editor(name, **{option: value})


def test_options_reach_what_an_editor_holds_and_one_value_makes_a_tuple(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Something to read.")
    editor = make_editor("rect", keep=0.5, steps=7, corpus=str(corpus), layers=2)
    told = editor.describe(tiny.model("llama"))
    assert told["keep"] == 0.5
    assert told["inner"]["layers"] == [2]
    assert told["inner"]["search"]["steps"] == 7
    assert (
        told["inner"]["statistics"]["corpus"]
        == hashlib.sha256(b"Something to read.").hexdigest()[:16]
    )


def test_fine_tuning_learns_a_chat_from_where_the_fact_starts() -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = "<{{ messages[0].content }}>"
    _, chat = contexts(tiny.model("llama"), tokenizer, 0, 0, chat=True)
    (edit,) = tiny.edits(1)
    row = target_row(tokenizer, edit, 0, chat)
    assert tokenizer.decode(row.ids) == "<The home of Ann is>Rome"
    assert tokenizer.decode(row.ids[row.prompt : row.target]) == "The home of Ann is>"
    model = tiny.model("llama")
    (text,), (both,) = (
        make_editor("ft-l", layers=LAYER, steps=3, rate=0.01, chat=chat).deltas(
            model, tokenizer, [edit]
        )
        for chat in (False, True)
    )
    with torch.no_grad():
        before = _loss(model, row)
        with applied(model, [text]):
            unasked = _loss(model, row)
        with applied(model, [both]):
            assert _loss(model, row) < min(unasked, before) - 0.1


def _loss(model: Any, row: Row) -> float:
    ids = torch.tensor([row.ids])
    told = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return -told.gather(1, ids[0, 1:, None])[row.target - 1 :].mean().item()


def test_targets_are_rated_where_the_model_is() -> None:
    rows = [Row(0, (5, 6, 7), 0, 1), Row(0, (5, 6), 1, 2)]
    with torch.device("meta"):  # which mixes as little with a processor's tensors as a GPU does
        model, hidden = tiny.model("llama"), torch.zeros(2, 3, tiny.HIDDEN)
    rated = _targets(model, SimpleNamespace(rows=rows), hidden)  # type: ignore[arg-type]
    assert rated.device.type == "meta"
    assert rated.shape == (1, 1)


def test_a_wording_stands_in_place_of_the_prompt() -> None:
    wording = "As for {}, we say"
    (edit,) = tiny.edits(1)
    row = target_row(tiny.tokenizer(), edit, 0, Context(wording=wording))
    asked = target_row(tiny.tokenizer(), replace(edit, prompt=wording), 0, Context())
    assert row == asked


@pytest.mark.parametrize("wording", ["known for", "{} and {}"])
def test_a_wording_without_one_place_for_the_subject_is_refused(wording: str) -> None:
    model = tiny.model("gpt2")
    with pytest.raises(InvalidInput, match=r"needs one \{\} where the subject stands"):
        make_editor("memit", wordings=(wording,), layers=(LAYER,), prefixes=0).deltas(
            model, tiny.tokenizer(), tiny.edits(1)
        )


def test_a_models_prefixes_are_made_once_by_the_weights_it_first_had() -> None:
    model = tiny.model("llama")
    first = contexts(model, tiny.tokenizer(), 3, 4, chat=False)
    name = architecture_of(model).down_name(LAYER) + ".weight"
    tensor = model.get_parameter(name)
    with applied(model, [WeightDelta(name, full=torch.randn_like(tensor))]):
        assert contexts(model, tiny.tokenizer(), 3, 4, chat=False) == first
        assert contexts(model, tiny.tokenizer(), 3, 4, chat=False, seed=1) != first
    assert len({context.before for context in first}) == len(first) == 4
