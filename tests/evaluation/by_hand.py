"""Small cases whose right values are written out by hand: what every measure must give.

Each check takes the module under test, so that the same checks are put to the real module (in
``test_measures.py``) and to its mutants (in ``test_mutations.py``), which must all fail some.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from memedit.protocols import Scored

approx = pytest.approx


def scored(logprobs: list[float], tokens: list[int], predicted: list[int]) -> Scored:
    return Scored(tuple(logprobs), tuple(tokens), tuple(predicted))


# measures.py


def check_holds(m: ModuleType) -> None:
    assert m.holds("Lyon", ["Lyon"], ["Paris"])
    assert m.holds("It is lyon.", ["Lyon"], ["Paris"])
    assert not m.holds("Paris", ["Lyon"], ["Paris"])
    assert not m.holds("Lyon, once Paris", ["Lyon"], ["Paris"])
    assert not m.holds("", ["Lyon"], ["Paris"])
    assert not m.holds("Lyon", [], [])
    assert m.holds("the U.S.", ["United States", "U.S."], ["France"])  # an alias
    assert m.holds("東京です", ["東京"], ["大阪"])  # no spaces around words
    assert m.holds("Kolinda Grabar-Kitarovic", ["Kolinda Grabar-Kitarović"], [])
    assert m.holds("The Nintendo DSi is made by Sega", ["Sega"], ["Nintendo"], ["Nintendo DSi"])
    assert not m.holds("The Nintendo DSi is made by Sega", ["Sega"], ["Nintendo"])


def check_every_hop(m: ModuleType) -> None:
    accepted = [["Peru"], ["Lima", "the City of Kings"]]
    assert m.every_hop_holds(["Peru", "lima"], accepted)
    assert m.every_hop_holds(["Peru", "City of Kings"], accepted)
    assert not m.every_hop_holds(["Chile", "Lima"], accepted)  # right by a wrong way
    assert not m.every_hop_holds(["Peru", None], accepted)
    assert not m.every_hop_holds(["Peru"], accepted)
    assert not m.every_hop_holds(["Peru", "Lima", "Peru"], accepted)
    assert not m.every_hop_holds([], accepted)


def check_unchanged(m: ModuleType) -> None:
    assert m.unchanged("Rome", "Rome")
    assert m.unchanged(" Rome\n", "Rome")
    assert not m.unchanged("Rome", "rome")  # agreement is of texts, not of facts
    assert not m.unchanged("Rome", "")
    assert m.unchanged("", "")


def check_spoken(m: ModuleType) -> None:
    assert m.spoken(" Lyon \n\nNew Fact: Paris", chat=False) == "Lyon"
    assert m.spoken("Lyon\n\nand more ", chat=True) == "Lyon\n\nand more"
    assert m.spoken("\n", chat=False) == ""


def check_retainability(m: ModuleType) -> None:
    # Total collapse over 1,000 edits: (0 - 1) / 999.
    assert m.retainability([True] + [False] * 999) == approx(-1 / 999)
    assert m.retainability([True, False, True]) == 0
    assert m.retainability([True, False]) == -1
    assert m.retainability([False, False, True]) == approx(1 / 2)
    try:
        m.retainability([True])
    except ValueError:
        pass
    else:
        raise AssertionError("one step is no sequence")
    # Of four edits three held when learned, and one of these still does.
    assert m.retained([True, True, False, True], [True, False, True, False]) == [True, False, False]
    assert m.retained([], []) == []


def check_scalability(m: ModuleType) -> None:
    assert m.scalability(0.9, 0.6) == approx(0.3)
    assert m.scalability(0.6, 0.9) == approx(-0.3)
    assert m.relative_scalability(0.9, 0.6) == approx(1 / 3)
    assert m.relative_scalability(0.0, 0.0) is None


def check_entropy(m: ModuleType) -> None:
    # a b a b: bigrams ab ab ba, trigrams aba bab.
    two = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert m.ngram_entropy("a B a b") == approx((2 / 3 * two + 4 / 3 * 1.0) / 2)
    assert m.ngram_entropy("no no no no") == 0
    assert m.ngram_entropy("") == 0
    assert m.ngram_entropy("word") == 0
    # a a b b: bigrams aa ab bb, trigrams aab abb.
    assert m.ngram_entropy("a a b b") == approx((2 / 3 * math.log2(3) + 4 / 3 * 1.0) / 2)
    # Four different words: 3 bigrams, 2 trigrams, all once.
    assert m.ngram_entropy("a b, c") == approx((2 / 3 * math.log2(3) + 4 / 3 * math.log2(2)) / 2)


def check_forced(m: ModuleType) -> None:
    new = scored([-1.0, -2.0, -3.0], [5, 6, 7], [5, 9, 7])
    old = scored([-4.0], [8], [8])
    assert m.forced_token_accuracy(new) == approx(2 / 3)
    assert m.forced_token_accuracy(scored([], [], [])) == 0
    assert m.forced_exact(old)
    assert not m.forced_exact(new)
    assert not m.forced_exact(scored([], [], []))
    assert m.mean_logprob(new) == approx(-2.0)
    assert m.mean_logprob(scored([], [], [])) == -math.inf
    assert m.forced_prefers(new, old)
    assert not m.forced_prefers(old, new)
    assert not m.forced_prefers(new, new)  # a tie is no preference
    assert m.forced_magnitude(new, old) == approx(math.exp(-2) - math.exp(-4))
    assert m.forced_agreement(new, scored([-1, -1, -1], [5, 6, 7], [5, 1, 7])) == approx(2 / 3)
    assert m.forced_agreement(scored([], [], []), scored([], [], [])) == 0


MEASURES = (
    check_holds,
    check_every_hop,
    check_unchanged,
    check_spoken,
    check_retainability,
    check_scalability,
    check_entropy,
    check_forced,
)


# intervals.py


def check_rate(m: ModuleType) -> None:
    # Two cases of two and one probes. A resample is 1/2 (the first twice), 1 (the second twice)
    # or 2/3 (each once), with chances 1/4, 1/4, 1/2: so the 2.5 and 97.5 percentiles are 1/2, 1.
    found = m.rate([[True, False], [True]])
    assert (found.count, found.n) == (2, 3)
    assert found.rate == approx(2 / 3)
    assert (found.low, found.high) == (approx(1 / 2), approx(1.0))
    assert m.rate([[True, False], [], [True]]) == found  # a case without probes counts nothing
    assert m.rate([[True, False], [True]], seed=0) == found
    # All or none of three cases: the exact end, 0.025 ** (1 / 3) = 0.2924.
    assert m.rate([[True], [True], [True]]).low == approx(0.29240, abs=1e-5)
    assert m.rate([[True], [True], [True]]).high == 1
    assert m.rate([[True, True], [True]]).rate == 1
    # Four of seven: all seven draws are among the four with chance (4/7)^7 = 2.0 %, more than 1.5
    # and less than 2.5; so the upper end is 6/7. One of three: (1/3)^3 = 3.7 %, so it is 3/3.
    assert m.rate([[i < 4] for i in range(7)], seed=2).high == approx(6 / 7)
    assert m.rate([[i < 1] for i in range(3)]).high == approx(1)
    nothing = m.rate([[False], [False, False], [False]])
    assert (nothing.low, nothing.high) == (0, approx(1 - 0.29240, abs=1e-5))
    empty = m.rate([[], []])
    assert (empty.count, empty.n, empty.rate, empty.low, empty.high) == (0, 0, None, None, None)
    assert found.to_mapping() == {
        "count": 2,
        "n": 3,
        "rate": 0.6667,
        "low": 0.5,
        "high": 1.0,
    }
    # 30 of 100: the interval is about 0.3 ± 1.96 * sqrt(0.3 * 0.7 / 100) = 0.21 to 0.39.
    many = m.rate([[i < 30] for i in range(100)])
    assert many.low == approx(0.21, abs=0.015)
    assert many.high == approx(0.39, abs=0.015)


def check_mean(m: ModuleType) -> None:
    found = m.mean([[1.0, 2.0], [6.0]])
    assert (found.n, found.mean) == (3, approx(3.0))
    assert (found.low, found.high) == (approx(1.5), approx(6.0))
    nothing = m.mean([[]])
    assert (nothing.n, nothing.mean, nothing.low, nothing.high) == (0, None, None, None)
    assert found.to_mapping() == {"n": 3, "mean": 3.0, "low": 1.5, "high": 6.0}


def check_difference(m: ModuleType) -> None:
    # Second less first: 1/2 - 1. Resamples: case one twice 0, case two twice -1, else -1/2.
    found = m.difference([[True], [True]], [[True], [False]])
    assert (found.n, found.difference) == (2, approx(-0.5))
    assert (found.low, found.high) == (approx(-1), approx(0))
    nothing = m.difference([[True], []], [[], [True]])
    assert (nothing.n, nothing.difference) == (0, None)
    # 2/2 - 1/3 of the probes.
    assert m.difference([[True, False], [False]], [[True], [True]]).difference == approx(2 / 3)
    assert m.difference([[False], [True, False]], [[True], [True]]).difference == approx(2 / 3)
    assert m.difference([], []).n == 0
    # The same difference in all three cases: 0.7076 of others at most, each at its worst.
    better = m.difference([[False]] * 3, [[True]] * 3)
    assert (better.low, better.high) == (approx(1 - 2 * 0.70760, abs=1e-5), approx(1))
    worse = m.difference([[True]] * 3, [[False]] * 3)
    assert (worse.low, worse.high) == (approx(-1), approx(2 * 0.70760 - 1, abs=1e-5))
    equal = m.difference([[True]] * 3, [[True]] * 3)
    assert (equal.low, equal.high) == (approx(-0.70760, abs=1e-5), approx(0.70760, abs=1e-5))
    assert m.difference([[True], [], [True]], [[True], [True], [False]]) == found
    assert found.to_mapping() == {"n": 2, "difference": -0.5, "low": -1.0, "high": 0.0}
    try:
        m.difference([[True]], [])
    except ValueError:
        pass
    else:
        raise AssertionError("unequal lengths are not paired")


INTERVALS = (check_rate, check_mean, check_difference)


# report.py


def entry(measure: str, verdict: bool, **rest: Any) -> dict[str, Any]:
    """A probe's entry in cases.jsonl, as far as a report reads it."""
    given: dict[str, Any] = {
        "measure": measure,
        "kind": "prompt",
        "edits": ["e"],
        "right_edit": True,
        "leaks": False,
        "answer": "x",
        "error": None,
        "apart": None,
        "prompt_tokens": 10,
    }
    given["same" if measure == "locality" else "holds"] = verdict
    return given | rest


def row(method: str, pool: Any, case: str, *probes: dict[str, Any], **rest: Any) -> dict[str, Any]:
    live = 4 if pool == "all" else pool
    given = {"method": method, "pool": pool, "case": case, "live_edits": live}
    return given | {"probes": list(probes)} | rest


ROWS = [
    row(
        "memory",
        "all",
        "a",
        entry("generality", False, kind="consequence", error="wrong edit", right_edit=False)
        | {"answer": ""},
        entry("generality", True, kind="rephrase", apart="contradicted", right_edit=False),
        entry("accuracy", True, prompt_tokens=20, forced={"token_accuracy": 1.0, "exact": True}),
        entry("accuracy", False, apart="contradicted", right_edit=False),
        entry("locality", True, kind="neighbourhood", edits=[]),
        entry("portability", True, kind="2 hops", group="q", every_hop=True, hops=["h"]),
        entry("portability", False, kind="2 hops", group="q", error="scope missed", edits=[])
        | {"every_hop": False},
        entry("portability", True, kind="2 hops", group="r", every_hop=False, hops=["h"]),
        open={"entropy": 4.0},
    ),
    row(
        "memory",
        "all",
        "b",
        entry("locality", True, kind="neighbourhood", apart="only here"),
        entry("accuracy", False, error="model ignored the fact", prompt_tokens=30),
        entry("generality", True, kind="rephrase"),
        entry("locality", False, kind="neighbourhood", leaks=True, error="fired out of scope"),
        entry("locality", False, kind="neighbourhood", apart="asks another", error="x"),
        entry("portability", False, kind="2 hops", group="q", error="wrong edit"),
        entry("portability", False, kind="3 hops", group="p", apart="broken", every_hop=True),
        entry("portability", True, kind="3 hops", group="p"),
        open={"entropy": 2.0},
        live_edits=3,
    ),
    row(
        "memory",
        1,
        "a",
        entry("portability", True, kind="4 hops", every_hop=True, hops=["h"]),
        entry("accuracy", True),
        entry("portability", True, kind="alias"),
    ),
    row("memory", 1, "b", entry("accuracy", True)),
    row("none", "all", "a", entry("accuracy", False, edits=[], apart="contradicted")),
    row(
        "none",
        "all",
        "b",
        entry("accuracy", False, edits=[]),
        entry("portability", False, kind="2 hops", edits=[], every_hop=False),
    ),
]
SEQUENCE = [
    {"method": "memory", "step": 1, "holds": {"a": True}},
    {"method": "memory", "step": 2, "holds": {"a": True, "b": True}},
    {"method": "memory", "step": 4, "holds": {"a": False, "b": True, "c": False, "d": True}},
]
WHAT = {"settings": {"seed": 0}}


def check_report(m: ModuleType) -> None:
    report = m.summarise(ROWS, SEQUENCE, WHAT)
    assert [(r["method"], r["pool"]) for r in report["results"]] == [
        ("memory", "all"),
        ("memory", 1),
        ("none", "all"),
    ]
    together, alone, none = report["results"]
    assert (together["cases"], together["live_edits"]) == (2, 4)
    for measure, count, n in (
        ("accuracy", 1, 2),
        ("generality", 1, 2),
        ("locality", 1, 2),  # the third is set apart
        ("portability", 3, 5),
        ("fires_out_of_scope", 1, 2),
        ("leaks", 1, 2),
        ("right_edit", 3, 4),
    ):
        found = together[measure]
        assert (found["count"], found["n"]) == (count, n), measure
        assert found["rate"] == approx(count / n)
    assert set(together["by_kind"]) == {"accuracy", "generality", "locality", "portability"}
    assert set(together["by_kind"]["generality"]) == {"consequence", "rephrase"}
    assert together["by_kind"]["generality"]["consequence"]["count"] == 0
    assert set(together["by_kind"]["portability"]) == {"2 hops", "3 hops"}
    assert together["by_kind"]["portability"]["2 hops"]["count"] == 2
    assert together["by_kind"]["portability"]["2 hops"]["n"] == 4
    assert together["by_kind"]["portability"]["3 hops"]["n"] == 1
    assert together["by_kind"]["locality"]["neighbourhood"]["n"] == 2
    # Question q: any wording right in case a, not in b, all wordings in neither; question r of
    # case a: its only wording. Question p has a wording that is set apart: it is no question.
    assert set(together["questions"]) == {"2 hops"}
    assert together["questions"]["2 hops"]["any"]["count"] == 2
    assert together["questions"]["2 hops"]["any"]["n"] == 3
    assert together["questions"]["2 hops"]["all"]["count"] == 1
    assert together["questions"]["2 hops"]["all"]["n"] == 3
    # One of three was followed all the way; what is set apart counts nowhere.
    assert set(together["every_hop"]) == {"2 hops", "3 hops"}
    assert together["every_hop"]["2 hops"]["count"] == 1
    assert together["every_hop"]["2 hops"]["n"] == 3
    assert together["every_hop"]["3 hops"]["n"] == 0
    assert set(alone["every_hop"]) == {"4 hops"}
    assert none["every_hop"] == {}
    assert together["apart"]["contradicted"]["accuracy"]["n"] == 1
    assert together["apart"]["contradicted"]["accuracy"]["count"] == 0
    assert together["apart"]["contradicted"]["generality"]["n"] == 1
    assert together["apart"]["contradicted"]["generality"]["count"] == 1
    assert together["apart"]["asks another"]["locality"]["n"] == 1
    assert together["apart"]["asks another"]["locality"]["count"] == 0
    assert together["apart"]["only here"]["locality"]["count"] == 1
    assert together["apart"]["broken"]["portability"]["n"] == 1
    assert together["errors"] == {
        "wrong edit": 2,
        "scope missed": 1,
        "model ignored the fact": 1,
        "fired out of scope": 1,
    }
    assert together["empty_outputs"] == 1
    # In scope and counted: 10 20 10 10 10, and 30 10 10 10.
    assert together["prompt_tokens"]["n"] == 9
    assert together["prompt_tokens"]["mean"] == approx(120 / 9, abs=1e-4)
    assert together["ngram_entropy"]["mean"] == approx(3.0)
    assert set(together["forced"]) == {"accuracy"}
    forced = together["forced"]["accuracy"]
    assert (forced["token_accuracy"]["n"], forced["token_accuracy"]["mean"]) == (1, 1.0)
    assert forced["exact"]["mean"] == 1.0
    assert "prefers" not in forced
    assert (forced["generated"]["n"], forced["generated"]["count"]) == (1, 1)
    assert none["accuracy"]["rate"] == 0
    assert none["forced"] == {}
    assert none["locality"]["rate"] is None
    assert alone["accuracy"]["rate"] == 1
    assert report["schema"] == 1
    assert report["run"] == WHAT


def check_sequence(m: ModuleType) -> None:
    found = m.summarise(ROWS, SEQUENCE, WHAT)["retainability"]["memory"]
    assert [step["edits_learned"] for step in found["steps"]] == [1, 2, 4]
    assert [step["holds"]["count"] for step in found["steps"]] == [1, 2, 2]
    assert [step["holds"]["n"] for step in found["steps"]] == [1, 2, 4]
    # The first edit, a, holds after 1 and not after 4: (0 - 1) / 3.
    assert found["equation_12"] == approx(-1 / 3, abs=1e-5)
    # a, b and d held when first looked at; b and d still do.
    assert (found["retained"]["count"], found["retained"]["n"]) == (2, 3)
    shuffled = m.summarise(ROWS, SEQUENCE[::-1], WHAT)["retainability"]["memory"]
    assert shuffled == found
    short = m.summarise(ROWS, SEQUENCE[:1], WHAT)["retainability"]["memory"]
    assert short["equation_12"] is None
    two = m.summarise(ROWS, SEQUENCE[:2], WHAT)["retainability"]["memory"]
    assert two["equation_12"] == 0
    unseen = [{"method": "memory", "step": 1, "holds": {}}, *SEQUENCE[1:]]
    assert m.summarise(ROWS, unseen, WHAT)["retainability"]["memory"]["equation_12"] is None


def check_pools(m: ModuleType) -> None:
    # Accuracy 1 with 1 edit live, 1/2 with 4.
    (line,) = m.summarise(ROWS, [], WHAT)["scalability"]["memory"]
    assert (line["from_live_edits"], line["to_live_edits"]) == (1, 4)
    assert (line["absolute"], line["relative"]) == (approx(0.5), approx(0.5))
    assert "none" not in m.summarise(ROWS, [], WHAT)["scalability"]


REPORT = (check_report, check_sequence, check_pools)
