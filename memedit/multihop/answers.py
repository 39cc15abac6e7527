"""From what a model says to a hop's answer: a name that the next question can be asked of."""

from __future__ import annotations

import re

LONGEST = 12
"""A text of more words is no name."""

_NO_ANSWER = re.compile(
    r"\W*(?:(?:i |we )?(?:do not|don'?t|can ?not|can'?t|am not|was not|could not)\b.*|unknown\b.*"
    r"|none|n/?a|no answer|nobody|not (?:known|specified|available|applicable)\b.*|it is not\b.*"
    r"|there is no\b.*|sorry\b.*|as an ai\b.*|\?*)\W*",
    re.IGNORECASE,
)
_STATES = re.compile(
    r"\b(?:is|was|are|were)(?: (?:currently|now|located|situated|based|in|by|called|named|born))* "
    r"(?P<name>\S.*)"
)
_OPENING = re.compile(
    r"^(?:answer|the answer is|it is|it's|he is|she is|this is)\b:?\s+(?=\S)", re.I
)
_DONE = re.compile(r"^\w+(?:ed|en|de|wn|ld) (?:by|in|at|from) (?=[A-Z])")
_ASIDE = re.compile(r"\s*\([^()]*\)")
_SEVERAL = re.compile(r"\s*(?:;|\bor\b|/| and (?=the [a-z]| [A-Z]))\s*")

_COUNTRIES = (
    ("United States of America", "United States", "USA", "US", "U.S.", "U.S.A.", "America"),
    ("United Kingdom", "UK", "U.K.", "Great Britain", "Britain"),
    ("People's Republic of China", "China", "PRC"),
    ("Soviet Union", "USSR", "U.S.S.R.", "Union of Soviet Socialist Republics"),
    ("Russia", "Russian Federation"),
    ("South Korea", "Republic of Korea", "Korea"),
    ("North Korea", "Democratic People's Republic of Korea"),
    ("Czech Republic", "Czechia"),
    ("Republic of Ireland", "Ireland"),
    ("Kingdom of the Netherlands", "Netherlands", "Holland"),
    ("Taiwan", "Republic of China"),
    ("Iran", "Islamic Republic of Iran", "Persia"),
    ("Turkey", "Türkiye"),
    ("Myanmar", "Burma"),
    ("Ivory Coast", "Côte d'Ivoire"),
    ("Democratic Republic of the Congo", "DR Congo"),
    ("association football", "football", "soccer"),
    ("Catholic Church", "Catholicism", "Roman Catholic Church", "Roman Catholicism", "Catholic"),
    ("Christianity", "Christian"),
    ("Islam", "Muslim"),
    ("Judaism", "Jewish"),
    ("Buddhism", "Buddhist"),
    ("Hinduism", "Hindu"),
)
_ALIKE = {_name.casefold(): _row for _row in _COUNTRIES for _name in reversed(_row)}


def answer_of(text: str) -> str | None:
    """The name in an answer; ``None`` where it has none.

    Of several lines the first counts, of several names likewise, of a sentence what stands behind
    its verb; brackets, quotes, an article and a stop are left out.
    """
    line = next((line.strip() for line in text.strip().split("\n") if line.strip()), "")
    line = _OPENING.sub("", line)
    if _NO_ANSWER.fullmatch(line):
        return None
    if len(line.split()) > 3 and (states := _STATES.search(line)):
        line = _DONE.sub("", states["name"])
    if not (short := _ends_short(line)):
        line = re.split(r"(?<=[a-z0-9)])[.!](?:\s|$)", line, maxsplit=1)[0]
    line = _SEVERAL.split(_ASIDE.sub("", line), maxsplit=1)[0]
    name = line.strip(' "') if short else line.strip(" \t\"'“”‘’*_`,:;").rstrip(".")
    name = re.sub(r"^(?:the|an?) (?=[a-z])", "", name, flags=re.IGNORECASE)
    if not name or len(name.split()) > LONGEST or _NO_ANSWER.fullmatch(name):
        return None
    return name


def names_of(name: str) -> tuple[str, ...]:
    """The name as it is, and others of the same thing that questions use; each once."""
    plain = re.sub(r"^the ", "", name, flags=re.IGNORECASE)
    return tuple(dict.fromkeys((name, plain, *_ALIKE.get(plain.casefold(), ()))))


def _ends_short(line: str) -> bool:
    """Whether the last stop belongs to the name: "Washington, D.C.", "John Smith Jr."."""
    return re.search(r"(?:\b[A-Z]\.|\b(?:Jr|Sr|Inc|Ltd|Co|St)\.)\W*$", line) is not None
