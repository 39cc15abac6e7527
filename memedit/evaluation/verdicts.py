"""From an answer to a verdict, and from a failure to its kind.

A verdict is plain JSON types: it is one entry of ``cases.jsonl``, and whatever a report says is
computed from those alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memedit.edits import Edit
from memedit.evaluation.cases import Case, Probe
from memedit.evaluation.matching import normalised, stated
from memedit.evaluation.measures import every_hop_holds, holds, spoken, unchanged
from memedit.evaluation.methods import Answered, AnyPrompt
from memedit.prompt import ChatPrompt

NOT_EDITED = "not edited"
"""In scope, and the method has no edits to show."""

SCOPE_MISSED = "scope missed"
"""In scope, and the scope step let no edit take part."""

WRONG_EDIT = "wrong edit"
"""In scope, and only edits of other facts took part."""

IGNORED = "model ignored the fact"
"""The right edit took part, and the answer does not state it."""

BOTH = "new and old fact asserted"
"""The right edit took part, and the answer states the old fact beside the new one."""

FIRED = "fired out of scope"
"""Out of scope, an edit took part, and the answer changed."""

CHANGED = "changed without an edit"
"""Out of scope, no edit took part, and the answer changed all the same."""

ERRORS = (NOT_EDITED, SCOPE_MISSED, WRONG_EDIT, IGNORED, BOTH, FIRED, CHANGED)


def verdict(
    case: Case,
    probe: Probe,
    answered: Answered,
    *,
    unedited: str,
    edits: Mapping[str, Edit],
    apart: str | None,
) -> dict[str, Any]:
    """One probe's entry in ``cases.jsonl``.

    Args:
        case: whose probe it is.
        probe: what was asked.
        answered: what the method did, and what came of it.
        unedited: what the unedited model says to the same prompt.
        edits: every live edit by id.
        apart: why the probe does not count, or ``None``.
    """
    chat = isinstance(answered.sent, ChatPrompt)
    answer = spoken(answered.generation.text, chat=chat)
    before = spoken(unedited, chat=chat)
    used = [edits[edit_id] for edit_id in answered.edits]
    right = bool({_fact(edit) for edit in used} & {_fact(edit) for edit in case.edits})
    subjects = [edit.subject for edit in case.edits if edit.subject]
    entry: dict[str, Any] = {
        "measure": probe.measure,
        "kind": probe.kind,
        "prompt": probe.prompt,
        "sent": form_of(answered.sent),
        "output": answered.generation.text,
        "answer": answer,
        "unedited": before,
        "accepted": list(probe.answers),
        "old": list(probe.old),
        "edits": list(answered.edits),
        "route": answered.route,
        "scope": None if answered.scope is None else round(answered.scope, 6),
        "right_edit": right,
        "prompt_tokens": answered.generation.prompt_tokens,
        "tokens": answered.generation.tokens,
        "apart": apart,
    }
    if answered.hops:
        entry["hops"] = [hop.told() for hop in answered.hops]
    if probe.hops:
        entry["every_hop"] = every_hop_holds(
            [hop.answer for hop in answered.hops], [hop.answers for hop in probe.hops]
        )
    if probe.group:
        entry["group"] = probe.group
    if probe.in_scope:
        entry["holds"] = holds(answer, probe.answers, probe.old, subjects)
        entry["error"] = _missed(entry)
    else:
        entry["same"] = unchanged(answer, before)
        entry["leaks"] = _asserts(answer, probe.old, subjects) and not _asserts(
            before, probe.old, subjects
        )
        entry["error"] = None if entry["same"] else FIRED if used else CHANGED
    return entry


def form_of(prompt: AnyPrompt) -> Any:
    """A prompt as JSON types: its messages, or its text."""
    return list(prompt.messages) if isinstance(prompt, ChatPrompt) else prompt.text


def _fact(edit: Edit) -> tuple[str, str]:
    """Edits that say the same in the same words are the same fact, whichever of them is live."""
    return edit.conflict_key, normalised(edit.target or edit.statement)


def _missed(entry: Mapping[str, Any]) -> str | None:
    """The kind of an in-scope failure."""
    if entry["holds"]:
        return None
    if not entry["edits"]:
        return NOT_EDITED if entry["scope"] is None else SCOPE_MISSED
    if not entry["right_edit"]:
        return WRONG_EDIT
    both = _asserts(entry["answer"], entry["accepted"])
    return BOTH if both else IGNORED


def _asserts(answer: str, names: Iterable[str], subjects: Iterable[str] = ()) -> bool:
    return stated(answer, names, aside=subjects).accepted
