"""Second moments: of all tokens, and of those that end a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memedit.editors.architectures import architecture_of
from memedit.editors.covariance import Statistics, names
from memedit.editors.passes import observed
from memedit.editors.rows import Row
from memedit.errors import InvalidInput
from tests.editors import tiny

TEXT = "Kay met Bo Lee in Rome. The sea was calm!\nOld Ann-Marie O’Dea, of Ghent, sang. so it was\n"
STARTS = [
    "Kay met Bo Lee",
    "Kay met Bo Lee in Rome",
    "Old Ann-Marie O’Dea",
    "Old Ann-Marie O’Dea, of Ghent",
]


def test_names_are_capitals_but_not_a_lone_one_in_front() -> None:
    assert list(names([TEXT])) == STARTS
    assert list(names(["nothing here. no", "", "Über Łódź"])) == ["Über Łódź"]


def measured(model: Any, folder: Path, **options: Any) -> Tensor:
    corpus = folder / "corpus.txt"
    corpus.write_text(options.pop("text", TEXT), encoding="utf-8")
    statistics = Statistics(corpus, folder=folder / "kept", **options)
    return statistics.moments(model, tiny.tokenizer(), architecture_of(model), [1])[1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_names_have_their_share(kind: str, tmp_path: Path) -> None:
    model, tokenizer = tiny.model(kind), tiny.tokenizer()
    all_tokens = measured(model, tmp_path)
    ids = [tuple(tokenizer(start).input_ids) for start in STARTS]
    rows = [Row(0, row, len(row) - 1, len(row)) for row in ids]
    keys = observed(model, architecture_of(model), rows, [1]).keys[1]
    of_names = keys.T @ keys / len(keys)
    for share in (0.25, 1.0):
        wanted = (1 - share) * all_tokens + share * of_names
        torch.testing.assert_close(measured(model, tmp_path, names=share), wanted)
    assert not torch.allclose(all_tokens, of_names)


def test_no_more_names_than_the_tokens_pay_for(tmp_path: Path) -> None:
    model = tiny.model("llama")
    some = measured(model, tmp_path, names=1.0, tokens=16)
    assert torch.linalg.matrix_rank(some) == 2


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a share from 0 to 1"):
        Statistics(names=1.5)
    with pytest.raises(InvalidInput, match="has no names"):
        measured(tiny.model("llama"), tmp_path, names=0.5, text="all of it is small. and calm.")
