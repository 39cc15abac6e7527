"""What of a query may be about an edit: its sentences, with the subject masked.

A query may be one question, a question with other sentences around it, a document, or code. What
is put to the :class:`~memedit.scope.relation.RelationVerifier` is the sentence that names the
subject; where a later sentence leans on it by a pronoun ("Acme is in Oslo. Who runs it?"), that
one too, with the pronoun for the name. In a long text only its first and last sentences and its
questions count: what a document says is not what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from memedit.prompt import ASKED
from memedit.scope.relation import MASK
from memedit.sentences import Span, around

DOCUMENT = 8
"""From so many sentences on a query is a document with a request before or after it."""

_FIRST, _LAST = 2, 3
_READINGS = 4
_LEANING = 2
_LONG = 320
_OWNED = re.compile(r"\b(?:its|their|his|whose)\b|\bher(?=\s+(?!\?)[a-z])", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:it|they|them|he|him|she|her|there|that (?:one|place|company|person|city|team|club))\b",
    re.IGNORECASE,
)
_DUMMY = re.compile(
    r"\b(?:is|was) (?:it|there)\b|\b(?:it|there)(?:'s| is| was) (?:a|an|the|any)\b", re.I
)


def readings(text: str, spans: Sequence[Span], sentences: Sequence[Span]) -> list[str]:
    """The sentences of ``text`` that may ask about what stands at ``spans``, masked.

    Args:
        text: the query; what stands before :data:`~memedit.prompt.ASKED` in it names subjects and
            asks nothing.
        spans: where it names the subject, in order.
        sentences: as :func:`~memedit.sentences.split_sentences` gives them.

    Returns:
        At most four texts, each with :data:`MASK` for the subject, different from each other.
    """
    found: dict[str, None] = {}
    wanted = _asking(text, sentences)
    asked_from = text.rfind(ASKED) + 1
    places = [(around(sentences, span), span) for span in spans]
    for sentence in dict.fromkeys(place for place, _ in places):
        if wanted is None or any(sentence[0] <= s[0] < sentence[1] for s in wanted):
            found[masked(text, [span for at, span in places if at == sentence], sentence)] = None
    if spans:
        after = max(places[0][0][1], asked_from)
        later = [s for s in sentences if s[0] >= after and s not in dict(places)]
        for sentence in later[-_LEANING:]:
            if (leaning := masked_pronoun(text[slice(*sentence)])) is not None:
                found[leaning] = None
    return list(found)[-_READINGS:]


def masked(text: str, spans: Iterable[Span], part: Span) -> str:
    """``text[part]`` with :data:`MASK` for each span in it; a long one is cut around the first."""
    pieces, last = [], part[0]
    first = None
    for start, end in sorted(spans):
        if start >= last and end <= part[1]:
            first = start if first is None else first
            pieces += [text[last:start], MASK]
            last = end
    whole = "".join((*pieces, text[last : part[1]])).strip()
    if len(whole) <= _LONG or first is None:
        return whole[-_LONG:]
    at = whole.index(MASK)
    return whole[max(0, at - _LONG // 2) : at + _LONG // 2]


def masked_pronoun(sentence: str) -> str | None:
    """A sentence with :data:`MASK` for its first pronoun of the third person, if it has one."""
    if (owned := _OWNED.search(sentence)) is not None:
        return f"{sentence[: owned.start()]}{MASK}'s{sentence[owned.end() :]}".strip()
    dummies = [match.span() for match in _DUMMY.finditer(sentence)]
    for match in _NAMED.finditer(sentence):
        if not any(start <= match.start() < end for start, end in dummies):
            return f"{sentence[: match.start()]}{MASK}{sentence[match.end() :]}".strip()
    return None


def last_sentences(text: str, sentences: Sequence[Span]) -> list[str]:
    """What a text asks where nobody knows of whom: its last two sentences, or its questions."""
    asking = _asking(text, sentences) or sentences
    return [text[slice(*sentence)].strip() for sentence in asking[-_READINGS:]]


def _asking(text: str, sentences: Sequence[Span]) -> list[Span] | None:
    """The sentences that may be the request, of a document or of what leans on earlier turns;
    ``None`` for a text that is neither.
    """
    if (start := text.rfind(ASKED) + 1) > 0:
        return [sentence for sentence in sentences if sentence[0] >= start]
    if len(sentences) < DOCUMENT:
        return None
    return [
        sentence
        for i, sentence in enumerate(sentences)
        if i < _FIRST
        or i >= len(sentences) - _LAST
        or text[slice(*sentence)].rstrip(" \"'”)*`").endswith(("?", "？"))
    ]
