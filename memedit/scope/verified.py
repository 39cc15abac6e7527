"""Scope by name and by relation: :class:`VerifiedScope`, the classifier that is used.

An edit is what a query is about when the query names its subject *and* asks its relation. Names
come with the candidates, found by the subject lexicon or as variants of a name; the relation is
judged by :class:`~memedit.scope.relation.RelationVerifier` on the sentence that names the
subject. A logistic regression turns both into a probability, with weights of its own for each of
the situations in :data:`HEADS`; ``memedit scope train`` fits verifier and regressions.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.edits import Edit
from memedit.errors import ConfigError
from memedit.lexicon import STOP_WORDS, mentions
from memedit.protocols import Candidate, Judgement
from memedit.scope.reading import last_sentences, masked, readings
from memedit.scope.relation import MASK, RelationVerifier, shipped
from memedit.sentences import Span, split_sentences
from memedit.variants import FEATURES as NAME_FEATURES
from memedit.variants import fold

HEADS = ("named", "variant", "unknown", "answer")
"""The situations, each with weights of its own.

``named``: the query has the subject's name or an alias. ``variant``: it has a part of the name,
another spelling of it, or a longer name that contains it. ``unknown``: the edit has no known
subject, and whole sentences are compared. ``answer``: the query has the edit's target, and may
ask for the subject.
"""

FEATURES = (
    "relation",  # log-odds that the query asks the edit's relation
    "worst",  # the same where they are negative, else 0
    *(f"name_{name}" for name in NAME_FEATURES),  # how like the name a variant is
    "cosine",  # of query and key; where the subject is not known only, as are the next two
    "words",  # share of the key's content words that the query has
    "names_known",  # share of the query's capitalised words that the edit has
)
"""What is weighed, in the order of the columns of :attr:`Pair.row`."""

SCANNED = 20_000
"""So many characters of a query are looked at for further mentions of a subject."""

FLOOR = 0.4
"""Lowest cosine at which an edit whose subject is not known is looked at."""

NAME_FLOOR = 0.01
"""Least probability, by likeness alone, of a variant that the query is read for."""

SUREST = 5.5
"""Log-odds that the verifier does not exceed: at most 5.27 were seen on the ``hold`` part."""

REACHABLE = 0.1
"""A variant whose edit would stay under this probability, asked as surely as can be, is not read.
The verifier's reading is the slow part of a decision."""

TURNED = -5.0
"""Log-odds, at most, of a relation that is asked in the other direction, or in another script."""

MARGIN = 2.0
"""Log-odds by which a sentence may ask one relation of a subject less than another, and still be
about both: beside a question for the capital an edit of the currency is not meant."""

LIKELY = 4
"""Most variants of names that a query is read for."""

SOMETHING = "something"
"""What stands for the subject where the target is masked."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(slots=True)
class Pair:
    """One candidate that may be meant, and what of the query to compare its key with."""

    head: int
    candidate: Candidate
    texts: list[str]
    key: str
    row: list[float] = field(default_factory=list)
    text: str = ""


class VerifiedScope:
    """Names, relations, and what both come to.

    Args:
        verifier: judges relations; the shipped one where it is ``None``.
        weights: a JSON file as ``memedit scope train`` writes it beside the verifier; the one in
            the verifier's folder where it is ``None``. Read at the first use.

    Raises:
        ConfigError: at the first use, where a file is missing, damaged or of other features.
        MissingDependency: at the first use, where the encoder is not installed.
    """

    def __init__(
        self, verifier: RelationVerifier | None = None, *, weights: Path | None = None
    ) -> None:
        self.verifier = verifier or shipped()
        self._path = weights or self.verifier.folder / "scope.json"

    @property
    def threshold(self) -> float:
        """The probability from which an edit is accepted at the false-fire rate in the report."""
        return float(self._data["threshold"])

    @property
    def report(self) -> Mapping[str, Any]:
        """How the weights were made and what was measured: command, seed, data, date, figures."""
        return dict(self._data["report"])

    def use(self, data: dict[str, Any]) -> None:
        """Takes these weights instead of a file's; for the training, which has no file yet."""
        self.__dict__["_data"] = data
        self.__dict__.pop("_weights", None)
        self.__dict__.pop("_names", None)

    def judge(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[list[Judgement]]:
        """For each query, a judgement of each candidate, in their order.

        One call of the verifier for the whole batch, and none where no candidate is named.
        """
        results = []
        for (_, candidates), found in zip(batch, self.pairs(batch), strict=True):
            judged = [Judgement(0.0)] * len(candidates)
            heads = np.array([pair.head for _, pair in found], dtype=np.int64)
            rows = np.array([pair.row for _, pair in found]).reshape(-1, len(FEATURES))
            best: dict[str, float] = {}
            for _, pair in found:
                best[pair.text] = max(best.get(pair.text, -math.inf), pair.row[0])
            for (column, pair), p in zip(found, self.probabilities(heads, rows), strict=True):
                asked_less = pair.row[0] < best[pair.text] - MARGIN
                judged[column] = Judgement(
                    probability=0.0 if asked_less else float(p),
                    relation=1.0 / (1.0 + math.exp(-pair.row[0])),
                    asked=pair.text,
                    stated=pair.key,
                )
            results.append(judged)
        return results

    def probabilities(
        self, heads: NDArray[np.int64], rows: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The probability of each row of features, (rows,); ``heads`` are places in HEADS."""
        weights = self._weights[heads]
        logits = (rows * weights[:, :-1]).sum(axis=1) + weights[:, -1]
        probability: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(logits, -60.0, 60.0)))
        return probability

    def pairs(
        self, batch: Sequence[tuple[str, Sequence[Candidate]]]
    ) -> list[list[tuple[int, Pair]]]:
        """The candidates of each query that may be meant, with their columns and features.

        Public because the training reads it.
        """
        found = [
            _pairs(query, self._worth_reading(candidates), candidates)
            for query, candidates in batch
        ]
        flat = [pair for group in found for _, pair in group]
        asked = [(text, pair.key) for pair in flat for text in pair.texts]
        logits = dict(zip(asked, self.verifier.logits(asked).tolist(), strict=True))
        for pair in flat:
            pair.text = max(pair.texts, key=lambda text: logits[text, pair.key])
            relation = logits[pair.text, pair.key]
            if not pair.candidate.answer and (
                is_turned(pair.text, pair.key) or is_unread(pair.text, pair.key)
            ):
                relation = min(relation, TURNED)
            likeness = pair.candidate.likeness or (0.0,) * len(NAME_FEATURES)
            pair.row = [relation, min(0.0, relation), *likeness, *_whole(pair)]
        return found

    def _worth_reading(self, candidates: Sequence[Candidate]) -> list[int]:
        """The candidates that are named, or whose name is like enough to ask on; their columns."""
        weights, least = self._names
        likely: list[tuple[float, int]] = []
        columns = []
        for column, candidate in enumerate(candidates):
            if candidate.likeness is None:
                columns.append(column)
                continue
            likeness = np.array(candidate.likeness)
            logit = float(weights[:-1] @ likeness + weights[-1])
            if logit >= least and self._reaches(likeness):
                likely.append((-logit, column))
        return columns + [column for _, column in sorted(likely)[:LIKELY]]

    def _reaches(self, likeness: NDArray[np.float64]) -> bool:
        """Whether a variant this like could be accepted, if its relation were asked for certain.

        True while the training has no weights yet.
        """
        if "heads" not in self._data:
            return True
        row = np.zeros((1, len(FEATURES)))
        row[0, 0] = SUREST
        row[0, 2 : 2 + len(likeness)] = likeness
        head = np.array([HEADS.index("variant")])
        return bool(self.probabilities(head, row)[0] >= REACHABLE)

    @functools.cached_property
    def _names(self) -> tuple[NDArray[np.float64], float]:
        """Weights and bias of what likeness alone says, and the least log-odds."""
        data = self._data["names"]
        weights = [data["weights"][name] for name in NAME_FEATURES]
        floor = float(data["floor"])
        return np.array([*weights, data["bias"]]), math.log(floor / (1 - floor))

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            features, heads = tuple(data["features"]), data["heads"]
            complete = {"threshold", "report", "names"} <= data.keys() and set(HEADS) <= set(heads)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the scope weights {self._path} cannot be read ({error}); make them with "
                "'memedit scope train'"
            ) from error
        if features != FEATURES:
            raise ConfigError(
                f"the scope weights {self._path} are for the features {', '.join(features)}, not "
                f"{', '.join(FEATURES)}; make them again with 'memedit scope train'"
            )
        if not complete:
            raise ConfigError(
                f"the scope weights {self._path} lack a part; make them again with 'memedit scope "
                "train'"
            )
        return data

    @functools.cached_property
    def _weights(self) -> NDArray[np.float64]:
        """Weights and bias of each head, (heads, features + 1)."""
        heads = (self._data["heads"][head] for head in HEADS)
        return np.array([[*(h["weights"][name] for name in FEATURES), h["bias"]] for h in heads])


def _pairs(
    query: str, columns: Sequence[int], candidates: Sequence[Candidate]
) -> list[tuple[int, Pair]]:
    """The candidates that may be meant, with their columns."""
    if not columns:
        return []
    sentences = split_sentences(query)
    found = []
    for column in columns:
        candidate = candidates[column]
        key: str | None = stated_relation(candidate.edit)
        if candidate.answer:
            key = turned_relation(candidate.edit)
            head, texts = "answer", readings(query, _spans(query, candidate), sentences)
        elif candidate.mention is None:
            if candidate.edit.names or (candidate.cosine or 0.0) < FLOOR:
                continue
            head, texts = "unknown", last_sentences(query, sentences)
        else:
            head = "named" if candidate.likeness is None else "variant"
            texts = readings(query, _spans(query, candidate), sentences)
        if texts and key is not None:
            found.append((column, Pair(HEADS.index(head), candidate, texts, key)))
    return found


def _spans(query: str, candidate: Candidate) -> list[Span]:
    """Where the query names the candidate's subject: the mention, and others of the same words."""
    assert candidate.mention is not None
    spans = {candidate.mention}
    names = (candidate.edit.target or "",) if candidate.answer else candidate.edit.names
    if candidate.likeness is None and len(query) > candidate.mention[1] - candidate.mention[0]:
        spans |= set(mentions(query[:SCANNED], names))
    return sorted(span for span in spans if not _is_common_word(query, span, names))


def _is_common_word(query: str, span: Span, names: Sequence[str]) -> bool:
    """Whether what looks like a name is a noun: "their life" where the subject is "Life"."""
    word = query[slice(*span)]
    if not word.islower() or " " in word or word in names:
        return False
    return _DETERMINED.search(query, max(0, span[0] - 12), span[0]) is not None


_DETERMINED = re.compile(
    r"(?:\b(?:an?|my|your|his|her|its|our|their|this|that|these|those|every|each|any|some|no)"
    r"|\b(?!(?:what|who|where|when|why|how|it|he|she|that|there|here|let)['’])\w+['’]s|s['’])\s+$",
    re.IGNORECASE,
)


_STEM = re.compile(r"(.*\[MASK\].* [a-z]+|\[MASK\] [a-z]+) [A-Z][\w.’'-]*(?: [A-Z][\w.’'-]*)*$")


@functools.lru_cache(maxsize=65_536)
def _masked_key(key: str, names: tuple[str, ...]) -> str:
    return masked(key, mentions(key, names), (0, len(key)))


def stated_relation(edit: Edit) -> str:
    """The edit's key with :data:`MASK` for the subject; the key itself where it has none.

    Of a sentence that nobody could divide the name at its end is left out, which is the answer
    rather than the relation ("[MASK] is employed by Acme").
    """
    if edit.prompt is not None and edit.subject is not None:
        return edit.prompt.replace("{}", MASK).strip()
    key = _masked_key(edit.key, edit.names)
    if edit.question is None and (stem := _STEM.match(key)):
        return stem[1]
    return key


def turned_relation(edit: Edit) -> str | None:
    """What an edit states of its target: "The capital of something is [MASK]"."""
    if edit.prompt is None or edit.target is None:
        return None
    return f"{edit.prompt.replace('{}', SOMETHING).strip()} {MASK}"


_PASSIVE = re.compile(r"\[MASK\],? (?:(?:is|was|are|were|been|being) )?(\w+?)e?d by\b")
_ACTIVE = re.compile(
    r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )\[MASK\] "
    r"(?:also |later |now )?(\w{3,}?)(?:e?s|e?d)?\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=65_536)
def is_turned(asked: str, stated: str) -> bool:
    """Whether one text has the subject do what the other has done to it.

    "X follows" and "X is followed by" ask for different things in nearly the same words, which is
    what an encoder sees least.
    """

    def turned(active: str, passive: str) -> bool:
        done = _PASSIVE.search(passive)
        does = _ACTIVE.search(active)
        return bool(done and does and not _PASSIVE.search(active) and done[1] == does[1])

    return turned(asked, stated) or turned(stated, asked)


_LETTER = re.compile(r"[^\W\d_]")
_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f]")


@functools.lru_cache(maxsize=65_536)
def is_unread(asked: str, stated: str) -> bool:
    """Whether a sentence is in a script that the verifier, which reads English, makes nothing of.

    It takes such a sentence for any relation. One that is stated in the same script may be asked
    in the same words, and is left to it.
    """
    letters = asked.replace(MASK, "")
    return (
        2 * len(_NOT_LATIN.findall(letters)) > len(_LETTER.findall(letters))
        and _NOT_LATIN.search(stated) is None
    )


def _whole(pair: Pair) -> tuple[float, float, float]:
    """The last three features: of texts that are compared as they stand."""
    if HEADS[pair.head] != "unknown":
        return 0.0, 0.0, 0.0
    known = content_words(pair.key)
    asked = [word.group() for word in _WORD.finditer(pair.text)]
    asked = [word for word in asked if word.casefold() not in STOP_WORDS]
    names = [word for word in asked[1:] if word[0].isupper() or word[0].isdigit()] or asked
    said = content_words(" ".join(names))
    return (
        pair.candidate.cosine or 0.0,
        len(known & content_words(pair.text)) / max(1, len(known)),
        len(known & said) / max(1, len(said)),
    )


@functools.lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """Content words by their first five letters: a stemmer that never removes too little."""
    words = _WORD.findall(fold(text))
    return frozenset(word[:5] for word in words if word not in STOP_WORDS and len(word) > 1)
