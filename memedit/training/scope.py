"""``memedit scope train``: verifier, probabilities, threshold, and what was measured on ``hold``.

The verifier is trained first and lies in the folder from then on; what follows takes minutes and
can be repeated. The probability of a head is a logistic regression over
:data:`memedit.scope.verified.FEATURES`, fitted on the ``fit`` worlds; Platt's scaling on ``hold``
makes it a probability there. The threshold is the lowest from a half on at which at most
:data:`FALSE_FIRES` of the ``hold`` locality prompts and search questions fire.

Source of the calibration: Platt 1999, "Probabilistic outputs for support vector machines".
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.edits import Edit
from memedit.scope.relation import RelationVerifier
from memedit.scope.verified import (
    FEATURES,
    HEADS,
    NAME_FLOOR,
    Pair,
    VerifiedScope,
    turned_relation,
)
from memedit.training.worlds import Case, World, worlds
from memedit.variants import FEATURES as NAME_FEATURES

FALSE_FIRES = 0.02
"""Share of the held-back texts of a kind that no live edit is about that may fire."""

MOST_CASES = 4_000
"""Most cases of one world that the probabilities are fitted on."""

UNNAMED_CASES = 300
"""About so many cases of a world are asked of its edits without their subjects: nothing rules edits
out there before they are read."""

RIDGE = 1e-3

LEARNT = "training.json"
"""What is known of the verifier's training, in its folder until the report takes it over."""

_NAMES = tuple(f"name_{name}" for name in NAME_FEATURES)
_USED = {
    "named": ("relation", "worst"),
    "variant": ("relation", "worst", *_NAMES),
    "unknown": ("relation", "worst", "cosine", "words", "names_known"),
    "answer": ("relation", "worst"),
}
Matrix = NDArray[np.float64]


@dataclass(slots=True)
class Judged:
    """A world's cases with what the scope looked at: one row a candidate that may be meant.

    Attributes:
        world: where the cases are from.
        cases: which of its cases, in order.
        case, place, head: of each row the case's number, the edit's place and the head, (rows,).
        rows: the features, (rows, len(FEATURES)).
        labels: whether the case is about the edit, (rows,).
        exempt: whether firing is not counted, (rows,).
    """

    world: World
    cases: list[Case]
    case: NDArray[np.int64]
    place: NDArray[np.int64]
    head: NDArray[np.int64]
    rows: Matrix
    labels: Matrix
    exempt: NDArray[np.bool_]


def judged(world: World, scope: VerifiedScope, cases: Sequence[Case] | None = None) -> Judged:
    """What the scope looks at in these cases of a world, all of them by default."""
    kept = list(world.cases if cases is None else cases)
    number: list[int] = []
    place: list[int] = []
    pairs: list[Pair] = []
    for start in range(0, len(kept), 1_000):
        found = world.candidates([case.query for case in kept[start : start + 1_000]])
        batch = [
            (case.query, candidates)
            for case, (_, candidates) in zip(kept[start:], found, strict=False)
        ]
        for i, ((places, _), group) in enumerate(zip(found, scope.pairs(batch), strict=True)):
            for column, pair in group:
                number.append(start + i)
                place.append(places[column])
                pairs.append(pair)
    return Judged(
        world,
        kept,
        np.array(number, np.int64),
        np.array(place, np.int64),
        np.array([pair.head for pair in pairs], np.int64),
        np.array([pair.row for pair in pairs]).reshape(-1, len(FEATURES)),
        np.array([p in kept[n].right for n, p in zip(number, place, strict=True)], float),
        np.array([_is_exempt(world, kept[n], p) for n, p in zip(number, place, strict=True)], bool),
    )


def _is_exempt(world: World, case: Case, place: int) -> bool:
    """Whether an edit may fire without being right: by rule, or because it answers as well.

    "Who is a citizen of Portugal?" is listed with one edit, and asks for all that say so.
    """
    if place in case.exempt:
        return True
    edit = world.edits[place]
    return edit.target is not None and any(
        edit.target == other.target and turned_relation(edit) == turned_relation(other)
        for other in (world.edits[right] for right in case.right - {place})
    )


def train(
    data: Path,
    folder: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    learn_anew: bool = True,
    command: str = "memedit scope train",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains scope and writes ``adapter_*`` and ``scope.json`` into ``folder``; returns the latter.

    Args:
        data: the folder of the benchmark data.
        folder: where the verifier is written, or is already.
        seed: of every choice.
        steps: of training; as many as usual where it is ``None``.
        learn_anew: train the verifier; else the one in ``folder`` is taken.
        command: what the report says it was made by.
        say: is told of the progress.

    Raises:
        InvalidInput: a file of the data is missing.
        MissingDependency: torch, transformers or the packaged encoder is not installed.
    """
    started = time.monotonic()
    fit = worlds(data, "fit")
    if learn_anew:
        _verifier(fit, data, folder, seed, steps, say)
    scope = VerifiedScope(RelationVerifier(folder, cache_size=10**6, threads=None))
    random = np.random.default_rng(seed)
    names = _name_weights(fit, random)
    scope.use({"names": names})
    say(f"names: {len(_NAMES)} weights")
    both = [*fit, *(unnamed(world) for world in fit)]
    on_fit = [judged(world, scope, _sample(world, random)) for world in both]
    say(f"fit: {sum(len(j.rows) for j in on_fit)} candidates")
    hold = worlds(data, "hold")
    on_hold = [judged(world, scope) for world in [*hold, *map(unnamed, hold)]]
    say(f"hold: {sum(len(j.rows) for j in on_hold)} candidates")
    heads, calibration = _heads(on_fit, on_hold)
    scope.use({"names": names, "heads": heads})
    threshold, table = choose(on_hold, scope)
    kept = folder / LEARNT
    made = {
        "features": list(FEATURES),
        "names": names,
        "heads": heads,
        "threshold": threshold,
        "report": {
            "command": command,
            "seed": seed,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - started),
            "python": platform.python_version(),
            "torch": version("torch"),
            "false_fires": FALSE_FIRES,
            "learnt": json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {},
            "calibration": calibration,
            "hold": table,
        },
    }
    (folder / "scope.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    kept.unlink(missing_ok=True)
    return made


def _verifier(
    fit: Sequence[World],
    data: Path,
    folder: Path,
    seed: int,
    steps: int | None,
    say: Callable[[str], None],
) -> None:
    """Trains the verifier into the folder, and leaves beside it what the report says of that."""
    from memedit.training.lora import STEPS, learn
    from memedit.training.pairs import make_pairs

    started = time.monotonic()
    pairs = make_pairs(fit, data, seed)
    say(f"{len(pairs.counts)} pairs")
    learner, losses = learn(pairs.counts, seed, steps=steps or STEPS, say=say)
    learner.save(folder)
    learnt = {
        "pairs": len(pairs.counts),
        "sources": dict(sorted(pairs.sources.items())),
        "losses": losses,
        "seconds": round(time.monotonic() - started),
    }
    (folder / LEARNT).write_text(json.dumps(learnt, indent=1) + "\n", encoding="utf-8")


def _heads(
    on_fit: Sequence[Judged], on_hold: Sequence[Judged]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and bias of every head, and how well each is calibrated."""
    heads, calibration = {}, {}
    for h, head in enumerate(HEADS):
        x, y = _stacked(on_fit, h)
        held_x, held_y = _stacked(on_hold, h)
        weights, bias = _regression(x, y, _USED[head])
        logits = held_x @ weights + bias
        slope, shift = regress(logits[:, None], held_y, 0.0)
        weights, bias = weights * slope, bias * slope + shift
        probability = 1.0 / (1.0 + np.exp(-np.clip(held_x @ weights + bias, -60, 60)))
        heads[head] = {
            "weights": {n: round(float(v), 6) for n, v in zip(FEATURES, weights, strict=True)},
            "bias": round(float(bias), 6),
        }
        calibration[head] = {
            "fit_n": len(y),
            "fit_in_scope": int(y.sum()),
            "hold_n": len(held_y),
            "hold_in_scope": int(held_y.sum()),
            "hold_ece": round(calibration_error(probability, held_y), 4),
        }
    return heads, calibration


def unnamed(world: World) -> World:
    """The same world with its edits as sentences whose subject nobody knows, and fewer cases."""
    edits = [Edit(edit.id, edit.statement) for edit in world.edits]
    cases = world.cases[:: max(1, len(world.cases) // UNNAMED_CASES)]
    return World(f"{world.name}, no subjects", edits, world.relations, cases)


def outcome(one: Judged, probability: Matrix, threshold: float) -> dict[str, dict[str, int]]:
    """By kind: how many texts there are, and how many are right, wrong, missed, or fire.

    Of a text that an edit is about the most probable accepted edit decides; any other text fires
    where an edit is accepted that is not exempt.
    """
    best: dict[int, tuple[float, int]] = {}
    fired: set[int] = set()
    beside: set[int] = set()
    for i in np.flatnonzero(probability >= threshold).tolist():
        number, place = int(one.case[i]), int(one.place[i])
        rank = (float(probability[i]), -place)
        if number not in best or rank > (best[number][0], -best[number][1]):
            best[number] = (rank[0], place)
        if not one.exempt[i]:
            fired.add(number)
        if not one.labels[i] and not one.exempt[i]:
            beside.add(number)
    table: dict[str, dict[str, int]] = {}
    for number, case in enumerate(one.cases):
        row = table.setdefault(case.kind, {"n": 0})
        row["n"] += 1
        if case.right:
            got = best.get(number)
            said = "missed" if got is None else "right" if got[1] in case.right else "wrong"
            for name in ("right", "wrong", "missed"):
                row[name] = row.get(name, 0) + (name == said)
            row["beside"] = row.get("beside", 0) + (number in beside)
        else:
            row["fires"] = row.get("fires", 0) + (number in fired)
            if case.exempt:
                hit = number in best
                row["fires, in scope by rule"] = row.get("fires, in scope by rule", 0) + hit
    return table


def choose(
    on_hold: Sequence[Judged], scope: VerifiedScope
) -> tuple[float, dict[str, dict[str, dict[str, int]]]]:
    """The threshold, at least a half, and the outcome of every world with it.

    Counted are the worlds whose edits have subjects, and of these texts about other subjects
    (locality prompts and search questions); the same subject with another relation is told apart
    by the verifier, not by the threshold.
    """
    probabilities = [scope.probabilities(one.head, one.rows) for one in on_hold]
    named = [
        (one, p)
        for one, p in zip(on_hold, probabilities, strict=True)
        if not one.world.name.endswith("no subjects")
    ]

    def fires(threshold: float) -> float:
        n = k = 0
        for one, p in named:
            for kind, row in outcome(one, p, threshold).items():
                if kind in ("locality", "search question"):
                    n, k = n + row["n"], k + row["fires"]
        return k / max(1, n)

    steps = [round(0.5 + 0.01 * i, 2) for i in range(50)]
    threshold = next((t for t in steps if fires(t) <= FALSE_FIRES), steps[-1])
    return threshold, {
        one.world.name: outcome(one, p, threshold)
        for one, p in zip(on_hold, probabilities, strict=True)
    }


def _sample(world: World, random: np.random.Generator) -> list[Case]:
    """Cases to fit on: of a large world some, but all its alias prompts."""
    if len(world.cases) <= MOST_CASES:
        return world.cases
    chosen = random.choice(len(world.cases), MOST_CASES, replace=False)
    return [world.cases[i] for i in sorted(chosen)]


def _name_weights(fit: Sequence[World], random: np.random.Generator) -> dict[str, Any]:
    """What likeness of names alone says: which variants are worth reading the query for."""
    rows, labels = [], []
    for world in fit:
        for case in _sample(world, random):
            if case.right and case.kind != "alias":
                continue
            ((places, candidates),) = world.candidates([case.query])
            known = {p for p, c in zip(places, candidates, strict=True) if c.likeness is None}
            if known & case.right:
                continue
            for place, candidate in zip(places, candidates, strict=True):
                if candidate.likeness is not None and place not in case.exempt:
                    rows.append(candidate.likeness)
                    labels.append(float(place in case.right))
    x, y = np.array(rows), np.array(labels)
    weights, bias = _fitted(x, y, range(len(NAME_FEATURES)))
    return {
        "weights": {n: round(float(v), 6) for n, v in zip(NAME_FEATURES, weights, strict=True)},
        "bias": round(float(bias), 6),
        "floor": NAME_FLOOR,
        "n": len(y),
        "in_scope": int(y.sum()),
    }


def _stacked(all_of_them: Sequence[Judged], head: int) -> tuple[Matrix, Matrix]:
    """Features and labels of one head, over all worlds."""
    x, y = [], []
    for one in all_of_them:
        mine = (one.head == head) & ~(one.exempt & (one.labels == 0))
        x.append(one.rows[mine])
        y.append(one.labels[mine])
    return np.vstack(x), np.concatenate(y)


def _regression(x: Matrix, y: Matrix, used: Sequence[str]) -> tuple[Matrix, float]:
    return _fitted(x, y, [FEATURES.index(name) for name in used])


def _fitted(x: Matrix, y: Matrix, used: Sequence[int] | range) -> tuple[Matrix, float]:
    """Weights of all columns, 0 for those that are not used, and the bias."""
    columns = [i for i in used if x[:, i].std() > 1e-9]
    mean, scale = x[:, columns].mean(axis=0), x[:, columns].std(axis=0)
    beta = regress((x[:, columns] - mean) / scale, y, RIDGE)
    weights = np.zeros(x.shape[1])
    weights[columns] = beta[:-1] / scale
    return weights, float(beta[-1] - (beta[:-1] / scale) @ mean)


def regress(x: Matrix, y: Matrix, ridge: float) -> Matrix:
    """Ridge logistic regression by Newton's method: weights and bias, (columns + 1,)."""
    x = np.hstack([x, np.ones((len(x), 1))])
    beta = np.zeros(x.shape[1])
    penalty = ridge * len(y) * np.eye(len(beta))
    penalty[-1, -1] = 1e-9
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (p - y) + penalty @ beta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-9 * np.eye(len(beta))
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta


def calibration_error(p: Matrix, y: Matrix, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width, in [0, 1]. Source: Guo et al. 2017."""
    place = np.minimum((p * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            total += float(inside.mean()) * abs(float(p[inside].mean()) - float(y[inside].mean()))
    return total
