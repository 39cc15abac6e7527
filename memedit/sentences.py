"""Where the sentences of a text begin and end, and whether the last one does end."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from memedit.prompt import ASKED

Span = tuple[int, int]
"""``(start, end)`` in a text, in characters."""

_BOUNDARY = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"”’')\]]))\s+|\n+|(?<=[。！？])|\x1e")
_ABBREVIATED = re.compile(
    r"(?:\b\w|\b(?:[A-Z][a-z]?\.)+[A-Z]|\b(?:mr|mrs|ms|dr|st|jr|sr|vs|no|prof|gen|col|sgt|rev|inc|co"
    r"|ltd|bros|mt|corp|dept|est|approx|hon|capt|lt|maj|brig|adm|cmdr|gov|pres|sen|rep|fr|e\.g|i\.e))\.$",
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


_CUT = re.compile(r"[\w,’'-]\Z")
_FINITE = frozenset("is was are were has had".split())
_INVERTED = frozenset("is are was were do does did has have can could will would should".split())
_MODALS = _INVERTED - {"is", "are", "was", "were", "has", "have"}
_QUESTION = frozenset("who whom whose what where when why how which".split())
_ASKED_NOUNS = frozenset("which what whose where when".split())
_REQUESTS = frozenset(
    "tell give name list write explain describe say show find compare discuss summarize summarise "
    "translate complete answer please help let hello hi hey".split()
)
_PLACES = frozenset(
    "in on at by to from for of with under during since until into near after before about".split()
)
_INSIDE_NAMES = frozenset("a an the of and in on to for de la le von van der".split())
_PRONOUNS = frozenset("i you he she it we they this that these those there my your his her".split())
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]")
_SO_CALLED = re.compile(r"what (?:is|was) (?:now|then|today|called|known)\b")
_SMALL_SENTENCE = re.compile(r"(\S+?)([.!?]+)[\"”’)]?\s+(?=([a-z]+)(?:\s+([a-z]+))?)")


def breaks_off(text: str, named: Sequence[Span] = ()) -> bool:
    """Whether a text ends in the middle of a statement, to be completed.

    A question or a request that merely lacks its mark ("who runs acme") is none. A name that
    begins like one ("Will Smith is", "How I Met Your Mother was made in") and a clause that does
    ("When he retired, he moved to") make no question.

    Args:
        text: what may break off.
        named: where it names somebody, as far as that is known.
    """
    text = text.rstrip()
    if not _CUT.search(text):
        return False
    start, _ = around(split_sentences(text), (len(text) - 1, len(text)))
    for start_of_name, end_of_name in named:
        if start_of_name < start < end_of_name + 2:
            # A name that ends with a mark ends no sentence: "Yahoo! Inc. is".
            start, _ = around(split_sentences(text), (start_of_name, end_of_name))
    for match in _SMALL_SENTENCE.finditer(text, start):
        if not _goes_on(match) and not any(a < match.end() <= b + 2 for a, b in named):
            start = match.end()
    while start < len(text) and not text[start].isalnum():
        start += 1
    words = [match.group() for match in _TOKEN.finditer(text, start)]
    if any(a <= start < b and " " in text[a:b] for a, b in named):
        return not _asks_late([word.casefold() for word in words])
    return not _asks(words, {text[slice(*span)].partition(" ")[0] for span in named})


def _goes_on(match: re.Match[str]) -> bool:
    """Whether what follows a mark in a small letter goes on with the sentence before it."""
    before, mark, following, then = match.groups()
    if following in _QUESTION | _REQUESTS or (following in _INVERTED and then in _PRONOUNS):
        return False
    shortened = mark == "." and _ABBREVIATED.search(before + mark)
    return following not in _INVERTED or (before[0].isupper() and (mark != "." or bool(shortened)))


def _asks(words: Sequence[str], names: Set[str]) -> bool:
    """Whether a sentence without its mark, word by word, is a question or a request."""
    if not words:
        return False
    small = [word.casefold() for word in words]
    if small[0] in _PLACES and small[1:2] and small[1] in _QUESTION:
        return _SO_CALLED.match(" ".join(small[1:4])) is None
    opener = small[0]
    if opener not in _QUESTION | _INVERTED | _REQUESTS:
        late = "," in small and opener in _PLACES and small[small.index(",") + 1 :][:1]
        return opener in _CONTRACTED or late in (["what"], ["how"], ["why"]) or _asks_late(small)
    following = small[1] if len(small) > 1 else ""
    if opener not in _QUESTION and following in _FINITE | {"!"} and words[0][0].isupper():
        return False  # "Will was born in", "Help! was released by"
    if words[1:2] and words[1] not in names and _is_name(words, small, opener):
        return False
    if opener in {"where", "when"} and following not in _INVERTED | {"", "'", "’", ","}:
        # "When X retired, he moved to": what stands behind the clause decides.
        rest = words[small.index(",") + 1 :] if "," in small else []
        return not rest or _asks(rest, names)
    return True


def _asks_late(small: Sequence[str]) -> bool:
    """Whether a question's word stands near the end, and a verb or a preposition before it: "X is
    the author of which book".
    """
    first = max(1, len(small) - 4)
    return any(
        small[i] in _QUESTION
        and small[i - 1] in _PLACES | _FINITE
        and _FINITE.isdisjoint(small[i:])
        and not (small[i] in {"which", "whose"} and i == len(small) - 1)
        for i in range(first, len(small))
    )


def _is_name(words: Sequence[str], small: Sequence[str], opener: str) -> bool:
    """Whether a sentence that begins like a question begins with a name, and a verb follows it."""
    end = _end_of_name(words)
    if end < 2 or opener in _ASKED_NOUNS:
        return False
    verb, behind = (*small[end : end + 2], "", "")[:2]
    if verb in {"'", "’"} and opener in _MODALS:
        # "Will Smith's wife is"
        owned = next((i for i in range(end + 2, len(words)) if small[i] in _FINITE), end + 9)
        return owned < end + 6 and all(word.islower() for word in words[end + 2 : owned])
    if verb in _FINITE:
        return True
    ends = verb.endswith(("s", "ed")) and (
        behind == "" or behind in _PLACES | _INSIDE_NAMES | {"as"}
    )
    return ends and opener in _MODALS  # "Can Bartu plays for"


def _end_of_name(words: Sequence[str]) -> int:
    """Behind which word the capitalised words from the first one on end; small ones may be among
    them.
    """
    end = 1 if words[0][0].isupper() else 0
    for i in range(1, len(words) if end else 0):
        if words[i][0].isupper() or words[i].isdigit():
            end = i + 1
        elif words[i] not in _INSIDE_NAMES:
            break
    return end


_CONTRACTED = frozenset("whats whos wheres whens hows".split())
