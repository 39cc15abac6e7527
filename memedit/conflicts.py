"""Do two edits state the same fact?

Pure: nothing here searches, encodes or writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memedit.edits import Edit
from memedit.lexicon import mentions

MASK = "it"
"""What stands for the subject where two relations are compared."""

# Relations of which a subject has many at once, so that a second one replaces nothing.
_MANY = re.compile(
    r"\b(?:one|some|several|many) of\b|\b(?:also|among|likewise|furthermore)\b"
    r"|\bit (?:often |really )?(?:knows|likes|loves|enjoys|hates|dislikes|admires|follows|meets|met"
    r"|visits|visited|includes|contains|mentions|befriended)\b"
    r"|\bit (?:has|have) (?:met|visited|known|liked|seen|read|tried)\b"
    r"|\bit (?:is|was) (?:a |an |good |close )*(?:friends?|acquaintances?|fans?) (?:of|with)\b"
    r"|\b(?:who|what|whom) (?:does|do|did|has|have) it (?:know|like|love|enjoy|hate|met|visited)\b"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two edits state the same fact, and why.

    Attributes:
        same: whether the later of them retires the earlier.
        probability: in [0, 1].
        reason: a clause a person can read.
    """

    same: bool
    probability: float
    reason: str


def fact_key(edit: Edit) -> str:
    """Two edits with the same key state the same fact in the same words.

    That is :attr:`Edit.conflict_key`, and for a relation that takes many objects at once
    (:func:`is_many_valued`) the object as well: "Ann knows Bo" and "Ann knows Cy" are two facts.
    """
    key = edit.conflict_key
    if edit.target is not None and is_many_valued(edit):
        return f"{key}\n{edit.target.casefold()}"
    return key


def is_many_valued(edit: Edit) -> bool:
    """Whether its relation is one of which a subject has many at once, by its wording."""
    return _MANY.search(relation_of(edit).casefold()) is not None


def relation_of(edit: Edit, names: tuple[str, ...] = ()) -> str:
    """The edit's key with :data:`MASK` for its subject.

    Args:
        edit: the edit.
        names: the other edit's names, to look for where this one does not know its subject.
    """
    if edit.prompt is not None and edit.subject is not None:
        return edit.prompt.replace("{}", MASK)
    pieces, last = [], 0
    for start, end in mentions(edit.key, edit.names or names):
        pieces += [edit.key[last:start], MASK]
        last = end
    return "".join((*pieces, edit.key[last:]))


def same_fact(new: Edit, old: Edit, cosine: float | None) -> Verdict:
    """Whether two edits about one subject state the same fact of it.

    Args:
        new: an edit.
        old: another that shares a name of its subject; their order does not matter.
        cosine: similarity of their :func:`relation_of`, or ``None`` where no trained encoder is.
    """
    if fact_key(new) == fact_key(old):
        return Verdict(True, 1.0, "the same words")
    return Verdict(False, 0.0, "other words")


def same_target(new: Edit, old: Edit) -> bool:
    """Whether two edits give the same answer, by its letters; so where either has none."""
    if new.target is None or old.target is None:
        return True
    return _plain(new.target) == _plain(old.target)


def _plain(text: str) -> str:
    return " ".join(text.casefold().rstrip(" .!").split()).removeprefix("the ")
