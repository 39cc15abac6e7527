"""Edits as rows of tokens: where the subject ends, and where the target starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memedit.edits import Edit
from memedit.errors import InvalidEdit, Unsupported

ESSENCE = "{} is a"
"""Completed by the model with what its subject is; an edit should leave that (Meng et al. 2022)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What stands around an edit's prompt.

    Attributes:
        before, after: text.
        seam: between prompt and target.
        special: whether the tokenizer puts its special tokens in front.
        wording: a prompt in place of the edit's own, with ``{}`` for the subject.
    """

    before: str = ""
    after: str = ""
    seam: str = " "
    special: bool = True
    wording: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with what follows it.

    Attributes:
        edit: which of the edits it belongs to.
        ids: all token ids.
        subject: where the subject's last token stands.
        target: where the target starts; ``len(ids)`` where there is none.
        prompt: where the prompt starts, behind what stands around it.
    """

    edit: int
    ids: tuple[int, ...]
    subject: int
    target: int
    prompt: int = 0

    @property
    def read(self) -> tuple[int, ...]:
        """What a model has to read for all of the target to be predicted: its end is not."""
        return self.ids[:-1] if self.target < len(self.ids) else self.ids


def check(edits: Sequence[Edit]) -> None:
    """Raises InvalidEdit where an edit lacks what an editor needs, or where there are none."""
    if not edits:
        raise InvalidEdit("there is no edit to learn; give at least one")
    for edit in edits:
        if lacking := edit.missing_for_weights:
            raise InvalidEdit(
                f"the edit {edit.id} has no {' and no '.join(lacking)}, which editing weights "
                "needs; give it in the form {subject, prompt, target}"
            )


def target_row(
    tokenizer: Any, edit: Edit, number: int, context: Context, target: str | None = None
) -> Row:
    """An edit's prompt in a context, completed by its target or by another one."""
    prompt = context.wording or edit.prompt or ""
    completion = edit.target if target is None else target
    return _row(tokenizer, number, prompt, edit.subject or "", context, completion or "")


def essence_row(tokenizer: Any, edit: Edit, number: int) -> Row:
    """The start of a sentence about the edit's subject, without a target."""
    return _row(tokenizer, number, ESSENCE, edit.subject or "", Context(), "")


def _row(
    tokenizer: Any, number: int, prompt: str, subject: str, context: Context, target: str
) -> Row:
    """Tokenized as one text, so that merges across the seams are the tokenizer's own."""
    if not tokenizer.is_fast:
        raise Unsupported("editors need a fast tokenizer: this one gives no character offsets")
    start = len(context.before) + prompt.index("{}")
    end = start + len(subject)
    asked = context.before + prompt.replace("{}", subject) + context.after
    encoded = tokenizer(
        asked + (context.seam + target if target else ""),
        add_special_tokens=context.special,
        return_offsets_mapping=True,
    )
    places = encoded["offset_mapping"]
    inside = [i for i, (first, last) in enumerate(places) if first < end and last > start]
    past = [i for i, (_, last) in enumerate(places) if last > len(asked)]
    ids = tuple(encoded["input_ids"])
    if target and past:  # what a tokenizer puts behind a text is no part of the target
        ids = ids[: past[-1] + 1]
    first = past[0] if target and past else len(ids)
    if not inside or (target and (not past or past[0] <= inside[-1])):
        raise InvalidEdit(
            f"subject {subject!r} and target {target!r} share a token, or have none; reword the "
            "prompt so that something stands between them"
        )
    begins = next(i for i, (_, last) in enumerate(places) if last > len(context.before))
    return Row(number, ids, inside[-1], first, begins)


def left_padded(rows: Sequence[Sequence[int]], width: int, device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, (rows, width), int64, filled up on the left."""
    import torch

    tokens = [[0] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
