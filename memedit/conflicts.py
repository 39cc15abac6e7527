"""Do two edits state the same fact, and does one contradict what follows from others?

Pure: nothing here searches, encodes or writes. Two edits state the same fact when they are about
one subject and ask one relation of it, in whatever words ("The CEO of Acme is", "Who runs
Acme?"). A logistic regression weighs how close the two relations are by a sentence encoder with
the subject masked out, which content words they share, what kind of answer each asks for, and
which concepts of a small table of relation words they name. Table, rules and weights lie in
``conflicts.json`` beside this file; ``benchmarks/conflicts.py train`` fits the weights.

Relations of which a subject has many at once ("Ann knows Bo", "Ann knows Cy") never conflict.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memedit.edits import Edit
from memedit.errors import ConfigError
from memedit.lexicon import STOP_WORDS, mentions
from memedit.scope import relation as verified

MASK = "it"
"""What stands for the subject where two relations are compared."""

FEATURES = (
    "cosine",  # of the two relations with the subject masked out; 0 where there is no encoder
    "words_least",  # shared content words, as a share of the shorter relation's
    "words_most",  # the same of the longer one's
    "words_cosine",  # words_least * cosine
    "answers_clash",  # the two ask for answers of different kinds: a person, a place, a language
    "answers_same",  # both ask for an answer of one kind
    "wordless",  # one of them has no content word
    "concept",  # both name a concept of the table
    "concepts_clash",  # each names concepts, and they share none
    "concepts_same",  # they name the same concepts
    "concept_one",  # only one of them names any
    "concepts_cosine",  # concepts_same * cosine
    "one_form",  # the same sentence but for a content word, or for all of them
    "targets",  # cosine of the two answers: a city is closer to a city than to a person
    "targets_cosine",  # targets * cosine
    "asks",  # how sure the scope verifier is that they ask the same, 0 to 1; 0.5 without it
    "asks_log_odds",  # the same in log-odds, the mean of both directions
    "asks_words",  # asks * words_least
)
"""What a pair of edits is judged by, in the order of :func:`features`."""

_DATA = Path(__file__).with_suffix(".json")

# Relations of which a subject has many at once, so that a second one replaces nothing.
_MANY = re.compile(
    r"\b(?:one|some|several|many) of\b|\b(?:also|among|likewise|furthermore)\b"
    r"|\bit (?:often |really )?(?:knows|likes|loves|enjoys|hates|dislikes|admires|follows|meets|met"
    r"|visits|visited|includes|contains|mentions|befriended)\b"
    r"|\bit (?:has|have) (?:met|visited|known|liked|seen|read|tried)\b"
    r"|\bit (?:is|was) (?:a |an |good |close )*(?:friends?|acquaintances?|fans?) (?:of|with)\b"
    r"|\b(?:who|what|whom) (?:does|do|did|has|have) it (?:know|like|love|enjoy|hate|met|visited)\b"
)
_WORD = re.compile(r"[^\W_]+")
_EMPTY_WORDS = STOP_WORDS | {"name", "current", "currently", "known"}
_ANSWERS = {
    "person": re.compile(r"\b(?:who|whom|whose|person|individual)\b"),
    "city": re.compile(r"\b(?:city|town)\b"),
    "country": re.compile(r"\b(?:country|nation|kingdom|nationality|citizen)"),
    "language": re.compile(r"\b(?:language|speak|spoken|mother tongue)"),
    "continent": re.compile(r"\bcontinent"),
    "place": re.compile(r"\b(?:where|located|location|situated|place)\b|\b(?:in|at)$"),
    "time": re.compile(r"\b(?:when|year|date)\b"),
    "organisation": re.compile(
        r"\b(?:company|organi[sz]ation|employ|university|label|channel|network|club|team)\b"
    ),
    "agent": re.compile(r"\bby$"),
}
_CLASHES = tuple(
    tuple(pair.split("-"))
    for pair in (
        "person-place person-language person-city person-country person-organisation "
        "language-place language-city language-country city-country continent-country "
        "continent-city place-organisation agent-place agent-language agent-city agent-country "
        "time-person time-place"
    ).split()
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
    # The rules that read a sentence may take "One of Ann" for its subject.
    return edit.subject is not None and (
        _takes_many(relation_of(edit)) or edit.key.casefold().startswith(("one of ", "some of "))
    )


def relation_of(edit: Edit, names: tuple[str, ...] = (), mask: str = MASK) -> str:
    """The edit's key with ``mask`` for its subject.

    Args:
        edit: the edit.
        names: the other edit's names, to look for where this one does not know its subject.
        mask: what stands for the subject.
    """
    if edit.prompt is not None and edit.subject is not None:
        return edit.prompt.replace("{}", mask)
    pieces, last = [], 0
    for start, end in mentions(edit.key, edit.names or names):
        pieces += [edit.key[last:start], mask]
        last = end
    return "".join((*pieces, edit.key[last:]))


def texts_asked(new: Edit, old: Edit) -> tuple[tuple[str, str], tuple[str, str]]:
    """What the scope verifier reads of two edits: both relations, in both orders."""
    one, other = (
        relation_of(new, old.names, verified.MASK),
        relation_of(old, new.names, verified.MASK),
    )
    return (one, other), (other, one)


@dataclass(frozen=True, slots=True)
class Alike:
    """How alike two edits are.

    Attributes:
        cosine: of their :func:`relation_of`, by the encoder that the weights were trained with
            (:func:`knows_encoder`).
        targets: cosine of their targets, likewise.
        asks: log-odds that they ask the same (:func:`texts_asked`), the mean of both orders.
    """

    cosine: float
    targets: float
    asks: float


def same_fact(new: Edit, old: Edit, alike: Alike | None = None) -> Verdict:
    """Whether two edits state the same fact.

    Args:
        new: an edit.
        old: another; their order does not matter.
        alike: how alike they are; where nothing tells, only edits whose relations share a concept
            or all their words count.
    """
    if fact_key(new) == fact_key(old):
        return Verdict(True, 1.0, "the same words")
    if not share_subject(new, old):
        return Verdict(False, 0.0, "about other subjects")
    if is_many_valued(new) or is_many_valued(old):
        return Verdict(False, 0.0, "a relation that takes many objects at once")
    relations = relation_of(new, old.names), relation_of(old, new.names)
    row = features(*relations, alike or Alike(0.0, 0.0, 0.0))
    if alike is None:
        same = bool(row[FEATURES.index("concepts_same")])
        same |= row[FEATURES.index("words_most")] == 1.0 and not row[FEATURES.index("wordless")]
        return Verdict(same, float(same), "in other words" if same else "another relation")
    if is_vetoed(row):
        return Verdict(False, 0.0, "another relation, by its words")
    weights, bias, threshold = _weights()
    logit = bias + sum(weight * value for weight, value in zip(weights, row, strict=True))
    probability = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit))))
    same = probability >= threshold
    how = "in other words" if same else "another relation"
    return Verdict(same, probability, f"{how} (probability {probability:.2f})")


def is_vetoed(row: Sequence[float]) -> bool:
    """Whether two relations differ whatever their similarity: wrongly retiring an edit is worse.

    So it is where each names a concept and they share none ("died in", "was born in"), and where
    only the content words of one sentence differ ("the favourite colour of", "the favourite food
    of").
    """
    named = dict(zip(FEATURES, row, strict=True))
    return bool(named["concepts_clash"] or (named["one_form"] and not named["concept"]))


def same_target(new: Edit, old: Edit) -> bool:
    """Whether two edits give the same answer, by its letters; so where either has none."""
    if new.target is None or old.target is None:
        return True
    return _plain(new.target) == _plain(old.target)


def share_subject(new: Edit, old: Edit) -> bool:
    """Whether they share a name of their subject, or one without a subject names the other's."""
    if new.names and old.names:
        return bool({_plain(name) for name in new.names} & {_plain(name) for name in old.names})
    if not (new.names or old.names):
        return False
    named, other = (new, old) if new.names else (old, new)
    return bool(mentions(other.key, named.names))


def knows_encoder(name: str) -> bool:
    """Whether the weights were trained with the encoder of this name."""
    return name.partition("@")[0] == str(_data()["encoder"])


def features(new: str, old: str, alike: Alike) -> list[float]:
    """:data:`FEATURES` of two relations as :func:`relation_of` gives them."""
    words = _content_words(new), _content_words(old)
    shared = len(words[0] & words[1])
    least = shared / max(1, min(map(len, words)))
    answers = _answers(new), _answers(old)
    clash = any(
        (a in answers[0] and b in answers[1] and a not in answers[1] and b not in answers[0])
        or (b in answers[0] and a in answers[1] and b not in answers[1] and a not in answers[0])
        for a, b in _CLASHES
    )
    concepts = _concepts(new), _concepts(old)
    both = bool(concepts[0] and concepts[1])
    common = bool(concepts[0] & concepts[1])
    equal = common and concepts[0] == concepts[1]
    cosine, targets = alike.cosine, alike.targets
    asks = 1.0 / (1.0 + math.exp(-alike.asks))
    return [
        cosine,
        least,
        shared / max(1, *map(len, words)),
        least * cosine,
        float(clash),
        float(bool(answers[0] & answers[1])),
        float(not all(words)),
        float(common),
        float(both and not common),
        float(equal),
        float(bool(concepts[0]) != bool(concepts[1])),
        float(equal) * cosine,
        float(_differs_in_a_word(new, old)),
        targets,
        targets * cosine,
        asks,
        alike.asks,
        asks * least,
    ]


# what follows from edits


def rule_relations(edit: Edit) -> frozenset[str]:
    """The relations of the rules that an edit states; mostly none."""
    if edit.subject is None or edit.target is None:
        return frozenset()
    return _rule_relations(relation_of(edit))


def contradictions(
    edit: Edit,
    about: Callable[[str], Iterable[Edit]],
    answering: Callable[[str], Iterable[Edit]],
) -> list[str]:
    """What an edit contradicts by an inverse relation or by a rule of two steps, as sentences.

    Args:
        edit: the edit.
        about: the edits about a subject of this name.
        answering: the edits whose target has this name.
    """
    found = [*_inverse(edit, about, answering), *_composed(edit, about, answering)]
    return list(dict.fromkeys(found))


def _inverse(
    edit: Edit, about: Callable[[str], Iterable[Edit]], answering: Callable[[str], Iterable[Edit]]
) -> Iterator[str]:
    mine = rule_relations(edit)
    subject, target = edit.subject or "", edit.target or ""
    for pair in _data()["rules"]["inverse"]:
        for here, there in (pair, pair[::-1]):
            if here not in mine:
                continue
            for other in about(target):
                if there in rule_relations(other) and _plain(other.target or "") != _plain(subject):
                    yield _says_otherwise(other, f"{there} is the inverse of {here}")
            for other in answering(subject):
                if there in rule_relations(other) and _plain(other.subject or "") != _plain(target):
                    yield _says_otherwise(other, f"{there} is the inverse of {here}")


def _composed(
    edit: Edit, about: Callable[[str], Iterable[Edit]], answering: Callable[[str], Iterable[Edit]]
) -> Iterator[str]:
    mine = rule_relations(edit)

    def of(name: str, relation: str) -> Iterator[Edit]:
        if relation in mine and _plain(name) == _plain(edit.subject or ""):
            yield edit
        yield from (e for e in about(name) if relation in rule_relations(e))

    for first, second, whole in _data()["rules"]["composed"]:
        if not mine & {first, second, whole}:
            continue
        starts = {edit.subject or ""}
        if second in mine:
            found = answering(edit.subject or "")
            starts |= {e.subject or "" for e in found if first in rule_relations(e)}
        for start in starts:
            for one in of(start, first):
                for two in of(one.target or "", second):
                    for three in of(start, whole):
                        parts = [one, two, three]
                        if edit in parts and not same_target(two, three):
                            others = [e for e in parts if e is not edit]
                            rule = f"the {second} of the {first} is the {whole}"
                            yield _says_otherwise(others[-1], rule, others[:-1])


def _says_otherwise(other: Edit, rule: str, through: Sequence[Edit] = ()) -> str:
    by = "".join(f", by {e.id} ({e.statement!r})" for e in through)
    return f"contradicts {other.id} ({other.statement!r}){by}: {rule}; both stay active"


# texts


def _plain(text: str) -> str:
    return " ".join(text.casefold().rstrip(" .!").split()).removeprefix("the ")


@functools.lru_cache(maxsize=8192)
def _takes_many(relation: str) -> bool:
    return _MANY.search(relation.casefold()) is not None


@functools.lru_cache(maxsize=8192)
def _content_words(relation: str) -> frozenset[str]:
    """By their first five letters: a stemmer that never removes too little."""
    words = _WORD.findall(relation.casefold().replace("'s", ""))
    return frozenset(w[:5] for w in words if w not in _EMPTY_WORDS and len(w) > 1)


def _differs_in_a_word(new: str, old: str) -> bool:
    words = _content_words(new), _content_words(old)
    if not all(words) or words[0] == words[1] or _form(new) != _form(old):
        return False
    return not words[0] & words[1] or len(words[0] ^ words[1]) == 2


@functools.lru_cache(maxsize=8192)
def _form(relation: str) -> tuple[str, ...]:
    """The words that are no content words, in order."""
    words = _WORD.findall(relation.casefold())
    return tuple(w for w in words if w in _EMPTY_WORDS or len(w) == 1)


@functools.lru_cache(maxsize=8192)
def _answers(relation: str) -> frozenset[str]:
    text = relation.casefold()
    return frozenset(kind for kind, pattern in _ANSWERS.items() if pattern.search(text))


@functools.lru_cache(maxsize=8192)
def _concepts(relation: str) -> frozenset[str]:
    text = relation.casefold()
    return frozenset(
        name for name, pattern in _patterns("concepts").items() if pattern.search(text)
    )


@functools.lru_cache(maxsize=8192)
def _rule_relations(relation: str) -> frozenset[str]:
    text, table = relation.casefold(), _patterns("rules")
    return frozenset(name for name, pattern in table.items() if pattern.search(text))


@functools.cache
def _patterns(table: str) -> Mapping[str, re.Pattern[str]]:
    data = _data()
    texts = data["concepts"] if table == "concepts" else data["rules"]["relations"]
    return {name: re.compile(rf"\b(?:{text})\b") for name, text in texts.items()}


@functools.cache
def _weights() -> tuple[list[float], float, float]:
    """Weights in the order of :data:`FEATURES`, bias and threshold."""
    data = _data()
    if tuple(data.get("weights", ())) != FEATURES:
        raise ConfigError(
            f"the conflict weights in {_DATA} are for other features; make them again with "
            "'python benchmarks/conflicts.py train'"
        )
    return list(data["weights"].values()), float(data["bias"]), float(data["threshold"])


@functools.cache
def _data() -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_DATA} cannot be read ({error}); install memedit again") from error
    return data
