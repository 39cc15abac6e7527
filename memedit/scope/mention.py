"""Scope from similarity and from whether the subject is meant: :class:`MentionScope`.

A query is about an edit when it names the edit's subject *and* asks for the edit's relation.
Cosine similarity of sentence embeddings mixes the two: another subject in the same sentence
("The capital of Spain is") is nearly as close as a paraphrase. So both texts are compared a
second time with the subject masked out, which leaves the relation, and the subject is looked for
as a name. A logistic regression weighs the features, one set of weights for each of the four
situations in :data:`HEADS`, and Platt's scaling makes its output a probability.

Source: the split of a query into subject and relation follows the idea of a scope detector in
SERAC (Mitchell et al. 2022, arXiv:2206.06520) and PokeMQA (Gu et al. 2024, arXiv:2312.15194);
both train a transformer on whole sentences, here a few features of a frozen encoder stand for
it. Calibration: Platt 1999, "Probabilistic outputs for support vector machines".
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.edits import Edit
from memedit.errors import ConfigError
from memedit.lexicon import STOP_WORDS, SubjectLexicon, mentions
from memedit.protocols import Candidate, Encoder, Vectors

FEATURES = (
    "cosine",  # query (or the sentence of the mention) and key, the larger
    "masked",  # the same with the subject replaced by a pronoun in both
    "product",  # cosine * masked
    "rival",  # how far a competing candidate's relation is closer; 0 or negative
    "longer",  # 1 where the mention seems part of a longer name
    "words",  # share of the key's relation words that the query has
    "words_cosine",  # words * cosine: two texts of one form are close whatever they ask
    "words_masked",  # words * masked
    "name",  # share of the subject's name that the query has, by characters; 1 for a mention
    "names_known",  # share of the query's capitalised words that the edit has
)
"""What each candidate is judged by, in the order of the columns of :meth:`features`."""

HEADS = ("mentioned", "stated", "unmentioned", "unknown")
"""The situations, each with weights of its own.

``mentioned``: the subject is named and the key is a prompt or a question. ``stated``: it is
named, and the key is a sentence that also holds the answer. ``unmentioned``: the edit has a
subject, and the query does not name it in full. ``unknown``: the edit has no known subject.
"""

MASK = "it"
_WEIGHTS = Path(__file__).with_suffix(".json")
_WHOLE = 1_000
# A longer query is masked sentence by sentence only: the encoder reads its first 256 tokens.
_SENTENCES = 4
_VARIANT = 0.5
# A name counts as a variant of the subject's from this share of its characters.
_SCAN = 20_000
# Characters of a query in which further mentions are looked for.


@dataclass(slots=True)
class _Pair:
    """One candidate that survived the pre-test, and the texts to compare it by."""

    head: int
    candidate: Candidate
    texts: list[str]
    masked: list[str]
    key: str
    masked_key: str
    name: float = 1.0
    group: object = None
    row: list[float] = field(default_factory=list)


class MentionScope:
    """The first scope classifier: a small regression over similarity and mentions.

    Args:
        encoder: the encoder that the candidates' cosines come from; it should keep a cache,
            since the keys of edits are asked for again and again.
        weights: a JSON file as ``benchmarks/scope.py train`` writes it; the one that is shipped
            where it is ``None``. Read at the first use.

    Raises:
        ConfigError: at the first use, where the file is missing, damaged or of other features.
    """

    def __init__(self, encoder: Encoder, *, weights: Path | None = None) -> None:
        self._encoder = encoder
        self._path = weights or _WEIGHTS

    @property
    def threshold(self) -> float:
        """The probability from which an edit is accepted at the false-fire rate in the report."""
        return float(self._data["threshold"])

    @property
    def report(self) -> Mapping[str, Any]:
        """How the weights were made and what was measured: command, seed, data, date, figures."""
        return dict(self._data["report"])

    def score(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[NDArray[np.float64]]:
        """For each query, the probability of each candidate that the query is about it.

        One call of the encoder for the whole batch, and none where no candidate survives the
        pre-test: a mention, or a cosine of at least the floor and, where the subject is known, a
        variant of its name. The others get 0.

        Returns:
            One array of shape (candidates of that query,), float64 in [0, 1], a query.
        """
        weights, floor = self._weights, float(self._data["floor"])
        results = []
        for (_, candidates), (kept, heads, rows) in zip(
            batch, self.features(batch, floor), strict=True
        ):
            probabilities = np.zeros(len(candidates))
            if len(kept):
                logits = np.einsum("nf,nf->n", rows, weights[heads, :-1]) + weights[heads, -1]
                probabilities[kept] = 1.0 / (1.0 + np.exp(-logits))
            results.append(probabilities)
        return results

    def features(
        self, batch: Sequence[tuple[str, Sequence[Candidate]]], floor: float
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        """What :meth:`score` weighs; public because the training reads it.

        Args:
            batch: queries with their candidates.
            floor: the lowest cosine, in [-1, 1], of a candidate without a mention.

        Returns:
            For each query: the columns of the n candidates that survive the pre-test, shape
            (n,); the index into :data:`HEADS` of each, shape (n,); and their features, shape
            (n, len(FEATURES)).
        """
        pairs = [list(_pairs(query, candidates, floor)) for query, candidates in batch]
        flat = [pair for group in pairs for _, pair in group]
        vectors = self._vectors(flat)
        for pair in flat:
            pair.row = _row(pair, vectors)
        results = []
        for group in pairs:
            _add_rivals([pair for _, pair in group])
            results.append(
                (
                    np.array([column for column, _ in group], dtype=np.int64),
                    np.array([pair.head for _, pair in group], dtype=np.int64),
                    np.array([pair.row for _, pair in group]).reshape(len(group), len(FEATURES)),
                )
            )
        return results

    def _vectors(self, pairs: Sequence[_Pair]) -> dict[str, Vectors]:
        """Every text of these pairs encoded, each once, in one call."""
        texts: dict[str, None] = {}
        for pair in pairs:
            if pair.masked:
                texts.update(dict.fromkeys((*pair.masked, pair.masked_key)))
            if len(pair.texts) > 1:  # the first is the query itself: its cosine is known
                texts.update(dict.fromkeys(pair.texts[1:]))
                texts[pair.key] = None
        if not texts:
            return {}
        order = list(texts)
        return dict(zip(order, self._encoder.encode(order), strict=True))

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            features, heads = tuple(data["features"]), data["heads"]
            complete = {"threshold", "floor", "report"} <= data.keys() and set(HEADS) <= set(heads)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the scope weights {self._path} cannot be read ({error}); make them with "
                "'python benchmarks/scope.py train'"
            ) from error
        if features != FEATURES or not complete:
            raise ConfigError(
                f"the scope weights {self._path} are for the features {', '.join(features)}, not "
                f"{', '.join(FEATURES)}; make them again with 'python benchmarks/scope.py train'"
            )
        return data

    @functools.cached_property
    def _weights(self) -> NDArray[np.float64]:
        """Weights and bias of each head with Platt's scaling folded in, (heads, features + 1)."""
        rows = []
        for head in HEADS:
            data = self._data["heads"][head]
            slope, shift = data["platt"]
            weights = [slope * data["weights"][name] for name in FEATURES]
            rows.append([*weights, slope * data["bias"] + shift])
        return np.array(rows)


def _pairs(
    query: str, candidates: Sequence[Candidate], floor: float
) -> Iterator[tuple[int, _Pair]]:
    """The candidates that survive the pre-test, with their columns."""
    alive = [
        (column, candidate)
        for column, candidate in enumerate(candidates)
        if candidate.mention is not None or candidate.cosine >= floor
    ]
    if not alive:
        return
    lexicon = SubjectLexicon()
    for column, candidate in alive:
        if candidate.mention is not None:
            lexicon.add(column, candidate.edit.names)
    spans: dict[int, list[tuple[int, int]]] = {}
    for mention in lexicon.find(query[:_SCAN]):
        for column in mention.positions:
            spans.setdefault(column, []).append((mention.start, mention.end))
    sentences = split_sentences(query)
    for column, candidate in alive:
        if candidate.mention is not None:
            found = sorted({candidate.mention, *spans.get(column, ())})
            yield column, _mentioned(query, candidate, found, sentences)
        elif (pair := _unmentioned(query, candidate, sentences)) is not None:
            yield column, pair


def _mentioned(
    query: str,
    candidate: Candidate,
    found: list[tuple[int, int]],
    sentences: list[tuple[int, int]],
) -> _Pair:
    edit = candidate.edit
    stated = edit.prompt is None and edit.question is None
    # A sentence boundary inside a name ("J. Brill") is none.
    whole = (0, len(query))
    around = list(dict.fromkeys(_around(sentences, span) for span in found))[:_SENTENCES]
    parts = [whole, *(part for part in around if part != whole)]
    masked = [
        _mask(query, found, part)
        for part in parts
        if len(parts) == 1 or part != whole or len(query) <= _WHOLE
    ]
    key = masked_key(edit)
    return _Pair(
        head=HEADS.index("stated" if stated else "mentioned"),
        candidate=candidate,
        texts=[query[start:end] for start, end in parts],
        masked=masked,
        key=edit.key,
        masked_key=key,
        group=edit.names[0].casefold() if edit.names else None,
    )


def _unmentioned(
    query: str, candidate: Candidate, sentences: list[tuple[int, int]]
) -> _Pair | None:
    """The pair of an edit whose subject is not named in full; ``None`` where it is not meant.

    The same question about somebody else is as close as a paraphrase, so a known subject has to
    be there at least as a variant of its name ("Shirley Johnson" for "Shirley Z. Johnson").
    """
    edit = candidate.edit
    whole = (0, len(query))
    name, window = 0.0, None
    if edit.names:
        name, window, stranger = partial_name(query[:_SCAN], edit.names)
        if window is None or name < _VARIANT or stranger:
            return None
    parts = sentences[-_SENTENCES:] if window is None else [_around(sentences, window)]
    parts = [whole, *(part for part in parts if part != whole)]
    spans = [] if window is None else [window]
    masked = [_mask(query, spans, part) for part in parts] if window else []
    key = masked_key(edit) if window else edit.key
    return _Pair(
        head=HEADS.index("unmentioned" if edit.names else "unknown"),
        candidate=candidate,
        texts=[query[start:end] for start, end in parts],
        masked=masked,
        key=edit.key,
        masked_key=key,
        name=name,
    )


def _row(pair: _Pair, vectors: Mapping[str, Vectors]) -> list[float]:
    """The features of one pair but the rival's, which the other candidates decide."""
    cosine = pair.candidate.cosine
    for text in pair.texts[1:]:
        cosine = max(cosine, float(vectors[text] @ vectors[pair.key]))
    masked = 0.0
    if pair.masked:
        masked = max(float(vectors[text] @ vectors[pair.masked_key]) for text in pair.masked)
    edit = pair.candidate.edit
    asked = pair.masked or pair.texts
    words = max(_shared_words(text, pair.masked_key) for text in asked)
    known = max(_names_known(text, edit) for text in pair.texts)
    return [
        cosine,
        masked,
        cosine * masked,
        0.0,
        float(pair.candidate.masked_by_longer),
        words,
        words * cosine,
        words * masked,
        pair.name,
        known,
    ]


def _add_rivals(pairs: Sequence[_Pair]) -> None:
    """Fills in by how much another edit of the same subject, or of any, is closer."""
    named = HEADS.index("unmentioned")
    for pair in pairs:
        column = 1 if pair.head < named else 0
        others = [
            other.row[column]
            for other in pairs
            if other is not pair and (pair.head >= named or other.group == pair.group)
        ]
        if others:
            pair.row[3] = min(0.0, pair.row[column] - max(others))


def masked_key(edit: Edit) -> str:
    """The edit's key with :data:`MASK` for the subject; the key itself where it has none."""
    if edit.prompt is not None and edit.subject is not None:
        return edit.prompt.replace("{}", MASK)
    return _mask(edit.key, mentions(edit.key, edit.names), (0, len(edit.key)))


def _mask(text: str, spans: Sequence[tuple[int, int]], part: tuple[int, int]) -> str:
    """``text[part]`` with :data:`MASK` for each span inside it."""
    pieces, last = [], part[0]
    for start, end in spans:
        if start >= last and end <= part[1]:
            pieces += [text[last:start], MASK]
            last = end
    return "".join((*pieces, text[last : part[1]]))


_BOUNDARY = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"”’')\]]))\s+|\n+|(?<=[。！？])")
_ABBREVIATED = re.compile(
    r"(?:\b\w|\b(?:[A-Z][a-z]?\.)+[A-Z]|\b(?:mr|mrs|ms|dr|st|jr|sr|vs|no|prof|gen|col|sgt|rev|inc|co"
    r"|ltd|corp|dept|est|approx|e\.g|i\.e))\.$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """``(start, end)`` of each sentence, in order; initials and abbreviations do not end one."""
    parts, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if match.start() <= start:
            continue
        following = text[match.end() : match.end() + 1]
        if "\n" not in match.group() and (
            following.islower()
            or _ABBREVIATED.search(text[max(start, match.start() - 12) : match.start()])
        ):
            continue
        parts.append((start, match.start()))
        start = match.end()
    if start < len(text):
        parts.append((start, len(text)))
    return parts


def _around(sentences: Sequence[tuple[int, int]], span: tuple[int, int]) -> tuple[int, int]:
    """The sentence that holds the span; several joined where a boundary falls inside it."""
    touched = [s for s in sentences if s[0] < span[1] and span[0] < s[1]]
    return (touched[0][0], touched[-1][1]) if touched else span


_WORD = re.compile(r"[^\W_]+")


@functools.lru_cache(maxsize=4096)
def _relation_words(text: str) -> frozenset[str]:
    """Content words by their first five letters: a stemmer that never removes too little."""
    words = _WORD.findall(_fold(text))
    return frozenset(word[:5] for word in words if word not in STOP_WORDS and len(word) > 1)


def _shared_words(query: str, key: str) -> float:
    wanted = _relation_words(key)
    return len(wanted & _relation_words(query)) / len(wanted) if wanted else 0.0


def _names_known(query: str, edit: Edit) -> float:
    """Share of the query's capitalised words that the edit has; of all content words in small."""
    asked = [w.group() for w in _WORD.finditer(query) if w.group().casefold() not in STOP_WORDS]
    capital = [word for word in asked[1:] if word[0].isupper() or word[0].isdigit()]
    first = asked[:1] if asked and (asked[0][0].isupper() and query.find(asked[0]) > 0) else []
    considered = _relation_words(" ".join(capital + first or asked))
    known = _relation_words(" ".join((edit.key, *edit.names)))
    return len(considered & known) / len(considered) if considered else 0.0


@functools.lru_cache(maxsize=4096)
def _fold(text: str) -> str:
    """Without case and without marks; the apostrophes inside words go too."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c) and c not in "'’")


_NAME_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def partial_name(query: str, names: Sequence[str]) -> tuple[float, tuple[int, int] | None, bool]:
    """How much of a name the query has, where, and whether a foreign name part stands beside it.

    "Shirley Johnson" has most of "Shirley Z. Johnson"; "Danielle Steel" has half of "Danielle
    Darrieux" and a stranger beside it. Accents and case are ignored, and a long word counts for
    a variant of its spelling that starts alike.

    Returns:
        The share of the name's characters that were found, in [0, 1]; ``(start, end)`` in the
        query from the first to the last word found, ``None`` where it is under a third; and
        whether a capitalised word next to it is no part of the name.
    """
    words = [(m.start(), m.end(), _fold(m.group())) for m in _NAME_WORD.finditer(query)]
    best: tuple[float, tuple[int, int] | None, bool] = (0.0, None, False)
    for name in names:
        parts = [_fold(m.group()) for m in _NAME_WORD.finditer(name)]
        wanted = [part for part in parts if part not in STOP_WORDS] or parts
        total = sum(map(len, wanted))
        if not total:
            continue
        hits = [i for i, word in enumerate(words) if any(_alike(word[2], p) for p in wanted)]
        for first in hits:
            run = [i for i in hits if first <= i < first + len(parts) + 1]
            have = [words[i][2] for i in run]
            share = sum(len(p) for p in wanted if any(_alike(w, p) for w in have)) / total
            if share > best[0]:
                beside = (run[0] - 1, *range(run[0], run[-1]), run[-1] + 1)
                stranger = any(
                    _is_foreign(query, words, i, run, parts)
                    for i in beside
                    if 0 < i < len(words) and i not in run
                )
                window = (words[run[0]][0], words[run[-1]][1]) if share >= 1 / 3 else None
                best = (share, window, stranger)
    return best


def _is_foreign(
    query: str,
    words: Sequence[tuple[int, int, str]],
    i: int,
    run: Sequence[int],
    parts: Sequence[str],
) -> bool:
    start, end, word = words[i]
    if word in STOP_WORDS or word in parts or not query[start].isupper():
        return False
    # An initial that the name spells out, or the other way round, is no stranger.
    if len(word) == 1 and any(part.startswith(word) for part in parts):
        return False
    gap = query[end : words[i + 1][0]] if i < run[0] else query[words[i - 1][1] : start]
    return gap.strip(" -") == ""


def _alike(word: str, part: str) -> bool:
    if word == part:
        return True
    if min(len(word), len(part)) < 5:
        return False
    same = 0
    for a, b in zip(word, part, strict=False):
        if a != b:
            break
        same += 1
    return same >= 0.7 * max(len(word), len(part))
