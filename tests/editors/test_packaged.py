"""The mathematics once more, on the packaged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from memedit.editors import make_editor
from memedit.editors.architectures import architecture_of
from memedit.editors.covariance import Statistics
from memedit.editors.deltas import applied, matrix
from memedit.editors.locating import keys
from memedit.editors.rows import Context, target_row
from memedit.editors.tracing import known
from memedit.editors.values import Search, values
from memedit.edits import structured
from tests.editors.test_deltas import bits

LAYER, TOKENS = 8, 400
EDITS = [
    structured("France", "The capital of {} is", "Oslo", id="france"),
    structured("Marie Curie", "{} was born in", "Lima", id="curie"),
]
SEARCH = Search(steps=2, bfloat16=False)


@pytest.fixture(scope="module")
def parts(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model in float32, and what every editor starts from."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    folder = tmp_path_factory.mktemp("moments")
    corpus = Path(__file__).parents[2] / "docs" / "serving.md"
    statistics = Statistics(corpus, tokens=TOKENS, folder=folder)
    architecture = architecture_of(model)
    around = [Context()]
    return {
        "model": model,
        "tokenizer": tokenizer,
        "options": {
            "layers": (LAYER,),
            "prefixes": 0,
            "wordings": (),
            "steps": SEARCH.steps,
            "bfloat16": SEARCH.bfloat16,
            "statistics": statistics,
        },
        "keys": keys(model, tokenizer, architecture, EDITS, around, [LAYER])[LAYER].mean.T,
        "wanted": values(model, tokenizer, architecture, EDITS, around, LAYER, SEARCH).changes.T,
        "moment": statistics.moments(model, tokenizer, architecture, [LAYER])[LAYER],
    }


def delta(parts: dict[str, Any], name: str, number: int, **more: Any) -> Tensor:
    """What an editor does to the layer's projection, the model being left as it was."""
    model, before = parts["model"], bits(parts["model"])
    editor = make_editor(name, **parts["options"], **more)
    (found,) = editor.deltas(model, parts["tokenizer"], EDITS[:number])
    with applied(model, [found]):
        assert bits(model) != before
    assert bits(model) == before
    dense: Tensor = found.dense()
    return dense


def test_rome_maps_the_key_to_the_value(parts: dict[str, Any]) -> None:
    name = f"{architecture_of(parts['model']).down_name(LAYER)}.weight"
    weight, key = matrix(parts["model"], name), parts["keys"][:, 0]
    value = weight @ key + parts["wanted"][:, 0]
    changed = weight + delta(parts, "rome", 1)
    torch.testing.assert_close(changed @ key, value, rtol=1e-4, atol=1e-4)
    assert (weight @ key - value).norm() > 0.1 * value.norm()


def test_emmet_maps_both_keys_and_with_one_edit_is_rome(parts: dict[str, Any]) -> None:
    both = delta(parts, "emmet", 2, slack=0.0) @ parts["keys"]
    torch.testing.assert_close(both, parts["wanted"], rtol=1e-3, atol=1e-3)
    one, rome = delta(parts, "emmet", 1, slack=0.0), delta(parts, "r-rome", 1)
    torch.testing.assert_close(one, rome, rtol=1e-3, atol=1e-5)


def test_memit_is_the_least_squares_solution(parts: dict[str, Any]) -> None:
    found = delta(parts, "memit", 2, weight=50.0, ridge=0.01)
    moment = parts["moment"].double()
    moment = moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment))
    known = parts["keys"].double()
    direct = parts["wanted"].double() @ known.T @ torch.linalg.inv(50 * moment + known @ known.T)
    torch.testing.assert_close(found.double(), direct, rtol=1e-3, atol=1e-5)


def test_alphaedit_leaves_the_corpus_alone(parts: dict[str, Any]) -> None:
    """Fewer tokens than the keys have dimensions span what is to stay."""
    found = delta(parts, "alphaedit", 2, null=0.0, penalty=1e-6).double()
    amounts, vectors = torch.linalg.eigh(parts["moment"].double())
    held = vectors[:, -TOKENS // 2 :] * amounts[-TOKENS // 2 :].clamp(min=0).sqrt()
    assert (found @ held).norm() < 1e-4 * found.norm() * held.norm()
    given = found @ parts["keys"].double()
    assert (given - parts["wanted"]).norm() < 0.05 * parts["wanted"].norm()


def test_an_edit_is_learned_from_another_wording_too(parts: dict[str, Any]) -> None:
    model, tokenizer, edit = parts["model"], parts["tokenizer"], EDITS[1]
    wording = "{} is known for"
    row = target_row(tokenizer, edit, 0, Context(wording=wording))
    options = parts["options"] | {"steps": 8}

    def told(wordings: tuple[str, ...]) -> float:
        editor = make_editor("r-rome", **(options | {"wordings": wordings}))
        with applied(model, editor.deltas(model, tokenizer, [edit])), torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        return float(logits[row.target - 1, row.ids[row.target]])

    assert told((wording,)) > told(()) + 3.0


def test_the_model_knows_the_facts_that_it_states(parts: dict[str, Any]) -> None:
    facts = [
        structured("France", "The capital of {} is", "Oslo", old_target=old)
        for old in ("Paris", "Rome", None)
    ]
    facts.append(structured("France", "The capital of {}", "Oslo", old_target="is Paris"))
    facts.append(structured("France", "The capital of {}", "Oslo", old_target="was Paris"))
    found = list(known(parts["model"], parts["tokenizer"], facts))
    assert found == [facts[0], facts[3]]
