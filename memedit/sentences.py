"""Where the sentences of a text begin and end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from memedit.prompt import ASKED

Span = tuple[int, int]
"""``(start, end)`` in a text, in characters."""

_BOUNDARY = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"”’')\]]))\s+|\n+|(?<=[。！？])|\x1e")
_ABBREVIATED = re.compile(
    r"(?:\b\w|\b(?:[A-Z][a-z]?\.)+[A-Z]|\b(?:mr|mrs|ms|dr|st|jr|sr|vs|no|prof|gen|col|sgt|rev|inc|co"
    r"|ltd|corp|dept|est|approx|hon|capt|lt|maj|brig|adm|cmdr|gov|pres|sen|rep|fr|e\.g|i\.e))\.$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[Span]:
    """The span of each sentence, in order; initials and abbreviations do not end one."""
    parts, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if match.start() <= start:
            continue
        following = text[match.end() : match.end() + 1]
        if {"\n", ASKED}.isdisjoint(match.group()) and (
            following.islower()
            or _ABBREVIATED.search(text[max(start, match.start() - 12) : match.start()])
        ):
            continue
        parts.append((start, match.start()))
        start = match.end()
    if start < len(text):
        parts.append((start, len(text)))
    return parts


def around(sentences: Sequence[Span], span: Span) -> Span:
    """The sentence that holds the span; several joined where a boundary falls inside it."""
    touched = [s for s in sentences if s[0] < span[1] and span[0] < s[1]]
    return (touched[0][0], touched[-1][1]) if touched else span
