"""Are two edits of one fact recognised in other words? Trains and measures memedit.conflicts.

    python benchmarks/conflicts.py verifier [--data DIR] [--seed N]  build/conflicts-verifier
    python benchmarks/conflicts.py train  [--data DIR] [--seed N]   memedit/conflicts.json
    python benchmarks/conflicts.py report [--data DIR] [--seed N]  results/conflicts.json

Pairs of the same fact: an edit prompt of CounterFact, MQuAKE or ParaRel against a question form of
MQuAKE, a ParaRel pattern or a PokeMQA question of the same relation. Pairs of different facts: two
relations of one subject, from MQuAKE, PokeMQA and CounterFact records that share a subject, and
from KnowEdit's prompts with another relation; and unrelated edits. Relations are split by a hash:
``train`` sees the tuning relations, ``report`` the report relations. KnowEdit's pairs are split by
subject. Relations that share a wording in the data ("located in": a country, a continent, a place)
are no pair of different facts.

The scope verifier is one of the features. The one that ships has seen every relation, and would be
measured on what it knows: ``verifier`` trains one in the same way without the report relations, in
the data and in our phrasings. It lacks the tuning relations, too: how far to trust a verifier on
relations it never saw is what the weights have to learn. ``train`` and ``report`` use that one.

The table of concepts was written by hand, in view of the data, with entries for tuning relations
and for relations of none of these sets, and without entries for the report relations.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from setting import head, read

from memedit import conflicts
from memedit.conflicts import (
    FEATURES,
    Alike,
    contradictions,
    features,
    is_vetoed,
    relation_of,
    same_fact,
    texts_asked,
)
from memedit.edits import Edit, sentence, structured
from memedit.encoders import SentenceEncoder
from memedit.errors import InvalidEdit
from memedit.scope import RelationVerifier
from memedit.scope.relation import shipped

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "memedit" / "conflicts.json"
RESULTS = ROOT / "benchmarks" / "results" / "conflicts.json"

VERIFIER = ROOT / "build" / "conflicts-verifier"
UNSEEN = {
    # to report on
    "P1001": (),
    "P1376": ("capital", "administrative centre", "seat of government"),
    "P140": ("religion",),
    "P175": ("performer",),
    "P190": ("twin city", "sister organisation"),
    "P264": ("record label", "music album label"),
    "P361": ("series", "album of song"),
    "P37": ("official language",),
    "P40": ("child", "number of children"),
    "P449": ("network",),
    "P463": ("number of members", "partner organisation"),
    "P495": ("country of origin",),
    "P50": ("author",),
    "P6": ("head of government", "mayor", "prime minister"),
    "P740": ("place of foundation",),
    # to tune on
    "P101": ("field of work",),
    "P1037": ("manager", "head of department"),
    "P106": ("occupation",),
    "P127": ("owner",),
    "P159": ("headquarters",),
    "P169": ("chief executive",),
    "P170": ("creator",),
    "P176": ("manufacturer",),
    "P178": ("developer",),
    "P27": ("citizenship",),
    "P286": ("coach",),
    "P36": ("capital", "administrative centre", "seat of government"),
    "P413": ("position played",),
    "P530": (),
    "P800": ("notable work",),
}
"""The report and the tuning relations, and what our phrasings call them and their like."""

FALSE_CONFLICTS = 0.02
"""Share of the tuning pairs of different facts, as records have them, that may count as one."""
SIGNS = {
    "cosine": 1,
    "words_least": 1,
    "words_cosine": 1,
    "answers_clash": -1,
    "answers_same": 1,
    "wordless": -1,
    "concept": 1,
    "concepts_clash": -1,
    "one_form": -1,
    "targets": 1,
    "targets_cosine": 1,
    "asks": 1,
    "asks_log_odds": 1,
    "asks_words": 1,
}
"""What a feature may only speak for (1) or against (-1)."""
CONCEPTS = [name.startswith("concept") for name in FEATURES]
KINDS = ("question form", "pattern", "PokeMQA question")
FAMILIES = (
    ("P131", "P276", "P17", "P30"),
    ("P176", "P178", "P170"),
    ("P740", "P495"),
    ("P407", "P364"),
    ("P136", "P1303"),
    ("P103", "P1412"),
    ("P101", "P106"),
)
"""Relations whose wordings overlap; they go to one side of the split together."""


@dataclass
class Data:
    """Wordings with ``it`` for the subject, by relation, and who they may be about."""

    wordings: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    subjects: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    facts: dict[str, dict[str, list[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    ambiguous: set[tuple[str, str]] = field(default_factory=set)
    specific: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def say(self, relation: str, text: str, kind: str) -> None:
        """Notes a wording of a relation."""
        self.wordings[relation].setdefault(text.strip(), kind)

    def know(self, relation: str, subject: str, text: str) -> None:
        """Notes that a record states this relation of this subject, in these words."""
        self.subjects[relation].append(subject)
        self.facts[subject][relation].append(text.strip())

    def answers(self, first: str, second: str, rng: random.Random) -> tuple[str, str]:
        """A target of each of two relations."""
        one, other = (rng.choice(sorted(self.targets[r]) or ["it"]) for r in (first, second))
        return one, other


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def load(folder: Path) -> Data:
    """All wordings and facts of the data folder."""
    data = Data()
    for relation, patterns in read(folder, "scope/relation_patterns.json").items():
        for pattern in patterns:
            if match := re.search(r"^(.*\[X\].*?) *\[Y\] ?\.?$", pattern):
                data.say(relation, match[1].replace("[X]", "it"), "pattern")
    stems: dict[str, set[str]] = defaultdict(set)
    for relation, texts in data.wordings.items():
        for text in texts:
            stems[plain(text)].add(relation)
    clozes = read(folder, "mquake/templates/cloze_templates.json")
    questions = read(folder, "mquake/templates/question_templates.json")
    for relation, cloze in clozes.items():
        data.say(relation, cloze.replace("[X]", "it").replace("__", ""), "prompt")
        data.say(relation, questions[relation].replace("[X]", "it"), "question form")
    _mquake(data, read(folder, "mquake/cf-3k-odd.json"), questions)
    _pokemqa(data, read(folder, "scope/edit_questions.json"), clozes)
    for record in read(folder, "counterfact/train.json"):
        text = record["prompt"].replace(record["subject"], "it")
        relations = stems.get(plain(text), set())
        if len(relations) == 1:
            (relation,) = relations
            data.say(relation, text, "prompt")
            data.know(relation, record["subject"], text)
            data.targets[relation].add(record["target_new"])
    shared: dict[str, set[str]] = defaultdict(set)
    for relation, texts in data.wordings.items():
        for text in texts:
            shared[plain(text)].add(relation)
    for relations in shared.values():
        data.ambiguous.update(itertools.combinations(sorted(relations), 2))
    for record in read(folder, "knowedit/wiki_counterfact.json"):
        for probe in record["locality"].get("Relation_Specificity", ()):
            if record["subject"] in record["prompt"] and record["subject"] in probe["prompt"]:
                texts = record["prompt"], probe["prompt"]
                answers = record["target_new"], probe["ground_truth"]
                data.specific.append((record["subject"], *texts, *answers))
    return data


def _mquake(data: Data, records: Sequence[Any], questions: dict[str, str]) -> None:
    shapes = [
        (relation, re.compile(re.escape(text).replace(r"\[X\]", "(?P<s>.+?)") + "$"))
        for relation, text in questions.items()
    ]
    for record in records:
        for edit in record["requested_rewrite"]:
            relation, subject = edit["relation_id"], edit["subject"]
            data.say(relation, edit["prompt"].replace("{}", "it"), "prompt")
            data.say(relation, edit["question"].replace(subject, "it"), "question form")
            data.know(relation, subject, edit["prompt"].replace("{}", "it"))
            data.targets[relation].add(edit["target_new"]["str"])
        for hop in (*record["single_hops"], *record["new_single_hops"]):
            hits = [(r, m["s"]) for r, s in shapes if (m := s.match(hop["question"]))]
            if hits:
                relation, subject = max(hits, key=lambda hit: len(questions[hit[0]]))
                if subject in hop["cloze"]:
                    data.know(relation, subject, hop["cloze"].replace(subject, "it"))


def _pokemqa(data: Data, records: Sequence[Any], clozes: dict[str, str]) -> None:
    stems = {relation: cloze.replace("__", "").strip() for relation, cloze in clozes.items()}
    shapes = [
        (relation, re.compile(re.escape(s).replace(r"\[X\]", "(?P<s>.+?)") + " (?P<o>.+?)$"))
        for relation, s in stems.items()
    ]
    for record in records:
        hits = [(r, m) for r, s in shapes if (m := s.match(record["edit"]))]
        if not hits:
            continue
        relation, match = max(hits, key=lambda hit: len(stems[hit[0]]))
        data.targets[relation].add(match["o"])
        data.know(relation, match["s"], stems[relation].replace("[X]", "it"))
        for asked in record["questions"]:
            if match["s"] in asked:
                data.say(relation, asked.replace(match["s"], "it"), "PokeMQA question")


def side(relation: str) -> str:
    """``tune``, ``report``, or ``seen``, by the verifier alone; the same for a family."""
    name = next((family[0] for family in FAMILIES if relation in family), relation)
    digest = hashlib.sha256(name.encode()).digest()
    return "report" if digest[-1] % 2 else "seen" if digest[-2] % 2 else "tune"


@dataclass(frozen=True)
class Pair:
    """Two edits, and what they are to each other."""

    kind: str
    new: Edit
    old: Edit


def edit_of(subject: str, text: str, target: str) -> Edit | None:
    """A wording about a subject as an edit; a question has no subject, as users give them."""
    try:
        if text.endswith("?"):
            asked = re.sub(r"\bit\b", lambda _: subject, text, count=1)
            if subject not in asked:
                return None
            return Edit(id="q", statement=f"{asked} {target}.", question=asked, target=target)
        return structured(subject, re.sub(r"\bit\b", "{}", text, count=1), target)
    except InvalidEdit:
        return None


def same_pairs(data: Data, part: str, count: int, rng: random.Random) -> list[Pair]:
    """``count`` pairs of one fact in two wordings for each of :data:`KINDS`."""
    pairs = []
    for kind in KINDS:
        relations = [
            r
            for r in sorted(data.wordings)
            if side(r) == part
            and data.subjects.get(r)
            and len(data.targets[r]) > 1
            and kind in data.wordings[r].values()
            and any(k in ("prompt", "pattern") for k in data.wordings[r].values())
        ]
        made = 0
        while made < count:
            relation = rng.choice(relations)
            texts = data.wordings[relation]
            a = rng.choice([t for t, k in texts.items() if k in ("prompt", "pattern")])
            b = rng.choice([t for t, k in texts.items() if k == kind])
            if plain(a) == plain(b):
                continue
            subject = rng.choice(data.subjects[relation])
            targets = rng.sample(sorted(data.targets[relation]), 2)
            new, old = edit_of(subject, b, targets[0]), edit_of(subject, a, targets[1])
            if new is not None and old is not None:
                pairs.append(Pair(kind, new, old))
                made += 1
    return pairs


def other_pairs(data: Data, part: str, count: int, rng: random.Random) -> list[Pair]:
    """``count`` pairs of one subject and two relations, half from each source."""
    pairs: list[Pair] = []
    subjects = sorted(s for s, relations in data.facts.items() if len(relations) > 1)
    while len(pairs) < count // 2:
        subject = rng.choice(subjects)
        first, second = rng.sample(sorted(data.facts[subject]), 2)
        if tuple(sorted((first, second))) in data.ambiguous:
            continue
        if side(first) != part or side(second) != part:
            continue
        answers = data.answers(first, second, rng)
        new = edit_of(subject, rng.choice(data.facts[subject][first]), answers[0])
        asked = [t for t, k in data.wordings[second].items() if k == "question form"]
        words = rng.choice([rng.choice(data.facts[subject][second]), *asked])
        old = edit_of(subject, words, answers[1])
        if new is not None and old is not None:
            pairs.append(Pair("records of one subject", new, old))
    specific = [
        p
        for p in data.specific
        if (hashlib.sha256(p[0].encode()).digest()[0] % 2 == 1) == (part == "report")
        and plain(p[1]) != plain(p[2])
    ]
    some = rng.sample(specific, min(count - count // 2, len(specific)))
    for subject, one, other, answer, known in some:
        new, old = structured(subject, one, answer), structured(subject, other, known)
        pairs.append(Pair("KnowEdit, other relation", new, old))
    return pairs


def mixed_pairs(data: Data, part: str, count: int, rng: random.Random) -> list[Pair]:
    """``count`` pairs of one subject and any two relations, whether they fit each other or not."""
    pairs: list[Pair] = []
    relations = [r for r in sorted(data.wordings) if side(r) == part and data.targets[r]]
    while len(pairs) < count:
        first, second = rng.sample(relations, 2)
        if tuple(sorted((first, second))) in data.ambiguous:
            continue
        texts = [rng.choice(sorted(data.wordings[r])) for r in (first, second)]
        answers = data.answers(first, second, rng)
        new, old = (edit_of("Ann Lee", t, a) for t, a in zip(texts, answers, strict=True))
        if new is not None and old is not None:
            pairs.append(Pair("any two relations", new, old))
    return pairs


def unrelated_pairs(data: Data, count: int, rng: random.Random) -> list[Pair]:
    """``count`` pairs of two subjects, half of them with the same relation."""
    pairs: list[Pair] = []
    relations = sorted(r for r in data.subjects if len(data.targets[r]) > 1)
    while len(pairs) < count:
        first = rng.choice(relations)
        second = first if len(pairs) % 2 else rng.choice(relations)
        one, other = rng.choice(data.subjects[first]), rng.choice(data.subjects[second])
        texts = [rng.choice(sorted(data.wordings[r])) for r in (first, second)]
        answers = data.answers(first, second, rng)
        new, old = edit_of(one, texts[0], answers[0]), edit_of(other, texts[1], answers[1])
        if plain(one) != plain(other) and new is not None and old is not None:
            pairs.append(Pair("unrelated", new, old))
    return pairs


@dataclass
class Judges:
    """What compares relations: the encoder, and the verifier that lacks their relations."""

    encoder: SentenceEncoder
    verifier: RelationVerifier

    def alike(self, pairs: Sequence[Pair]) -> list[Alike]:
        """How alike the edits of each pair are, as the memory compares them."""
        texts = [
            (
                relation_of(p.new, p.old.names),
                relation_of(p.old, p.new.names),
                p.new.target or "",
                p.old.target or "",
            )
            for p in pairs
        ]
        order = list(dict.fromkeys(itertools.chain.from_iterable(texts)))
        rows = dict(zip(order, self.encoder.encode(order), strict=True))
        asked = [pair for p in pairs for pair in texts_asked(p.new, p.old)]
        logits = self.verifier.logits(asked).reshape(-1, 2)
        return [
            Alike(float(rows[a] @ rows[b]), float(rows[c] @ rows[d]), float(both.mean()))
            for (a, b, c, d), both in zip(texts, logits, strict=True)
        ]


def rows_of(pairs: Sequence[Pair], similar: Sequence[Alike]) -> np.ndarray:
    return np.array(
        [
            features(relation_of(p.new, p.old.names), relation_of(p.old, p.new.names), alike)
            for p, alike in zip(pairs, similar, strict=True)
        ]
    )


def fit(rows: np.ndarray, same: np.ndarray, weights: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Logistic regression by Newton's method; the bias comes last and is not held small."""
    design = np.c_[rows, np.ones(len(rows))]
    held = ridge * np.r_[np.ones(rows.shape[1]), 1e-6]
    found = np.zeros(design.shape[1])
    for _ in range(60):
        chance = 1 / (1 + np.exp(-design @ found))
        curve = (design.T * (weights * chance * (1 - chance))) @ design / len(rows)
        slope = design.T @ (weights * (chance - same)) / len(rows) + held * found
        found -= np.linalg.solve(curve + np.diag(held), slope)
    return found


def learn_verifier(folder: Path, seed: int, steps: int) -> None:
    """Trains the verifier without these relations: some fifteen minutes on two cores."""
    from memedit.training.lora import learn
    from memedit.training.pairs import make_pairs
    from memedit.training.worlds import worlds

    assert set(UNSEEN) == {r for r in load(folder).wordings if side(r) != "seen"}
    pairs = make_pairs(worlds(folder, "fit"), folder, seed, UNSEEN)
    print(f"{len(pairs.counts)} pairs", flush=True)
    learn(pairs.counts, seed, steps=steps)[0].save(VERIFIER)
    made = {"seed": seed, "steps": steps, "pairs": len(pairs.counts), "without": sorted(UNSEEN)}
    (VERIFIER / "made.json").write_text(json.dumps(made) + "\n", encoding="utf-8")


def train(folder: Path, seed: int, judges: Judges) -> dict[str, Any]:
    """Fits the weights on the tuning relations, and writes them.

    Every pair is learnt from three times: as it is, as if the table did not know the concepts of
    either relation, and as if it knew those of one, since that is how new relations will look.
    """
    data, rng = load(folder), random.Random(seed)
    same = same_pairs(data, "tune", 1_000, rng)
    other = other_pairs(data, "tune", 2_000, rng)
    mixed = mixed_pairs(data, "tune", 600, rng)
    pairs = [*same, *other, *mixed]
    labels = np.r_[np.ones(len(same)), np.zeros(len(other) + len(mixed))]
    weights = np.r_[np.ones(len(same)), np.full(len(other), 0.6), np.ones(len(mixed))]
    rows = rows_of(pairs, judges.alike(pairs))
    neither, one = rows.copy(), rows.copy()
    neither[:, CONCEPTS] = one[:, CONCEPTS] = 0.0
    one[:, FEATURES.index("concept_one")] = 1.0
    views = np.r_[rows, neither, one]
    seen, shares = np.tile(labels, 3), np.r_[weights, 0.6 * weights, 0.6 * weights]
    found = fit(views, seen, shares)
    # What speaks against its meaning fits the wordings of these sets, and is left out.
    signs = np.array([SIGNS.get(name, 0) for name in FEATURES])
    while (wrong := signs * found[:-1] < 0).any():
        views[:, wrong] = 0.0
        found = fit(views, seen, shares)
    chance = 1 / (1 + np.exp(-(np.c_[rows, np.ones(len(rows))] @ found)))
    chance[[is_vetoed(row) for row in rows]] = 0.0
    natural = slice(len(same), len(same) + len(other))
    threshold = float(np.quantile(chance[natural], 1 - FALSE_CONFLICTS)) + 1e-6
    made = json.loads(WEIGHTS.read_text(encoding="utf-8")) | {
        "encoder": judges.encoder.name.partition("@")[0],
        "weights": dict(zip(FEATURES, found[:-1].round(4).tolist(), strict=True)),
        "bias": round(float(found[-1]), 4),
        "threshold": round(threshold, 4),
        "report": {
            "command": f"python benchmarks/conflicts.py train --seed {seed}",
            "tuning_relations": sorted(r for r in data.wordings if side(r) == "tune"),
            "tuning_found": round(float((chance[labels == 1] >= threshold).mean()), 4),
            # The baseline gets its threshold where the weights get theirs.
            "cosine_threshold": round(float(np.quantile(rows[natural, 0], 1 - FALSE_CONFLICTS)), 4),
            "pairs": {"same": len(same), "other": len(other), "mixed": len(mixed)},
        },
    }
    WEIGHTS.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return made


def measure(pairs: Sequence[Pair], judges: Judges, cut: float) -> dict[str, Any]:
    """The share of pairs that count as one fact, by kind and way of telling."""
    similar = judges.alike(pairs)
    known = list(zip(pairs, Judges(judges.encoder, shipped()).alike(pairs), strict=True))
    kinds: dict[str, Any] = {}
    for kind in dict.fromkeys(p.kind for p in pairs):
        some = [(p, c) for p, c in zip(pairs, similar, strict=True) if p.kind == kind]
        kinds[kind] = {
            "n": len(some),
            "memedit.conflicts": _share([same_fact(p.new, p.old, c).same for p, c in some]),
            "with the verifier that ships": _share(
                [same_fact(p.new, p.old, c).same for p, c in known if p.kind == kind]
            ),
            "words alone": _share([same_fact(p.new, p.old).same for p, _ in some]),
            "cosine alone": _share(
                [conflicts.share_subject(p.new, p.old) and c.cosine >= cut for p, c in some]
            ),
            "same text": _share(
                [conflicts.fact_key(p.new) == conflicts.fact_key(p.old) for p, _ in some]
            ),
        }
    ways = [way for way in next(iter(kinds.values())) if way != "n"]
    total = sum(kind["n"] for kind in kinds.values())
    kinds["all"] = {"n": total} | {
        way: round(sum(k["n"] * k[way] for k in kinds.values()) / total, 4) for way in ways
    }
    return kinds


def _share(found: Sequence[bool]) -> float:
    return round(sum(found) / max(1, len(found)), 4)


def rules(folder: Path) -> dict[str, Any]:
    """ConflictEdit: of its conflicting edits, for how many the second brings a warning."""

    def edit(of: dict[str, Any], target: str) -> Edit:
        return structured(of["subject"]["label"], of["relation"]["prompt"], of[target]["label"])

    result: dict[str, Any] = {}
    for name in ("reverse", "composite"):
        warned = false = count = 0
        for case in read(folder, f"conflictedit/{name}.json"):
            try:
                held = [edit(case["triples"][i], "object") for i in case["prerequisites"]]
                held.append(edit(case["edits"][0], "new_object"))
                new = edit(case["edits"][1], "new_object")
                agrees = edit(case["edits"][1], "object")
            except InvalidEdit:
                continue
            count += 1

            def about(of: str, held: Sequence[Edit] = held) -> list[Edit]:
                return [e for e in held if plain(e.subject or "") == plain(of)]

            def answering(of: str, held: Sequence[Edit] = held) -> list[Edit]:
                return [e for e in held if plain(e.target or "") == plain(of)]

            warned += bool(contradictions(new, about, answering))
            # Against the case's prerequisites alone nothing is contradicted.
            held.pop()
            false += bool(contradictions(agrees, about, answering))
        result[name] = {
            "n": count,
            "warned": round(warned / count, 4),
            "warned without the first edit": round(false / count, 4),
        }
    return result


def report(folder: Path, seed: int, judges: Judges) -> dict[str, Any]:
    """What is found on the report relations, beside three simpler ways of telling."""
    data, rng = load(folder), random.Random(seed + 1)
    cut = json.loads(WEIGHTS.read_text(encoding="utf-8"))["report"]["cosine_threshold"]
    return {
        **head(
            "Are two edits of one fact recognised in other words?",
            f"python benchmarks/conflicts.py report --seed {seed}",
            *("numpy", "torch", "sentence-transformers"),
        ),
        "seed": seed,
        "encoder": judges.encoder.name,
        "verifier": read(VERIFIER, "made.json"),
        "report_relations": sorted(r for r in data.wordings if side(r) == "report"),
        "targets": {"same fact": 0.9, "other relation": 0.03, "unrelated": 0.01},
        "same fact": measure(same_pairs(data, "report", 500, rng), judges, cut),
        "other relation": measure(other_pairs(data, "report", 400, rng), judges, cut),
        "any two relations": measure(mixed_pairs(data, "report", 400, rng), judges, cut),
        "unrelated": measure(unrelated_pairs(data, 2_000, rng), judges, cut),
        "PokeMQA sentences": _sentences(folder, judges),
        "rules": rules(folder),
    }


def _sentences(folder: Path, judges: Judges) -> dict[str, Any]:
    """A PokeMQA sentence as an edit against its own first question: all relations together."""
    pairs = []
    for record in read(folder, "scope/edit_questions.json")[::14]:
        old = sentence(record["edit"])
        asked = record["questions"][0]
        new = Edit(id="q", statement=f"{asked} Other.", question=asked, target="Other")
        pairs.append(Pair("sentence and question", new, old))
    similar = judges.alike(pairs)
    verdicts = [same_fact(p.new, p.old, c) for p, c in zip(pairs, similar, strict=True)]
    known = [v for p, v in zip(pairs, verdicts, strict=True) if p.old.prompt is not None]
    return {
        "n": len(pairs),
        "found": _share([v.same for v in verdicts]),
        "n with a parsed prompt": len(known),
        "found with a parsed prompt": _share([v.same for v in known]),
        "note": "tuning and report relations together; a sentence that is not parsed has no prompt",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("verifier", "train", "report"))
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2_500, help="of training the verifier")
    given = parser.parse_args()
    started = time.monotonic()
    if given.task == "verifier":
        learn_verifier(Path(given.data), given.seed, given.steps)
        return
    if not VERIFIER.is_dir():
        parser.error("run 'verifier' first: it trains what the relations are compared with")
    judges = Judges(SentenceEncoder(cache_size=50_000), RelationVerifier(VERIFIER))
    if given.task == "train":
        print(json.dumps(train(Path(given.data), given.seed, judges)["weights"], indent=1))
    else:
        results = report(Path(given.data), given.seed, judges)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for name in (
            "same fact",
            "other relation",
            "any two relations",
            "unrelated",
            "PokeMQA sentences",
            "rules",
        ):
            print(name, json.dumps(results[name], indent=1))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
