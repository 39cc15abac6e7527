"""Prompts in other languages than English: :class:`AnyLanguage`.

Names are found in any script, but the relation verifier reads English. Of a sentence in another
language, a multilingual sentence encoder says how near it comes to what the edit states, the name
out of both. How near is near enough depends on the encoder, and is measured when it is first
used: on the questions in ``languages.json``, each beside the English statement of its own relation
and beside those of all others. An encoder that cannot tell them apart is refused.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from memedit.errors import ConfigError
from memedit.lexicon import STOP_WORDS
from memedit.protocols import Candidate, Encoder, Judgement
from memedit.scope.relation import MASK
from memedit.scope.verified import HEADS, Pair, VerifiedScope

FALSE_FIRES = 0.02
"""Share of the questions' comparisons with other relations' statements that come near enough."""

LEAST = 0.8
"""Share of the questions that must come near enough to their own relation's statement."""

MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
"""An encoder that is named to whoever has none."""

NAME = "X"
"""What stands for the subject in a text that is encoded."""

_WORD = re.compile(r"[^\W\d_]+")
# English function words that are words of other languages in this alphabet, too. One of the second
# kind is no sign of English, but two are; of the first kind other languages have several at once.
_OFTEN_SHARED = frozenset("a an as do he in me no or so we".split())
_SHARED = frozenset("about all at i is on to up was".split())
_ENGLISH = STOP_WORDS - _SHARED - _OFTEN_SHARED


class AnyLanguage:
    """Scope for prompts in any language that the encoder reads.

    What is in English is left to the scope classifier, and so are edits without a known subject,
    which are compared as whole sentences by the same encoder.

    Args:
        scope: judges what is in English, and says what of a query is to be compared.
        encoder: a multilingual one.

    Raises:
        ConfigError: at the first use, where the encoder does not tell the relations of questions
            in other languages apart.
    """

    def __init__(self, scope: VerifiedScope, encoder: Encoder) -> None:
        self._scope = scope
        self._encoder = encoder

    def judge(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[list[Judgement]]:
        """For each query, a judgement of each candidate, in their order."""
        near, unit = self._near
        judged = self._scope.judge(batch)
        at = math.log(self._scope.threshold / (1.0 - self._scope.threshold))
        for judgements, found in zip(judged, self._scope.pairs(batch), strict=True):
            for column, pair in found:
                if not (texts := _foreign(pair)):
                    continue
                vectors = self._encoder.encode([_named(text) for text in (pair.key, *texts)])
                cosines = vectors[1:] @ vectors[0]
                best = int(np.argmax(cosines))
                probability = 1.0 / (1.0 + math.exp(-(at + (float(cosines[best]) - near) / unit)))
                judgements[column] = Judgement(probability, probability, texts[best], pair.key)
        return judged

    @functools.cached_property
    def _near(self) -> tuple[float, float]:
        """The cosine that counts as the threshold, and the one that a unit of log-odds takes.

        The unit is a tenth of the way between the means of the two kinds of comparison.
        """
        data: list[dict[str, Any]] = json.loads(
            files("memedit.scope").joinpath("languages.json").read_text(encoding="utf-8")
        )
        stated = self._encoder.encode([_named(one["stated"]) for one in data])
        asked = [
            (place, _named(text))
            for place, one in enumerate(data)
            for text in one["asked"].values()
        ]
        cosines = self._encoder.encode([text for _, text in asked]) @ stated.T
        is_own = np.array([[place == i for i in range(len(data))] for place, _ in asked])
        own, other = cosines[is_own], cosines[~is_own]
        near = float(np.quantile(other, 1.0 - FALSE_FIRES))
        share = float((own > near).mean())
        if share < LEAST:
            raise ConfigError(
                f"scope.languages is 'any', but the encoder {self._encoder.name} takes only "
                f"{share:.0%} of {len(asked)} questions in {', '.join(data[0]['asked'])} for what "
                f"they ask, where {LEAST:.0%} are needed; set encoder.model to a multilingual one, "
                f"such as {MULTILINGUAL}, or scope.languages to 'en'"
            )
        return near, float(own.mean() - other.mean()) / 10.0


def is_english(text: str) -> bool:
    """Whether a sentence may be English: by its function words, or it has hardly any word."""
    words = [word.casefold() for word in _WORD.findall(text.replace(MASK, " "))]
    if not _ENGLISH.isdisjoint(words):
        return True
    if not all(word.isascii() for word in words):
        return False
    return len(words) < 2 or len(_SHARED.intersection(words)) > 1


def _foreign(pair: Pair) -> list[str]:
    """The texts to compare where the query names the subject and says nothing of it in English."""
    if HEADS[pair.head] not in ("named", "variant") or any(map(is_english, pair.texts)):
        return []
    return pair.texts


def _named(text: str) -> str:
    return text.replace(MASK, NAME)
