"""Which entity a question starts from: a quoted title, or a name told by its capitals.

No model: names of any kind occur, and the encoder's tokens know no capitals.
"""

from __future__ import annotations

import re

Span = tuple[int, int]
"""``(start, end)`` in a text, in characters."""

MOST = 3
"""At most so many entities of one question are tried."""

_QUOTED = re.compile(
    r"[\"“]([^\"”]+?)(?:[’']s)?[\"”]|‘([^’]+)’(?!s)|(?<!\w)'([^']+?)(?:'s)?'(?!\w)"
)
_LINK = r"(?:of|the|de'?|la|le|von|van|der|den|du|di|da|del|dos|and|&|bin|ibn|y|e|al|in|for)"
_WORD = r"(?:[^\W\d_a-z]|\d|[a-z]{1,2}[A-Z]|(?:al|el|d|l)['’-][A-Z])(?:[^\s?,;:()\"]|,(?=\d))*"
_NAME = re.compile(rf"(?:{_WORD})(?:,? (?:{_LINK} ){{0,2}}{_WORD}|, Jr\.?)*")
_OPENING = re.compile(
    r"\W*(?:(?:in|at|on|from|to|by|for|of|with|under|through|into|within|as)\s+)?(?:what|which|who|"
    r"whose|whom|where|when|how|name|tell me|tell|the|an?|is|was|does|did|can you|do|are|were|"
    r"could you|would you|please|give|identify|state|find)\b",
    re.IGNORECASE,
)
# Words in capitals that name a relation rather than anybody.
_TITLES = re.compile(
    r"(?:CEO|CFO|CTO|COO|HQ|PM|President|King|Queen|Prime Minister|Head)s? of (?:the )?"
)
_POSSESSIVE = re.compile(r"[’']s$|(?<=s)[’']$")
_KEEPS_STOP = re.compile(r"(?:\b[A-Z]\.|\b(?:Jr|Sr|Inc|Ltd|Co|Bros|St)\.|!)$")
# Small words that go on with a name: "the Germany national football team".
_TAIL = re.compile(
    r" (?:[a-z]+ ){0,2}(?:team|dynasty|canon|engine|series|franchise|synthesizer|party|club|league"
    r"|band|university|empire|family|church|school|museum|festival|airport|river|language|virus)\b"
)


def starts(question: str) -> list[Span]:
    """Where a question names what it may start from, the likeliest first; at most :data:`MOST`.

    Quoted titles go before names; of names the last one goes first, since English nests what is
    asked to the right.
    """
    quoted = [
        next(m.span(group) for group in (1, 2, 3) if m.group(group))
        for m in _QUOTED.finditer(question)
    ]
    named = [_trimmed(question, *m.span()) for m in _NAME.finditer(question, _opening(question))]
    spans = [*quoted, *reversed([span for span in named if span[0] < span[1]])]
    if not spans and (last := _last_noun(question)) is not None:
        spans = [last]
    if not quoted and spans and (tail := _TAIL.match(question, spans[0][1])):
        spans.insert(0, (spans[0][0], tail.end()))
    return spans[:MOST]


def _opening(question: str) -> int:
    found = _OPENING.match(question)
    return found.end() if found else 0


def _trimmed(question: str, start: int, end: int) -> Span:
    """A name without a title before it, a possessive, or a stop behind it."""
    text = question[start:end]
    if title := _TITLES.match(text):
        start += title.end()
        text = text[title.end() :]
    if owner := re.search(r"[’']s (?=[a-z])", text):
        text = text[: owner.start()]
    text = text.rstrip("?,;:")
    if text.endswith(".") and not _KEEPS_STOP.search(text):
        text = text[:-1]
    text = _POSSESSIVE.sub("", text)
    return start, start + len(text)


_LAST_NOUN = re.compile(
    r"\b(?:of|by|with|for|where|that|invented|created)(?: the| an?)? "
    r"([a-z][\w-]+(?: [a-z][\w-]+)??)(?= (?:originate|come|came|is|was|belong|hold)\w*|[?.]?$)"
)


def _last_noun(question: str) -> Span | None:
    """A thing without a capital: "the country where laddu originated"."""
    found = list(_LAST_NOUN.finditer(question))
    return found[-1].span(1) if found else None
