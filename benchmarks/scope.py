"""Is the right edit found, and no edit where none is meant?

    python benchmarks/scope.py report [--data DIR] [--seed N]   writes benchmarks/results/scope.json
    python benchmarks/scope.py hard                             adds the hand-written prompts
    python benchmarks/scope.py relations                        adds relations against each other
    python benchmarks/scope.py gate [--texts N]                 adds what is lost by look-up
    python benchmarks/scope.py speed [--edits N]                adds the time of decisions
    python benchmarks/scope.py table                            what docs/scope.md shows of it

Only texts of the ``report`` parts count (see memedit/training/worlds.py); every threshold, the
baselines' too, comes from ``hold``. CounterFact's 11,919 train and dev edits are live together,
those of each other set apart. The weights that are measured are those that ship.

Baselines, in the same run: the cosine alone; the cosine where the subject is named; gradient
boosting over six features of a lexicon and two cosines; a cross-encoder head on the untuned
encoder. Each is fitted on ``fit`` where it is fitted, and its threshold is the lowest with the same
share of false fires on ``hold`` as memedit's.

``relations`` puts the first question of each relation of our phrasings beside the first statement
of each that is said of the same kind of subject. The verifier was trained on these texts, if on few
of these pairs: the figures say what it has not learnt, and not how it does on other words.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from setting import ROOT, cpu, head

from memedit.edits import from_mapping
from memedit.lexicon import mentions
from memedit.prompt import ASKED, ChatPrompt
from memedit.protocols import Candidate
from memedit.scope import RelationVerifier, VerifiedScope
from memedit.scope.reading import masked
from memedit.scope.relation import MASK
from memedit.scope.verified import content_words, stated_relation
from memedit.training.pairs import PHRASINGS
from memedit.training.scope import FALSE_FIRES, Judged, judged, outcome, unnamed
from memedit.training.worlds import Case, World, encoder, worlds

RESULTS = ROOT / "benchmarks" / "results" / "scope.json"
NEAREST = 8
FITTED = 4_000
"""Cases of a world that a baseline is fitted on, at most."""

Array = NDArray[np.float64]
Rows = tuple[NDArray[np.int64], NDArray[np.int64], Array]
"""Of each candidate the case's number, the edit's place, and features or a score."""


def wilson(k: int, n: int) -> list[float]:
    """The 95 % interval of a share k / n, in percent. Source: Wilson 1927."""
    if n == 0:
        return [0.0, 100.0]
    z, p = 1.959964, k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5)
    return [round(100 * max(0.0, middle - half), 2), round(100 * min(1.0, middle + half), 2)]


def said(table: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """Counts with their shares in percent and intervals."""
    return {
        kind: {"n": row["n"]}
        | {
            name: {
                "count": k,
                "percent": round(100 * k / row["n"], 2),
                "interval": wilson(k, row["n"]),
            }
            for name, k in row.items()
            if name != "n"
        }
        for kind, row in table.items()
    }


# baselines


def candidates_by_cosine(world: World, cases: Sequence[Case]) -> Rows:
    """The eight nearest edits of each text, and those it names: with six features each.

    The features: the cosine, the cosine with the subject masked in both, whether the subject is
    named, whether in a longer name, the share of the key's content words, and by how much another
    candidate's cosine is higher.
    """
    model = encoder()
    keys = model.encode([edit.key for edit in world.edits])
    numbers: list[int] = []
    places: list[int] = []
    rows: list[list[float]] = []
    texts: list[tuple[str, str]] = []
    queries = model.encode([case.query for case in cases])
    for number, (case, query) in enumerate(zip(cases, queries, strict=True)):
        cosines = keys @ query
        named: dict[int, bool] = {}
        for mention in world.names.lexicon.find(case.query):
            for place in mention.positions:
                named[place] = named.get(place, True) and mention.within_longer_name
        count = min(NEAREST, len(cosines))
        near = np.argpartition(-cosines, count - 1)[:count].tolist()
        ranked = sorted(named, key=lambda i: -float(cosines[i]))[:NEAREST]
        chosen = sorted({*near, *ranked}, key=lambda i: -float(cosines[i]))
        best = float(cosines[chosen[0]])
        for place in chosen:
            edit = world.edits[place]
            spans = mentions(case.query, edit.names)
            asked = masked(case.query, spans, (0, len(case.query)))
            key = stated_relation(edit)
            known = content_words(key)
            shared = len(known & content_words(asked)) / max(1, len(known))
            cosine = float(cosines[place])
            rows.append(
                [cosine, 0.0, float(place in named), float(named.get(place, False)), shared,
                 best - cosine]
            )  # fmt: skip
            texts.append((asked, key))
            numbers.append(number)
            places.append(place)
    flat = list(dict.fromkeys(text for pair in texts for text in pair))
    where = {text: i for i, text in enumerate(flat)}
    vectors = model.encode(flat)
    for row, (asked, key) in zip(rows, texts, strict=True):
        row[1] = float(vectors[where[asked]] @ vectors[where[key]])
    return np.array(numbers), np.array(places), np.array(rows)


def pooled_pairs(world: World, cases: Sequence[Case], rows: Rows) -> Array:
    """The untuned encoder's mean state of each candidate's pair, as a public cross-encoder's head
    would see it before any tuning: shape (candidates, 384).
    """
    import torch

    from memedit.scope.relation import mean_of, padded, pair_ids, token_ids

    model = encoder()
    model.encode(["warm"])
    inner = model._loaded[0]
    bert, tokenizer = inner.auto_model, inner.tokenizer
    states = np.zeros((len(rows[0]), 384), np.float32)
    pairs = [
        pair_ids(token_ids(tokenizer, cases[n].query), token_ids(tokenizer, world.edits[p].key))
        for n, p in zip(rows[0], rows[1], strict=True)
    ]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(order), 128):
            some = order[start : start + 128]
            ids, types, mask = padded(torch, [pairs[i] for i in some], "cpu")
            out = bert(input_ids=ids, token_type_ids=types, attention_mask=mask)
            states[some] = mean_of(out.last_hidden_state.float(), mask).numpy()
    return states


def as_judged(world: World, cases: Sequence[Case], rows: Rows) -> Judged:
    """A baseline's candidates in the form that :func:`outcome` reads."""
    right = np.array([p in cases[n].right for n, p in zip(rows[0], rows[1], strict=True)], float)
    exempt = np.array([p in cases[n].exempt for n, p in zip(rows[0], rows[1], strict=True)], bool)
    none = np.zeros(len(rows[0]), np.int64)
    return Judged(world, list(cases), rows[0], rows[1], none, rows[2], right, exempt)


def threshold_of(held: Sequence[Judged], scores: Sequence[Array]) -> float:
    """The lowest score at which no more locality prompts and search questions of ``hold`` fire."""
    values = np.unique(np.concatenate(scores))
    steps = values[:: max(1, len(values) // 400)]
    for step in steps.tolist():
        n = k = 0
        for one, score in zip(held, scores, strict=True):
            for kind, row in outcome(one, score, step).items():
                if kind in ("locality", "search question"):
                    n, k = n + row["n"], k + row["fires"]
        if k <= FALSE_FIRES * n:
            return float(step)
    return float(steps[-1])


def baselines(parts: dict[str, list[World]], seed: int) -> dict[str, dict[str, Any]]:
    """The four baselines on every world of ``report``."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(seed)
    made: dict[str, list[tuple[Judged, Array]]] = {}
    for part, all_of_them in parts.items():
        for world in all_of_them:
            cases = world.cases
            if part != "report" and len(cases) > FITTED:
                chosen = sorted(random.choice(len(cases), FITTED, replace=False))
                cases = [cases[i] for i in chosen]
            rows = candidates_by_cosine(world, cases)
            states = pooled_pairs(world, cases, rows)
            made.setdefault(part, []).append((as_judged(world, cases, rows), states))
            print(f"  {world.name}: {len(rows[0])} candidates", flush=True)
    fit_x = np.vstack([one.rows for one, _ in made["fit"]])
    fit_states = np.vstack([states for _, states in made["fit"]])
    fit_y = np.concatenate([one.labels for one, _ in made["fit"]])
    boosted = HistGradientBoostingClassifier(max_iter=200, max_depth=4, random_state=seed)
    boosted.fit(fit_x, fit_y)
    head = LogisticRegression(max_iter=300).fit(fit_states, fit_y)
    scores: dict[str, Callable[[Judged, Array], Array]] = {
        "cosine": lambda one, _: one.rows[:, 0],
        "cosine and mention": lambda one, _: np.where(one.rows[:, 2] > 0, one.rows[:, 0], -1.0),
        "lexicon and boosting": lambda one, _: boosted.predict_proba(one.rows)[:, 1],
        "untuned cross-encoder": lambda one, states: head.predict_proba(states)[:, 1],
    }
    found: dict[str, dict[str, Any]] = {}
    for name, score in scores.items():
        held = [one for one, _ in made["hold"]]
        threshold = threshold_of(held, [score(one, states) for one, states in made["hold"]])
        found[name] = {"threshold": round(threshold, 4)}
        for one, states in made["report"]:
            found[name][one.world.name] = said(outcome(one, score(one, states), threshold))
    return found


# memedit


def measured(scope: VerifiedScope, one: Judged) -> dict[str, Any]:
    """Outcomes by kind, and what went wrong, at most forty of each kind."""
    probability = scope.probabilities(one.head, one.rows)
    table: dict[str, Any] = said(outcome(one, probability, scope.threshold))
    accepted: dict[int, list[tuple[float, int]]] = {}
    for i in np.flatnonzero(probability >= scope.threshold).tolist():
        accepted.setdefault(int(one.case[i]), []).append((float(probability[i]), int(one.place[i])))
    retrieved: dict[int, set[int]] = {}
    for n, p in zip(one.case.tolist(), one.place.tolist(), strict=True):
        retrieved.setdefault(n, set()).add(p)
    for number, case in enumerate(one.cases):
        row = table[case.kind]
        got = sorted(accepted.get(number, ()), reverse=True)
        if case.right:
            hit = bool(case.right & retrieved.get(number, set()))
            row["retrieved"] = row.get("retrieved", 0) + hit
            wrong = not got or got[0][1] not in case.right
        else:
            wrong = any(place not in case.exempt for _, place in got)
        if wrong:
            listed = row.setdefault("cases", [])
            if len(listed) < 40:
                keys = [one.world.edits[place].key for _, place in got[:2]]
                meant = [one.world.edits[place].key for place in sorted(case.right)[:1]]
                listed.append({"text": case.query[-160:], "meant": meant, "fired": keys})
    return table


def by_shared_word(one: Judged, probability: Array, threshold: float) -> dict[str, Any]:
    """Alias prompts apart: those that share a word with the subject's name, and the others."""
    parts: dict[str, list[Case]] = {"a word of the name is shared": [], "none is": []}
    for case in one.cases:
        if case.kind != "alias":
            continue
        words = content_words(case.query)
        names = [one.world.edits[place].subject or "" for place in case.right]
        shared = any(content_words(name) & words for name in names)
        parts["a word of the name is shared" if shared else "none is"].append(case)
    found = {}
    for name, cases in parts.items():
        right = 0
        for number, case in enumerate(one.cases):
            if case in cases:
                mine = [
                    (float(probability[i]), int(one.place[i]))
                    for i in np.flatnonzero(one.case == number).tolist()
                    if probability[i] >= threshold
                ]
                right += bool(mine) and max(mine)[1] in case.right
        found[name] = {"n": len(cases), "right": right}
    return found


def report(data: Path, seed: int, *, without_baselines: bool = False) -> dict[str, Any]:
    """Everything but the hard prompts and the times."""
    started = time.monotonic()
    scope = VerifiedScope(RelationVerifier(cache_size=10**6, threads=None))
    parts = {part: worlds(data, part) for part in ("fit", "hold", "report")}  # type: ignore[arg-type]
    found: dict[str, Any] = {"threshold": scope.threshold}
    for world in [*parts["report"], *map(unnamed, parts["report"])]:
        one = judged(world, scope)
        found[world.name] = measured(scope, one)
        if world.name.startswith("wiki_counterfact report"):
            probability = scope.probabilities(one.head, one.rows)
            found[world.name]["alias by name"] = by_shared_word(one, probability, scope.threshold)
        brief = {
            kind: {
                k: v["percent"] for k, v in row.items() if isinstance(v, dict) and "percent" in v
            }
            for kind, row in found[world.name].items()
        }
        print(world.name, json.dumps(brief), flush=True)
    return {
        **head(
            "Which edit is a text about, and when is it about none?",
            "python benchmarks/scope.py report",
            *("numpy", "torch", "transformers"),
        ),
        "seed": seed,
        "live": {world.name: len(world.edits) for world in parts["report"]},
        "notes": {world.name: world.notes for world in parts["report"]},
        "memedit": found,
        "baselines": {} if without_baselines else baselines(parts, seed),
        "seconds": round(time.monotonic() - started),
    }


def hard() -> dict[str, Any]:
    """The hand-written prompts: by kind and part, how many have exactly the right edits.

    A prompt is right where the accepted edits are those that its label names, all of them and no
    other.
    """
    folder = ROOT / "benchmarks"
    lines = (folder / "hard_edits.jsonl").read_text(encoding="utf-8").splitlines()
    edits = [from_mapping({k: v for k, v in json.loads(line).items() if v}) for line in lines]
    world = World("hard", edits, [frozenset()] * len(edits))
    scope = VerifiedScope()
    nameless = [i for i, edit in enumerate(edits) if not edit.names]
    keys = encoder().encode([edits[i].key for i in nameless])
    found: dict[str, Any] = {}
    wrong: list[dict[str, Any]] = []
    for line in (folder / "hard_prompts.jsonl").read_text(encoding="utf-8").splitlines():
        prompt = json.loads(line)
        query = ChatPrompt(tuple(prompt["messages"])).in_context
        _, candidates = world._named(query)
        cosines = keys @ encoder().encode([query.rpartition(ASKED)[2]])[0]
        near = np.argsort(-cosines)[:NEAREST].tolist()
        candidates += [Candidate(edits[nameless[i]], float(cosines[i])) for i in near]
        (judgements,) = scope.judge([(query, candidates)])
        accepted = {
            c.edit.id
            for j, c in zip(judgements, candidates, strict=True)
            if j.probability >= scope.threshold
        }
        kind = found.setdefault(prompt["kind"], {}).setdefault(prompt["part"], {})
        about = set(prompt["about"])
        row = kind.setdefault("in scope" if about else "out of scope", {"n": 0, "right": 0})
        row["n"] += 1
        row["right"] += accepted == about
        if accepted != about:
            missing, extra = sorted(about - accepted), sorted(accepted - about)
            wrong.append({"id": prompt["id"], "missing": missing, "extra": extra})
    return {"kinds": found, "wrong": wrong, "threshold": scope.threshold}


def relations() -> dict[str, Any]:
    """How many relations of one kind of subject the verifier takes for each other.

    A pair counts as asking the same from even odds on.
    """
    phrasings = json.loads(PHRASINGS.read_text(encoding="utf-8"))["relations"]
    kinds = {name: set(entry["type"].split(" or ")) for name, entry in phrasings.items()}
    names = [
        (one, other)
        for one in phrasings
        for other in phrasings
        if one == other or kinds[one] & kinds[other]
    ]
    asked = {name: entry["questions"][0].replace("[X]", MASK) for name, entry in phrasings.items()}
    stated = {name: e["statements"][0].replace("[X]", MASK) for name, e in phrasings.items()}
    pairs = [(asked[one], stated[other]) for one, other in names]
    logits = RelationVerifier(threads=None).logits(pairs)
    same = np.array([one == other for one, other in names])
    worst = sorted(zip(logits[~same].tolist(), np.array(names)[~same].tolist(), strict=True))
    return {
        "other relations": {
            "n": int((~same).sum()),
            "taken for the same": int((logits[~same] > 0).sum()),
        },
        "the same relation": {"n": int(same.sum()), "found": int((logits[same] > 0).sum())},
        "worst": [
            {"asked": a, "stated": s, "log-odds": round(x, 2)} for x, (a, s) in worst[:-41:-1]
        ],
    }


# the gate


class Ungated(VerifiedScope):
    """Scope that reads every candidate."""

    def _worth_reading(self, candidates: Sequence[Candidate]) -> list[int]:
        return list(range(len(candidates)))


def everything(world: World, text: str) -> tuple[list[int], list[Candidate]]:
    """Each edit that the text has any part of a name, or the target, of; and their places."""
    exact = [one for one in world.names.find(text) if one.is_name]
    named = {one.position for one in exact}
    places = [one.position for one in exact]
    found = [Candidate(world.edits[o.position], None, (o.start, o.end)) for o in exact]
    others = [p for p, edit in enumerate(world.edits) if edit.names and p not in named]
    for v in world.names.variants.scan(text, others, {(one.start, one.end) for one in exact}):
        places.append(v.position)
        found.append(Candidate(world.edits[v.position], None, (v.start, v.end), v.features))
    for mention in world.names.targets.find(text, len(world.edits)):
        for position in mention.positions:
            if not mention.within_longer_name and position not in named:
                span = (mention.start, mention.end)
                places.append(position)
                found.append(Candidate(world.edits[position], None, span, None, True))
    return places, found


def gate(data: Path, seed: int, texts: int) -> dict[str, Any]:
    """Of what is accepted without a gate, how much is with it: by kind of text and in all.

    Counted in pairs of a text and an edit, and in texts, of which every edit must be kept.
    """
    random = np.random.default_rng(seed)
    verifier = RelationVerifier(cache_size=10**6, threads=None)
    gated, ungated = VerifiedScope(verifier), Ungated(verifier)

    def accepted(scope: VerifiedScope, text: str, found: Any) -> set[int]:
        (judgements,) = scope.judge([(text, found[1])])
        pairs = zip(found[0], judgements, strict=True)
        return {place for place, one in pairs if one.probability >= scope.threshold}

    table: dict[str, dict[str, Any]] = {}
    for world in worlds(data, "report"):
        kinds: dict[str, list[str]] = {}
        for case in world.cases:
            kinds.setdefault(case.kind, []).append(case.query)
        for kind, queries in kinds.items():
            some = sorted(random.choice(len(queries), min(texts, len(queries)), replace=False))
            counts = dict.fromkeys(("without", "with", "texts_without", "texts_with"), 0)
            row = table.setdefault(f"{world.name}, {kind}", {"n": len(some), **counts, "lost": []})
            for text in (queries[i] for i in some):
                without = accepted(ungated, text, everything(world, text))
                kept = accepted(gated, text, world._named(text)) & without
                row["without"] += len(without)
                row["with"] += len(kept)
                row["texts_without"] += bool(without)
                row["texts_with"] += bool(without) and kept == without
                keys = [world.edits[place].key for place in sorted(without - kept)]
                row["lost"] += [{"text": text[-160:], "edit": key} for key in keys]
            print(f"{world.name}, {kind}", row, flush=True)
    found: dict[str, Any] = {}
    for unit, prefix in (("pairs", ""), ("texts", "texts_")):
        without, kept = (
            sum(row[prefix + name] for row in table.values()) for name in ("without", "with")
        )
        found[unit] = {
            "accepted without a gate": without,
            "of these with it": kept,
            "percent": round(100 * kept / without, 2),
            "95 %": wilson(kept, without),
        }
    return {**found, "kinds": table}


# speed


def speed(data: Path, count: int) -> dict[str, Any]:
    """Milliseconds of a decision with ``count`` live edits: unrelated and in-scope texts."""
    made = _many(worlds(data, "report"), count)
    _ = made.names.variants
    scope = VerifiedScope()
    questions = [c.query for c in made.cases if c.kind == "search question"]
    others = [c.query for c in made.cases if c.kind == "locality"][:1_000]
    ours = [c.query for c in made.cases if c.kind == "rephrase"][:1_000]

    def decide(query: str) -> float:
        started = time.perf_counter()
        scope.judge([(query, made._named(query)[1])])
        return (time.perf_counter() - started) * 1e3

    for query in ours[:50]:
        decide(query)
    found: dict[str, Any] = {"edits": len(made.edits), "cpu": cpu()}
    for name, queries in (
        ("search questions", questions),
        ("locality", others),
        ("rephrases", ours),
    ):
        took = [decide(query) for query in queries]
        found[name] = {
            "n": len(took),
            "p50_ms": round(statistics.median(took), 2),
            "p99_ms": round(float(np.quantile(took, 0.99)), 2),
        }
        print(name, found[name], flush=True)
    random = np.random.default_rng(0)
    mixed = [
        str(random.choice(ours)) if random.random() < 0.05 else str(random.choice(questions))
        for _ in range(2_000)
    ]
    started = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decide, mixed))
    found["decisions a second, 16 at once, 95 % unrelated"] = round(
        len(mixed) / (time.perf_counter() - started)
    )
    return found


def _many(base: Sequence[World], count: int) -> World:
    """The edits of CounterFact, and as many more of made-up names in its wordings as are wanted."""
    main = base[0]
    random = np.random.default_rng(0)
    subjects = [edit.subject or "" for world in base for edit in world.edits if edit.subject]
    words = np.array(
        sorted({word for name in subjects for word in re.findall(r"[^\W\d_]{4,}", name)})
    )
    edits = list(main.edits)
    while len(edits) < count:
        template = main.edits[int(random.integers(len(main.edits)))]
        name = " ".join(str(random.choice(words)) for _ in range(int(random.integers(2, 4))))
        mapping = template.to_mapping() | {"id": f"made-{len(edits)}", "subject": name}
        mapping.pop("statement", None)
        mapping.pop("question", None)
        edits.append(from_mapping(mapping))
    return World(f"{count} edits", edits, [], main.cases)


# what is shown

ROWS = (
    ("CounterFact prompts, right edit", "counterfact", "prompt", "right"),
    ("CounterFact rephrases, right edit", "counterfact", "rephrase", "right"),
    ("CounterFact rephrases, wrong edit", "counterfact", "rephrase", "wrong"),
    ("CounterFact locality prompts, fires", "counterfact", "locality", "fires"),
    ("real search questions, fires", "counterfact", "search question", "fires"),
    ("PokeMQA questions, right edit", "pokemqa", "question", "right"),
    ("PokeMQA questions, wrong edit", "pokemqa", "question", "wrong"),
    ("wiki_counterfact, alias of the subject, right edit", "wiki_counterfact", "alias", "right"),
    ("wiki_counterfact, same subject and another relation, fires", "wiki_counterfact",
     "other relation", "fires"),
    ("zsRE rephrases, right edit", "zsre", "rephrase", "right"),
    ("zsRE, same subject and another relation, fires", "zsre", "other relation", "fires"),
)  # fmt: skip


def show(made: dict[str, Any]) -> None:
    """The tables of docs/scope.md, in Markdown."""
    ways = {**made["baselines"], "**memedit**": made["memedit"]}
    print("| | n |", " | ".join(ways), "|")
    print("|---" * (len(ways) + 2) + "|")
    for name, world, kind, outcome_ in ROWS:
        cells = [way.get(f"{world} report", {}).get(kind) for way in ways.values()]
        n = next(cell["n"] for cell in cells if cell)
        shown = [f"{cell[outcome_]['percent']:.1f} %" if cell else "" for cell in cells]
        shown[-1] = f"**{made['memedit'][f'{world} report'][kind][outcome_]['percent']:.2f} %**"
        print(f"| {name} | {n:,} | " + " | ".join(shown) + " |")
    print("\n| kind | in scope | | out of scope | |\n|---|---|---|---|---|")
    for kind, parts in made.get("hard", {}).get("kinds", {}).items():
        cells = []
        for side in ("in scope", "out of scope"):
            rows = [parts["report"][side]] if side in parts.get("report", {}) else []
            n, right = sum(row["n"] for row in rows), sum(row["right"] for row in rows)
            cells += [f"{right} of {n}", f"{100 * right / n:.0f} %"] if n else ["", ""]
        print(f"| {kind.replace('_', ' ')} | " + " | ".join(cells) + " |")
    print("\nrelations:", {k: v for k, v in made.get("relations", {}).items() if k != "worst"})
    for name, row in made.get("speed", {}).items():
        print(f"\n{name}: {row}", end="")
    print()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("report", "hard", "relations", "gate", "speed", "table"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEMEDIT_DATA", "data")))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=100, help="of each kind, for gate")
    parser.add_argument("--without-baselines", action="store_true", help="only memedit's own rows")
    given = parser.parse_args()
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if given.what == "table":
        show(before)
        return
    if given.what == "report":
        kept = {k: before[k] for k in ("hard", "relations", "gate", "speed") if k in before}
        made = kept | report(given.data, given.seed, without_baselines=given.without_baselines)
    elif given.what == "hard":
        made = before | {"hard": hard()}
    elif given.what == "relations":
        made = before | {"relations": relations()}
    elif given.what == "gate":
        made = before | {"gate": gate(given.data, given.seed, given.texts)}
    else:
        made = before | {"speed": speed(given.data, given.edits)}
    RESULTS.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {RESULTS.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
