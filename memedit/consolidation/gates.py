"""What a version's weights are measured by before anybody is answered by them.

All by greedy answers but the drift, and all with the weights as they are exported. The memory
route's own answers are what locality is judged by: evidence where the memory has an edit for the
prompt, the unedited model elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from memedit.consolidation.versions import Form
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.evaluation.measures import holds, spoken, unchanged
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Engine

LEAST: Mapping[str, float] = {
    "accuracy": 0.8,
    "generality": 0.5,
    "locality": 0.8,
    "earlier": 0.95,
    "drift": 0.05,
}
"""The gates: shares that must be reached, and the drift of perplexity that must not be passed."""

_TOKENS = 12
# Longest answer that is looked at.
_ROW = 128
# Tokens of a piece of held-out text.
_OPENING = 24
# Tokens of a piece that are given to be continued, where no prompts for locality are at hand.


@dataclass(frozen=True, slots=True)
class Probes:
    """What is asked beside the edits' own prompts.

    Attributes:
        rephrases: other prompts for an edit, by its id.
        locality: prompts that no edit is about.
        held_out: a text whose perplexity is measured.
    """

    rephrases: Mapping[str, Sequence[str]]
    locality: Sequence[str]
    held_out: str


@dataclass(frozen=True, slots=True)
class Gates:
    """What has to be reached.

    Attributes:
        forms: the forms of prompts in which edits are asked; one holds where it does in all.
        least: other values than :data:`LEAST`.

    Raises:
        InvalidInput: there is no such gate.
    """

    forms: tuple[Form, ...] = ("text",)
    least: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.least:
            if name not in LEAST:
                raise InvalidInput(f"there is no gate {name!r}; there are {', '.join(LEAST)}")


Answering = Callable[[Sequence[Any]], list[str]]
"""Prompts to the memory route's answers, as :func:`memory_answers` makes it."""


def measured(
    engine: Any,
    weights: Callable[[], AbstractContextManager[None]],
    edits: Sequence[Edit],
    earlier: Sequence[Edit],
    probes: Probes,
    gates: Gates,
    memory: Answering,
) -> dict[str, Any]:
    """The gates' figures, for a version's manifest.

    Args:
        engine: the unedited model, its weights at hand.
        weights: puts the version's weights in force for a block.
        edits: what the version holds, the earlier ones included.
        earlier: those that an earlier version answered right.
        probes: what is asked beside.
        gates: what has to be reached.
        memory: the memory route.

    Returns:
        ``passed``, ``forms``, the ids of the edits that ``held`` and of those that did not, and
        ``checks`` with the value, the limit, how many were asked and whether it was reached. A
        gate for which there is nothing to ask counts as reached, its value ``None``.
    """
    pieces = _pieces(engine.tokenizer, probes.held_out)
    locality = probes.locality or _openings(engine.tokenizer, pieces)
    others = [(edit, text) for edit in edits for text in probes.rephrases.get(edit.id, ())]
    near = [prompt for form in gates.forms for prompt in prompts(locality, form)]
    wanted = memory(near)
    plain = _loss(engine.model, pieces)
    with weights():
        own, rephrased = [], []
        for form in gates.forms:
            own.append(_right(engine, edits, [edit.key for edit in edits], form))
            of_others = [edit for edit, _ in others]
            rephrased.append(_right(engine, of_others, [text for _, text in others], form))
        kept = _answers(engine, near)
        drift = math.exp(_loss(engine.model, pieces) - plain) - 1
    right = [all(each) for each in zip(*own, strict=True)]
    held = [edit.id for edit, one in zip(edits, right, strict=True) if one]
    still = [edit.id in set(held) for edit in earlier]
    found = {
        "accuracy": _share(right),
        "generality": _share([one for form in rephrased for one in form]),
        "locality": _share([unchanged(a, b) for a, b in zip(kept, wanted, strict=True)]),
        "earlier": _share(still),
        "drift": (drift, len(pieces) * _ROW),
    }
    checks = {name: _check(name, *of, gates.least) for name, of in found.items()}
    return {
        "passed": all(check["passed"] for check in checks.values()),
        "forms": list(gates.forms),
        "checks": checks,
        "held": held,
        "not_held": [edit.id for edit in edits if edit.id not in set(held)],
    }


def memory_answers(engine: Engine, decide: Any, routes: Mapping[str, Any]) -> Answering:
    """What the memory route answers: evidence where it has an edit, the plain model elsewhere.

    Evidence is the bare fact, without demonstrations, which fits any model.

    Args:
        engine: the unedited model.
        decide: queries to decisions, :meth:`memedit.router.Router.decide` for a namespace.
        routes: by name.
    """

    def answers(asked: Sequence[Any]) -> list[str]:
        decisions = decide([prompt.in_context for prompt in asked])
        shown = [
            routes[decision.route].rewrites(prompt, decision.edits)[-1]
            if decision.edits
            else prompt
            for prompt, decision in zip(asked, decisions, strict=True)
        ]
        return _answers(engine, shown)

    return answers


def prompts(texts: Sequence[str], form: Form) -> list[Any]:
    """Texts in the form in which they reach a model."""
    if form == "text":
        return [TextPrompt(text) for text in texts]
    return [ChatPrompt(({"role": "user", "content": text},)) for text in texts]


def own_rephrases(edits: Sequence[Edit]) -> dict[str, list[str]]:
    """Other prompts that edits bring along: their question, and their prompt with each alias."""
    found = {}
    for edit in edits:
        texts = [(edit.prompt or "").replace("{}", alias) for alias in edit.aliases]
        texts += [edit.question] if edit.question else []
        if others := [text for text in dict.fromkeys(texts) if text != edit.key]:
            found[edit.id] = others
    return found


def reference_text() -> str:
    """A text of some length that is in every Python: topics of its reference manual."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return " ".join(text.replace('"', "").split())


def _check(
    name: str, value: float | None, asked: int, least: Mapping[str, float]
) -> dict[str, Any]:
    limit = least.get(name, LEAST[name])
    passed = value is None or (value <= limit if name == "drift" else value >= limit)
    shown = None if value is None else round(value, 4)
    return {"value": shown, "limit": limit, "asked": asked, "passed": passed}


def _share(verdicts: Sequence[bool]) -> tuple[float | None, int]:
    return (sum(verdicts) / len(verdicts) if verdicts else None), len(verdicts)


def _answers(engine: Any, asked: Sequence[Any]) -> list[str]:
    if not asked:
        return []
    said = engine.generate(asked, _TOKENS)
    pairs = zip(said, asked, strict=True)
    return [spoken(one.text, chat=isinstance(prompt, ChatPrompt)) for one, prompt in pairs]


def _right(engine: Any, edits: Sequence[Edit], texts: Sequence[str], form: Form) -> list[bool]:
    """Whether each text is answered with its edit's target."""
    said = _answers(engine, prompts(texts, form))
    return [
        holds(answer, [edit.target or ""], [edit.old_target or ""], edit.names)
        for edit, answer in zip(edits, said, strict=True)
    ]


def _pieces(tokenizer: Any, text: str) -> list[list[int]]:
    """At most 16 pieces of 128 tokens."""
    ids = tokenizer(text[: 40 * 16 * _ROW], add_special_tokens=False).input_ids[: 16 * _ROW]
    pieces = [ids[start : start + _ROW] for start in range(0, len(ids), _ROW)]
    whole = [piece for piece in pieces if len(piece) == _ROW]
    if not whole:
        raise InvalidInput(f"the held-out text has fewer than {_ROW} tokens; name a longer one")
    return whole


def _openings(tokenizer: Any, pieces: Sequence[list[int]]) -> list[str]:
    starts = [piece[at : at + _OPENING] for piece in pieces for at in (0, _ROW // 2)]
    return [tokenizer.decode(start) for start in starts]


def _loss(model: Any, pieces: Sequence[list[int]]) -> float:
    """The mean loss of a token, in nats."""
    import torch

    rows = torch.tensor(pieces, device=model.device)
    with torch.inference_mode():
        told = model(input_ids=rows[:, :-1]).logits.float().log_softmax(-1)
    return float(-told.gather(2, rows[:, 1:, None]).mean().item())
