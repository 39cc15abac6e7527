"""Where a text names a subject in part, or in another spelling: "Shirley Johnson" for "Shirley Z.
Johnson", "Dwight Craig Horn" for "D. Craig Horn", "Giamarellou" for "Giamarelou".

A :class:`VariantIndex` holds the words of a million names in one dictionary, by their first five
letters, so that a text costs a look-up a word. What it finds is compared with the name word by
word; :data:`FEATURES` says how like they are, and whoever asks decides what is enough.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from memedit.lexicon import STOP_WORDS

FEATURES = (
    "covered",  # share of the name's letters that the text has
    "first",  # the name's first word is there, or its initial
    "last",  # its last word is there
    "words",  # how many of its words are there, up to three, less one
    "whole",  # all of them are
    "strangers",  # capitalised words beside them that are no part of it, up to two
    "clash",  # there are such words, and words of the name are missing: two people, likely
    "initials_clash",  # initials beside them that it does not have
    "numbers_clash",  # a word with digits that one of both has and the other has not
    "misspelt",  # a word of it is there in another spelling only
    "turned",  # its words are there in another order
    "alike",  # likeness of both letter by letter
    "initials",  # words of the name that are there by an initial only, up to two
    "behind",  # strangers behind the last of its words, up to two
    "longer",  # all of its words are there, and strangers behind them: another thing's name
    "replaced",  # its last word is missing, and a stranger is in its place
    "single",  # it is one word, and there are strangers beside it
    "other_numbers",  # each has a number that the other has not
    "common",  # log of one more than the edits that share the rarest of these words
    "rivals",  # another name is as like what stands there
    "others",  # other names that have as many words there, up to two
)
"""What a variant is judged by, in the order of :attr:`Variant.features`."""

TITLES = frozenset(
    "mr mrs ms miss dr sir dame lord lady prof professor president minister senator governor king "
    "queen prince princess pope saint st captain capt general gen rev reverend hon fr father "
    "sister brother sgt col colonel major lt judge justice baron count countess duke duchess earl "
    "jr sr phd md".split()
)
"""Words beside a name that leave its bearer the same."""

_SHORT_FORMS = {
    short: frozenset(full)
    for short, *full in map(
        str.split,
        (
            "abe abraham", "al albert alfred alan", "alex alexander alexandra", "andy andrew",
            "bert albert herbert robert", "beth elizabeth", "betty elizabeth", "bill william",
            "billy william", "bob robert", "bobby robert", "cathy catherine", "charlie charles",
            "chuck charles", "dan daniel", "dave david", "dick richard", "don donald",
            "ed edward edwin", "eddie edward", "fred frederick alfred", "gene eugene",
            "gus august gustav", "hank henry", "harry henry harold", "jack john", "jake jacob",
            "jerry gerald jerome", "jim james", "jimmy james", "joe joseph", "johnny john",
            "kate katherine catherine", "larry lawrence", "len leonard", "liz elizabeth",
            "maggie margaret", "matt matthew", "mike michael", "molly mary", "ned edward",
            "nick nicholas", "peggy margaret", "pete peter", "polly mary", "ray raymond",
            "rick richard", "rob robert", "ron ronald", "sally sarah", "sam samuel",
            "steve stephen steven", "sue susan", "ted edward theodore", "tim timothy",
            "tom thomas", "tommy thomas", "tony anthony", "vic victor", "walt walter",
            "will william",
        ),
    )
}  # fmt: skip
"""English given names by their short forms."""

_LETTERS = 5
_RARE = 128
# A word that more edits share than this is looked at only beside another word of the same name.
_LOOKED_AT = 24
_LEAST = 0.3
_NEAR = 3
_NUMERAL = re.compile(r"[ivx]+")
_INITIALS = 3
# Up to so many capitals in one word may be initials: "RF Hashimoto".
_COVERED, _ALIKE, _SHARED = map(FEATURES.index, ("covered", "alike", "words"))
_Compared = tuple[tuple[int, int], tuple[float, ...]]
_WORD = re.compile(r"\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_HEAD = re.compile(r"(.{4,}?)\s*(?:[:,(]|\s[–-]\s)")
_SPELT = str.maketrans({"ß": "ss", "ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "ı": "i"})
_ALSO = re.compile(r"([aou])e|([a-z])(?=\2)")
_BETWEEN = re.compile(r"[\s.,\-–’'\"“”()]{0,3}")


@dataclass(frozen=True, slots=True)
class Variant:
    """A place in a text that may name the subject of an edit.

    Attributes:
        position: of the edit.
        start, end: ``text[start:end]`` is what stands for the name.
        features: :data:`FEATURES` of it.
    """

    position: int
    start: int
    end: int
    features: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    plain: str
    capital: bool
    initials: bool


class VariantIndex:
    """The words of names, and the texts that have some of them. Not thread-safe.

    Args:
        names_of: the names of the edit at a position, all that were added and no other.
    """

    __slots__ = ("_count", "_names_of", "_positions")

    def __init__(self, names_of: Callable[[int], Sequence[str]]) -> None:
        self._names_of = names_of
        self._positions: dict[str, array[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many names are known."""
        return self._count

    def add(self, position: int, names: Iterable[str]) -> None:
        """Makes the words of these names lead to the edit at ``position``."""
        kept = tuple(names)
        self._count += len(kept)
        for key in dict.fromkeys(key for name in kept for key in _keys(name)):
            held = self._positions.get(key)
            if held is None:
                self._positions[key] = array("q", (position,))
            elif position not in held[-1:]:
                held.append(position)

    def remove(self, position: int) -> None:
        """Forgets the names of this position; to be called while ``names_of`` still gives them."""
        names = self._names_of(position)
        self._count -= len(names)
        for key in dict.fromkeys(key for name in names for key in _keys(name)):
            held = self._positions[key]
            held.remove(position)
            if not held:
                del self._positions[key]

    def find(
        self,
        text: str,
        exclude: Iterable[tuple[int, int]] = (),
        include: Iterable[int] = (),
    ) -> list[Variant]:
        """The variants of names in ``text``, at most one an edit, the likeliest first.

        Args:
            text: what may name subjects.
            exclude: spans, as ``(start, end)``, that name somebody for certain.
            include: positions to compare in any case, where a word of theirs is there.
        """
        if not self._count:
            return []
        words = _words_outside(text, exclude)
        near = self._near(words, frozenset(include))
        return self._found(text, words, [(position, [at]) for position, at in near])

    def scan(
        self, text: str, positions: Iterable[int], exclude: Iterable[tuple[int, int]] = ()
    ) -> list[Variant]:
        """What :meth:`find` would find if it compared each word with each of these edits' names.

        It is slow: it is there to tell what ``find`` misses.
        """
        words = _words_outside(text, exclude)
        places = [i for i, word in enumerate(words) if _counts(word)]
        return self._found(text, words, [(position, places) for position in positions])

    def _found(
        self, text: str, words: Sequence[_Word], where: Iterable[tuple[int, Sequence[int]]]
    ) -> list[Variant]:
        """The likeliest variant of each edit's names around one of the words named for it."""
        found = []
        for position, places in where:
            known = [form for name in self._names_of(position) for form in _forms(name)]
            compared = [(_compared(text, words, at, form), at) for at in places for form in known]
            likeliest: tuple[_Compared, int] | None = max(
                ((one, at) for one, at in compared if one is not None),
                key=lambda pair: _likely(pair[0]),
                default=None,
            )
            if likeliest is not None:
                ((start, end), row), at = likeliest
                common = math.log1p(len(self._positions.get(_key(words[at].plain), ())))
                found.append(Variant(position, start, end, (*row, common, 0.0, 0.0)))
        found.sort(key=lambda v: (-_likely(((0, 0), v.features)), v.position))
        return self._marked(found)

    def _marked(self, found: Sequence[Variant]) -> list[Variant]:
        """The variants with their last two features: what else may be named where each stands."""
        known = [
            (v, _likely(((0, 0), v.features)), v.features[_SHARED], self._names_of(v.position))
            for v in found
        ]
        marked = []
        for variant, likeness, shared, names in known:
            start, end = variant.start, variant.end
            rivals = others = 0
            for other, its_likeness, its_shared, its_names in known:
                if (
                    other.start < end
                    and start < other.end
                    and (its_shared >= shared or its_likeness >= likeness)
                    and other is not variant
                    and set(names).isdisjoint(its_names)
                ):
                    rivals += its_likeness >= likeness
                    others += its_shared >= shared
            if others or rivals:
                last = (float(rivals > 0), float(min(2, others)))
                variant = replace(variant, features=(*variant.features[:-2], *last))
            marked.append(variant)
        return marked

    def _near(self, words: Sequence[_Word], include: frozenset[int]) -> list[tuple[int, int]]:
        """Edits that share a rare word with the text, or two words that stand together.

        Returns:
            ``(position, index of the rarest word)``, those that share the most first.
        """
        keyed = [(i, self._positions.get(_key(word.plain))) for i, word in enumerate(words)]
        hits = [(i, held) for i, held in keyed if held is not None and _counts(words[i])]
        worth: dict[int, float] = {}
        rarest: dict[int, tuple[int, int]] = {}
        for n, (i, held) in enumerate(hits):
            shared: Iterable[int] = held
            if len(held) > _RARE:
                beside = [o for j, o in hits[max(0, n - 2) : n + 3] if 0 < abs(j - i) <= _NEAR]
                shared = {p for other in beside for p in _common(held, other)}
                shared |= include.intersection(held)
            weight = math.log(1 + self._count / len(held))
            for position in shared:
                worth[position] = worth.get(position, 0.0) + weight
                rarest[position] = min(rarest.get(position, (len(held), i)), (len(held), i))
        ranked = sorted(worth, key=lambda p: (p not in include, -worth[p], p))
        return [(position, rarest[position][1]) for position in ranked[:_LOOKED_AT]]


def _common(one: array[int], other: array[int]) -> set[int]:
    small, large = sorted((one, other), key=len)
    return set(small).intersection(large)


def _counts(word: _Word) -> bool:
    return word.plain not in STOP_WORDS and (len(word.plain) > 1 or not word.plain.isascii())


def _key(word: str) -> str:
    """What a word is found by: "Jürg" and "Juerg", "Feilding" and "Feillding" have one key each."""
    return _ALSO.sub(r"\1", word)[:_LETTERS]


@functools.lru_cache(maxsize=65_536)
def _forms(name: str) -> tuple[str, ...]:
    """A name, and what stands before its first colon, comma or bracket, where there is one."""
    head = _HEAD.match(name)
    return (name,) if head is None else (name, head[1])


@functools.lru_cache(maxsize=65_536)
def _parts(name: str) -> tuple[str, ...]:
    return tuple(word.plain for word in _words(name))


def _keys(name: str) -> list[str]:
    parts = _parts(name)
    return [_key(part) for part in parts if part not in STOP_WORDS] or [_key(p) for p in parts]


def _words(text: str) -> list[_Word]:
    shouted = text.isupper()
    found: list[_Word] = []
    for match in _WORD.finditer(text):
        word = match.group()
        capital = word[0].isupper() or word[0].isdigit()
        initials = len(word) <= _INITIALS and word.isupper() and bool(found) and not shouted
        found.append(_Word(*match.span(), fold(word), capital, initials))
    return found


def _words_outside(text: str, spans: Iterable[tuple[int, int]]) -> list[_Word]:
    taken = list(spans)
    return [w for w in _words(text) if not any(a < w.end and w.start < b for a, b in taken)]


@functools.lru_cache(maxsize=65_536)
def fold(text: str) -> str:
    """Without case and without marks; the apostrophes inside words go too."""
    if text.isascii():
        return text.lower().replace("'", "")
    plain = unicodedata.normalize("NFKD", text.casefold().translate(_SPELT))
    return "".join(c for c in plain if not unicodedata.combining(c) and c not in "'’")


def _likely(compared: _Compared) -> float:
    """What variants are put in order by: the share of the name, and its likeness as a whole."""
    return compared[1][_COVERED] + compared[1][_ALIKE]


def _compared(text: str, words: Sequence[_Word], at: int, name: str) -> _Compared | None:
    """Where around ``words[at]`` the name is meant, and :data:`FEATURES` but the last of it.

    ``None`` where too little of the name is there.
    """
    parts = _parts(name)
    run = _run(text, words, at, parts)
    place, misspelt = _placed(run, parts)
    if not place:
        return None
    every = range(len(parts))
    wanted = [j for j in every if parts[j] not in STOP_WORDS] or list(every)
    shortened = {
        j for i, js in place.items() for j in js if run[i].plain != parts[j] and _short(run[i], js)
    }
    got = {j for js in place.values() for j in js}
    covered = sum(
        len(parts[j]) * (0.5 if j in shortened and len(parts[j]) > 1 else 1.0)
        for j in got.intersection(wanted)
    ) / max(1, sum(len(parts[j]) for j in wanted))
    if covered < _LEAST:
        return None
    beside = [i for i, w in enumerate(run) if i not in place and not _is_stop(w, parts)]
    strange = [i for i in beside if run[i].plain not in TITLES and len(run[i].plain) > 1]
    strangers = len(strange)
    behind = sum(i > max(place) for i in strange)
    whole = got >= set(wanted)
    numbers = {w.plain for w in run if _is_number(w.plain)}
    known = {part for part in parts if _is_number(part)}
    order = [place[i][0] for i in sorted(place)]
    meant = " ".join(w.plain for w in run if w.plain not in TITLES)
    return (run[0].start, run[-1].end), (
        covered,
        float(wanted[0] in got),
        float(wanted[-1] in got),
        min(3, len(got & set(wanted))) - 1.0,
        float(whole),
        float(min(2, strangers)),
        float(strangers > 0 and not whole),
        float(any(len(run[i].plain) == 1 and not run[i].plain.isdigit() for i in beside)),
        float(numbers != known),
        float(misspelt),
        float(order != sorted(order)),
        SequenceMatcher(None, meant, " ".join(parts), autojunk=False).ratio(),
        float(min(2, len(shortened))),
        float(min(2, behind)),
        float(whole and behind > 0),
        float(wanted[-1] not in got and behind > 0),
        float(len(wanted) == 1 and strangers > 0),
        float(bool(numbers - known) and bool(known - numbers)),
    )


def _short(word: _Word, places: Sequence[int]) -> bool:
    """Whether a word stands for parts of a name by their initials."""
    return len(word.plain) == 1 or len(places) > 1


def _run(text: str, words: Sequence[_Word], at: int, parts: Sequence[str]) -> Sequence[_Word]:
    """The words around ``words[at]`` that may together be a name."""
    cased = any(not word.capital for word in words) or len(words) < 3
    first = last = at
    while (
        first > 0
        and _joined(text, words[first - 1], words[first])
        and _belongs(words[first - 1], parts, cased and first > 1)
    ):
        first -= 1
    while (
        last + 1 < len(words)
        and _joined(text, words[last], words[last + 1])
        and _belongs(words[last + 1], parts, cased)
    ):
        last += 1
    while first < at and _is_stop(words[first], parts):
        first += 1
    while last > at and _is_stop(words[last], parts):
        last -= 1
    return words[first : last + 1]


def _placed(run: Sequence[_Word], parts: Sequence[str]) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Which word is which parts of the name, and whether one is so only in another spelling."""
    place: dict[int, tuple[int, ...]] = {}
    misspelt = False
    for i, word in enumerate(run):
        free = [j for j in range(len(parts)) if all(j not in js for js in place.values())]
        hit = next((j for j in free if parts[j] == word.plain), None)
        if hit is None and (several := _initials(word, parts, free)):
            place[i] = several
            continue
        if hit is None:
            # Before initials: "Solomonidis" is not the "S." of "S. Solomonides".
            hit = next((j for j in free if _respelt(word.plain, parts[j])), None)
            misspelt = misspelt or hit is not None
        if hit is None:
            hit = next((j for j in free if _initial(word.plain, parts[j])), None)
        if hit is not None:
            place[i] = (hit,)
    return place, misspelt


def _initials(word: _Word, parts: Sequence[str], free: Sequence[int]) -> tuple[int, ...]:
    """The parts that a word in capitals has the initials of, in their order: "RF"; else none."""
    if not word.initials or len(word.plain) < 2:
        return ()
    found: list[int] = []
    for letter in word.plain:
        hit = next((j for j in free if j not in found and parts[j][0] == letter), None)
        if hit is None:
            return ()
        found.append(hit)
    return tuple(found)


def _is_stop(word: _Word, parts: Sequence[str]) -> bool:
    """Whether a word is no part of a name; "A" may be an initial, and "ON" the initials of one."""
    if word.plain not in STOP_WORDS:
        return False
    if not word.initials or word.plain in parts:
        return True
    return len(word.plain) > 1 and not set(word.plain) <= {part[0] for part in parts}


def _joined(text: str, left: _Word, right: _Word) -> bool:
    return _BETWEEN.fullmatch(text, left.end, right.start) is not None


def _belongs(word: _Word, parts: Sequence[str], cased: bool) -> bool:
    """Whether a word beside a name may be part of what is named."""
    if word.plain in parts:
        return True
    if _is_stop(word, parts):
        return cased and word.capital and len(word.plain) > 2
    if cased and word.capital:
        return True
    return any(_respelt(word.plain, part) for part in parts)


def _is_number(word: str) -> bool:
    """Whether a word has digits, or is a Roman numeral of several letters."""
    return any(map(str.isdigit, word)) or (len(word) > 1 and bool(_NUMERAL.fullmatch(word)))


def _initial(word: str, part: str) -> bool:
    if len(word) != 1 != len(part) or len(word) == len(part) or word[0] != part[0]:
        return False
    return (
        word.isalpha() and part.isalpha() and _NUMERAL.fullmatch(max(word, part, key=len)) is None
    )


@functools.lru_cache(maxsize=65_536)
def _respelt(word: str, part: str) -> bool:
    if part in _SHORT_FORMS.get(word, ()) or word in _SHORT_FORMS.get(part, ()):
        return True
    if min(len(word), len(part)) < 3 or _is_number(word) or _is_number(part):
        return False
    if word[:3] == part[:3] and (word.startswith(part) or part.startswith(word)):
        return True
    if min(len(word), len(part)) < 4 or word[0] != part[0]:
        return False
    return SequenceMatcher(None, word, part, autojunk=False).ratio() >= 0.75
