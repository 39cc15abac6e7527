"""Which layer, which keys and which radii tell prompts about an edit from others?

    python benchmarks/grace_keys.py --model DIR --split train --limit 60 --out FILE

No value is learned and nothing is generated: what is measured is which prompts fire which entry of
a codebook that has all edits in it, by its own rules. A key is what goes into a layer's MLP at the
last token of the edit's prompt, in a chat or as a bare text. For some layers, and for a sweep of
radii, how many rephrases fire their own target, and how many prompts about other subjects
(``neighbours``), about the edit's subject in another edit's words (``same subject``) and people's
questions fire anything. Two rules for radii are compared: one number for all keys (``constant``),
and a share of each key's own distance to the nearest prompt that is known not to be about it
(``measured``). And two ways to tell distances: between the states as they are (``plain``), and by a
metric that is fitted to questions of our own in several wordings (``fitted``).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grace import PACKAGES, chats, setting
from setting import arguments, head

from memedit.adapters import _tokens
from memedit.adapters.transformers_local import TransformersLocal
from memedit.grace.codebook import Codebook, Lesson, placed, separations
from memedit.grace.metric import Floats, Metric, fitted
from memedit.grace.prompts import in_scope, out_of_scope, unrelated, wordings
from memedit.prompt import TextPrompt
from memedit.training.pairs import PHRASINGS

OTHERS = 5
SHARES = [0.05, *(round(0.1 * i, 1) for i in range(1, 13))]
QUANTILES = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7]
"""Constant radii are these quantiles of questions' distances to the nearest key."""


def states(engine: TransformersLocal, texts: Sequence[str], form: str, batch: int) -> Floats:
    """What goes into each layer's MLP at the last token, shape (layers, texts, dim)."""
    import torch

    prompts = chats(texts) if form == "chat" else [TextPrompt(text) for text in texts]
    ids = _tokens.prompt_ids(prompts, engine.tokenizer)
    decoder = engine.model.get_decoder()
    found = np.empty(
        (len(decoder.layers), len(ids), engine.model.config.hidden_size), dtype=np.float32
    )
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    seen: list[Any] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1].clone()))
        for layer in decoder.layers
    ]
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(ids[i]) for i in rows)
        tokens = torch.zeros((len(rows), width), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for row, i in enumerate(rows):
            tokens[row, width - len(ids[i]) :] = torch.tensor(ids[i])
            mask[row, width - len(ids[i]) :] = 1
        seen.clear()
        with torch.inference_mode():
            decoder(
                tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            )
        for layer, at in enumerate(seen):
            found[layer, rows] = at.float().numpy()
    for hook in hooks:
        hook.remove()
    return found


def percent(hits: Any) -> float:
    return round(100 * float(np.mean(hits)), 1)


def points(
    parts: dict[str, Floats], labels: Sequence[str], keys: int, metric: Metric | None
) -> dict[str, list[dict[str, float]]]:
    """One layer's figures for both rules, over their sweeps, with ``keys`` keys an edit.

    Args:
        parts: states of one layer, by kind.
        labels: the edits' targets.
        keys: how many of each edit's prompts are keys.
        metric: by which they are compared.
    """
    n, dim = len(labels), parts["in scope"].shape[1]
    centres = parts["in scope"].reshape(n, -1, dim)[:, :keys]
    near = parts["out of scope"].reshape(n, -1, dim)

    def apart(one: Floats, other: Floats) -> Floats:
        return separations(metric, placed(metric, one), placed(metric, other))

    free = [
        apart(own, np.concatenate([parts["unrelated"], others])).min(axis=1)
        for own, others in zip(centres, near, strict=True)
    ]
    to_questions = apart(parts["questions"], centres.reshape(-1, dim)).min(axis=1)
    radii = {
        "constant": [(q, [np.full(keys, np.quantile(to_questions, q))] * n) for q in QUANTILES],
        "measured": [(part, [part * one for one in free]) for part in SHARES],
    }
    nothing = np.zeros((keys, 1), dtype=np.float32)
    made: dict[str, list[dict[str, float]]] = {}
    for rule, sweep in radii.items():
        for at, radius in sweep:
            book = Codebook(dim, output_dim=1, metric=metric)
            for i, label in enumerate(labels):
                reach = np.asarray(radius[i], dtype=np.float32)
                spans = np.zeros(keys, dtype=np.int64)
                book.add(Lesson(str(i), label, centres[i], reach, nothing, spans))
            entries = book.entries()
            said = {
                kind: [entries.labels[row] if row >= 0 else "" for row in entries.lookup(states)]
                for kind, states in parts.items()
                if kind in ("rephrases", "neighbours", "same subject", "questions")
            }
            right = [one == label for one, label in zip(said["rephrases"], labels, strict=True)]
            fires = [bool(one) for one in said["rephrases"]]
            made.setdefault(rule, []).append(
                {
                    "at": at,
                    "entries": len(entries),
                    "median radius": round(float(np.median(entries.radii)), 4),
                    "rephrases, own": percent(right),
                    "rephrases, another": round(percent(fires) - percent(right), 1),
                    **{
                        kind: percent([bool(one) for one in said[kind]])
                        for kind in ("neighbours", "same subject", "questions")
                    },
                }
            )
    return made


def best(sweep: list[dict[str, float]], kind: str, most: float) -> float:
    """The most rephrases that fire their own edit while at most so many of a kind fire."""
    return max((one["rephrases, own"] for one in sweep if one[kind] <= most), default=0.0)


def measured(given: argparse.Namespace) -> dict[str, Any]:
    made = setting(given.data, given.split, given.limit, given.seed)
    subjects = [edit.subject for edit in made.edits if edit.subject]
    own, labels = (
        [in_scope(edit) for edit in made.edits],
        [edit.target or "" for edit in made.edits],
    )
    reworded = wordings(json.loads(PHRASINGS.read_text(encoding="utf-8")))
    texts = {
        "in scope": [text for part in own for text in part],
        "out of scope": [
            text for edit in made.edits for text in out_of_scope(edit, subjects, OTHERS)
        ],
        "unrelated": list(unrelated()),
        "rephrases": made.rephrases,
        "neighbours": made.neighbours,
        "same subject": made.asides,
        "questions": made.questions,
        "reworded": [text for part in reworded for text in part],
    }
    engine = TransformersLocal(str(given.model), dtype="float32")
    results: dict[str, Any] = {}
    for form in given.forms:
        started = time.perf_counter()
        flat = [text for part in texts.values() for text in part]
        found = states(engine, flat, form, given.batch)
        ends = np.cumsum([len(part) for part in texts.values()])[:-1]
        layers = {}
        for layer in given.layers:
            plain = dict(zip(texts, np.split(found[layer], ends), strict=True))
            metric = fitted(np.split(plain["reworded"], len(reworded)))
            of_keys = {
                f"{keys} keys, {told}": points(plain, labels, keys, one)
                for keys in (1, len(own[0]))
                for told, one in (("plain", None), ("fitted", metric))
            }
            layers[layer] = {
                "best": {
                    f"{name}, {rule}": {
                        "questions at most 1 %": best(sweep, "questions", 1),
                        "neighbours at most 5 %": best(sweep, "neighbours", 5),
                    }
                    for name, rules in of_keys.items()
                    for rule, sweep in rules.items()
                },
                "sweeps": of_keys,
            }
            print(form, layer, json.dumps(layers[layer]["best"]), flush=True)
        results[form] = layers
        print(f"{form}: {time.perf_counter() - started:.0f} s", flush=True)
    return results


def main() -> None:
    parser = arguments(__doc__, split="train", limit=60)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--forms", nargs="+", choices=("chat", "text"), default=["chat", "text"])
    parser.add_argument(
        "--layers", type=int, nargs="+", default=[8, 14, 20, 22, 23, 25, 28], help="decoder layers"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "Which layer, keys and radii tell prompts about an edit from others?",
        f"benchmarks/grace_keys.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --seed {given.seed} --forms {' '.join(given.forms)}",
        *PACKAGES,
    )
    results = {
        **started,
        "model": given.model.name,
        "split": given.split,
        "n": given.limit,
        "seed": given.seed,
        "forms": measured(given),
    }
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
