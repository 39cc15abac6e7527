"""The library of relations that a chain is made of: how one is asked, and how it is stated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from memedit.errors import InvalidInput

SUBJECT = "[X]"
"""Stands for the subject in the library's texts."""


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation.

    Attributes:
        name: in the library.
        ask: the question for it, with :data:`SUBJECT`.
        states: the sentence that an answer completes, with ``{}`` for the subject.
        gives: the kind of thing that it leads to (``"person"``, ``"city"``; ``"value"`` for what
            nothing more can be asked of).
        of: the kinds of things that have it.
    """

    name: str
    ask: str
    states: str
    gives: str
    of: tuple[str, ...]

    def question(self, subject: str) -> str:
        """The relation asked of a subject."""
        return self.ask.replace(SUBJECT, subject)


@cache
def library() -> Mapping[str, Relation]:
    """All relations by name, in the order of the decomposer's outputs."""
    text = files("memedit.multihop").joinpath("relations.json").read_text(encoding="utf-8")
    return {
        name: Relation(
            name, row["ask"], row["states"].replace(SUBJECT, "{}"), row["gives"], tuple(row["of"])
        )
        for name, row in json.loads(text).items()
    }


def relation_of(name: str) -> Relation:
    """The relation of this name.

    Raises:
        InvalidInput: the library has none.
    """
    try:
        return library()[name]
    except KeyError:
        raise InvalidInput(f"there is no relation {name!r} in the library") from None
