"""Where a text mentions the subjects of edits, in time linear in the text.

A :class:`SubjectLexicon` holds the names of a million subjects in one dictionary from a name in
normal form to the positions of its edits. A text is cut into tokens once; at each token the
names that could start there are looked up, longest first.

>>> lexicon = SubjectLexicon()
>>> lexicon.add(1, ["New York"])
>>> lexicon.add(2, ["New York Times"])
>>> [m.positions for m in lexicon.find("Who owns the new  york times, and who runs New York?")]
[(2,), (1,)]

The normal form: Unicode NFC, case folded, runs of white space one space, typographic apostrophes
and dashes as their ASCII kin. A token is a run of letters, digits and marks, or one other
character; scripts that are written without spaces give one token a character, so that a name is
found inside a sentence of theirs. A mention starts and ends between tokens, so ``France's`` and
``l'Italie`` mention France and Italie, while ``can't`` does not mention Can.
"""

from __future__ import annotations

import functools
import re
import string
import struct
import sys
import unicodedata
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Self

SHORT = 2
"""Names that are one token of at most this many characters count in their exact case only."""

STOP_WORDS = frozenset(
    """
    a about after all also an and any are as at be because been before being but by can could did
    do does done down else ever for from get had has have he her here hers him his how i if in into
    is it its just let made make may me might more most must my no nor not now of off on one or
    other our out over own per please she should so some such than that the their them then there
    these they this those through to too under until up upon very was we were what when where
    whether which while who whom whose why will with would yes yet you your
    """.split()
)
"""English function words: alone they are no evidence of a name, even when capitalised."""

_TITLES = frozenset(
    "mr mrs ms miss dr sir dame lord lady prof professor president minister senator governor "
    "king queen prince princess pope saint captain general".split()
)
# A title before a name leaves it the same person, unlike another part of a name.

_EXACT = "\n"
# Marks a key that is in its exact case; no normal form has a line break.
# Between names and between words on disk: white space, so that neither holds it.
_SEPARATOR = "\r"
_SIZES = struct.Struct("<5Q")
_CONTRACTIONS = frozenset(("s", "ll", "d", "ve", "re"))
_SAME = str.maketrans("’‘ʼ＇`´–—‐‑−", "''''''-----")
# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)


_SEVERAL = 8
# Up to so many positions of one name are a tuple, which takes less room than a set.
_AROUND = 64
# So many words on either side of a mention tell whether capitals mean anything there.


@dataclass(frozen=True, slots=True)
class Mention:
    """One place in a text that names the subject of one or more edits.

    Attributes:
        start, end: ``text[start:end]`` is the name as written, possessive ending left out;
            offsets in characters of the original text.
        positions: the positions it was added under, ascending.
        within_longer_name: another capitalised word beside it seems to make a longer name of it
            ("Porsche Carrera GT" for the subject "Porsche Carrera").
    """

    start: int
    end: int
    positions: tuple[int, ...]
    within_longer_name: bool


class SubjectLexicon:
    """Names of subjects and where texts mention them. Not thread-safe: its holder has the lock."""

    __slots__ = ("_begin", "_end", "_names", "_of")

    def __init__(self) -> None:
        # One int for the usual name with one edit, a tuple where it has several, and likewise
        # one string for the usual edit with one name: the tuples would be 100 MB at a million.
        self._names: dict[str, int | tuple[int, ...] | _Shared] = {}
        self._of: dict[int, str | tuple[str, ...]] = {}
        # A token -> bit n set where a name of n tokens begins, or ends, with it. Most runs of
        # tokens are ruled out by these two, which are small and stay in the processor's cache.
        # Bits stay after a removal: a stale one costs a failed look-up and nothing else.
        self._begin: dict[str, int] = {}
        self._end: dict[str, int] = {}

    def __len__(self) -> int:
        """How many different names are known."""
        return len(self._names)

    def __contains__(self, position: object) -> bool:
        """Whether names are known under this position."""
        return position in self._of

    def add(self, position: int, names: Iterable[str]) -> None:
        """Makes these names, a subject and its aliases, mentions of the edit at ``position``.

        A name of white space alone is ignored. Adding more names to a position keeps those it
        has.
        """
        held = self._of.get(position, ())
        known = dict.fromkeys((held,) if isinstance(held, str) else held)
        for name in names:
            if (read := _read_name(name)) is None:
                continue
            key, first, last, count = read
            if key in known:
                continue
            known[key] = None
            self._begin[first] = self._begin.get(first, 0) | 1 << count
            self._end[last] = self._end.get(last, 0) | 1 << count
            self._names[key] = _with(self._names.get(key), position)
        if known:
            keys = tuple(known)
            self._of[position] = keys if len(keys) > 1 else keys[0]

    def remove(self, position: int) -> None:
        """Forgets the names of this position; nothing happens where there are none."""
        keys = self._of.pop(position, ())
        for key in (keys,) if isinstance(keys, str) else keys:
            rest = _without(self._names[key], position)
            if rest is None:
                del self._names[key]
            else:
                self._names[key] = rest

    def find(self, text: str, most: int | None = None) -> list[Mention]:
        """The mentions in ``text``, from left to right; of names with ``most`` positions at most.

        A name inside the mention of a longer known name does not count; two mentions that
        merely overlap both do. Time is linear in the text, times the number of different name
        lengths (in tokens) that share a first token.
        """
        if not self._names:
            return []
        tokens = _Tokens(text)
        found: list[Mention] = []
        reached = 0
        end_of = self._end.get
        ends = [end_of(word, 0) for word in tokens.words]
        begin_of = self._begin.get
        for i, word in enumerate(tokens.words):
            lengths = begin_of(word)
            if lengths is None or not tokens.starts_name(i):
                continue
            # Only a name that ends beyond the last one found is not inside it.
            hit = self._longest(tokens, i, lengths, ends, reached, text)
            if hit is None:
                continue
            reached, held = hit
            start, end = tokens.starts[i], tokens.ends[reached - 1]
            if most is not None and not isinstance(held, int) and len(held) > most:
                continue
            positions = (held,) if isinstance(held, int) else _each(held)
            longer = _is_within_longer(tokens, i, reached, text)
            found.append(Mention(start, end, positions, longer))
        return found

    def positions(self) -> list[int]:
        """Every position that names are known under, in no order."""
        return list(self._of)

    def names_of(self, position: int) -> tuple[str, ...]:
        """The names of this position in normal form; empty where there are none."""
        held = self._of.get(position, ())
        keys = (held,) if isinstance(held, str) else held
        return tuple(key.removeprefix(_EXACT) for key in keys)

    def to_bytes(self) -> bytes:
        """All of it for :meth:`from_bytes`, which takes about half as long as adding it anew."""
        counts, positions = array("I"), array("q")
        for held in self._names.values():
            several = (held,) if isinstance(held, int) else _each(held)
            counts.append(len(several))
            positions.extend(several)
        if sys.byteorder == "big":
            counts.byteswap()
            positions.byteswap()
        parts = [
            _SEPARATOR.join(self._names).encode("utf-8", "surrogatepass"),
            counts.tobytes(),
            positions.tobytes(),
        ]
        for table in (self._begin, self._end):
            lines = _SEPARATOR.join(f"{word} {lengths:x}" for word, lengths in table.items())
            parts.append(lines.encode("utf-8", "surrogatepass"))
        return _SIZES.pack(*map(len, parts)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The lexicon that gave these bytes.

        Raises:
            ValueError: no lexicon gave them.
        """
        if len(data) < _SIZES.size or sum(_SIZES.unpack_from(data)) != len(data) - _SIZES.size:
            raise ValueError("these bytes are no lexicon, or a part of one")
        parts, at = [], _SIZES.size
        for size in _SIZES.unpack_from(data):
            parts.append(data[at : at + size])
            at += size
        counts, positions = array("I", parts[1]), array("q", parts[2])
        if sys.byteorder == "big":
            counts.byteswap()
            positions.byteswap()
        keys = _split(parts[0])
        if len(keys) != len(counts) or sum(counts) != len(positions):
            raise ValueError("the lexicon's names and positions do not fit")
        lexicon, following = cls(), iter(positions)
        lexicon._names = {
            key: next(following) if count == 1 else _held(tuple(islice(following, count)))
            for key, count in zip(keys, counts, strict=True)
        }
        for key, held in lexicon._names.items():
            for position in (held,) if isinstance(held, int) else _each(held):
                before = lexicon._of.setdefault(position, key)
                if before is not key:
                    known = before if isinstance(before, tuple) else (before,)
                    lexicon._of[position] = (*known, key)
        for table, part in ((lexicon._begin, parts[3]), (lexicon._end, parts[4])):
            for line in _split(part):
                word, _, lengths = line.rpartition(" ")
                table[word] = int(lengths, 16)
        return lexicon

    def _longest(
        self, tokens: _Tokens, i: int, lengths: int, ends: list[int], reached: int, text: str
    ) -> tuple[int, int | tuple[int, ...] | _Shared] | None:
        """``(token after the mention, positions)`` of the longest name that starts at token i.

        ``None`` where there is none that ends after the token ``reached``; bit n of ``ends[j]``
        is set where a name of n tokens may end with token j.
        """
        names, normal, at, to = self._names, tokens.normal, tokens.at[i], tokens.to
        count = len(to)
        while lengths:
            n = lengths.bit_length() - 1
            lengths ^= 1 << n
            stop = i + n
            if stop > count:
                continue
            if stop <= reached:
                return None
            if not ends[stop - 1] >> n & 1:
                continue
            held = names.get(normal[at : to[stop - 1]])
            if held is None and n == 1:
                written = text[tokens.starts[i] : tokens.ends[i]]
                held = names.get(_EXACT + unicodedata.normalize("NFC", written))
            if held is not None and tokens.ends_name(stop):
                return stop, held
        return None


class _Shared:
    """The positions of a name that many edits share: to add one takes no longer for the others."""

    __slots__ = ("_held", "_ordered")

    def __init__(self, positions: Iterable[int]) -> None:
        self._held = set(positions)
        self._ordered: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def add(self, position: int) -> None:
        self._held.add(position)
        self._ordered = None

    def discard(self, position: int) -> None:
        self._held.discard(position)
        self._ordered = None

    def in_order(self) -> tuple[int, ...]:
        """All of them, ascending; sorted anew only where they have changed."""
        if self._ordered is None:
            self._ordered = tuple(sorted(self._held))
        return self._ordered


def _held(positions: tuple[int, ...]) -> tuple[int, ...] | _Shared:
    return positions if len(positions) <= _SEVERAL else _Shared(positions)


def _each(held: tuple[int, ...] | _Shared) -> tuple[int, ...]:
    return held.in_order() if isinstance(held, _Shared) else held


def _split(part: bytes) -> list[str]:
    return part.decode("utf-8", "surrogatepass").split(_SEPARATOR) if part else []


def _with(
    held: int | tuple[int, ...] | _Shared | None, position: int
) -> int | tuple[int, ...] | _Shared:
    """The positions of a name, one more than before."""
    if held is None:
        return position
    if isinstance(held, _Shared):
        held.add(position)
        return held
    several = held if isinstance(held, tuple) else (held,)
    return _held(tuple(sorted((*several, position))))


def _without(
    held: int | tuple[int, ...] | _Shared, position: int
) -> int | tuple[int, ...] | _Shared | None:
    """The positions of a name without this one, ``None`` where it was the last."""
    if isinstance(held, _Shared):
        held.discard(position)
        return held if len(held) > _SEVERAL else held.in_order()
    rest = tuple(p for p in held if p != position) if isinstance(held, tuple) else ()
    return rest if len(rest) > 1 else rest[0] if rest else None


def mentions(text: str, names: Iterable[str]) -> list[tuple[int, int]]:
    """Where ``text`` mentions one of ``names``: ``(start, end)``, from left to right."""
    lexicon = SubjectLexicon()
    lexicon.add(0, names)
    return [(mention.start, mention.end) for mention in lexicon.find(text)]


def _read_name(name: str) -> tuple[str, str, str, int] | None:
    """A name's key, its first and last token and their number; ``None`` for white space."""
    if _PLAIN_NAME.fullmatch(name):
        # Most names by far, and a third of the time that the general way takes.
        key = name.lower()
        words = key.split(" ")
    else:
        tokens = _Tokens(name)
        words = tokens.words
        if not words:
            return None
        key = tokens.slice(0, len(words))
    first, count = words[0], len(words)
    if count == 1 and (len(first) <= SHORT or first in STOP_WORDS):
        key = _EXACT + unicodedata.normalize("NFC", name.strip())
    return key, first, words[-1], count


_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*")
# What the pattern below comes to in ASCII: three times as fast, and most texts are.
_ASCII_TOKEN = re.compile(r"[A-Za-z0-9]+(?:_+[A-Za-z0-9]+)*|\S")
_ASCII_SAME = str.maketrans(
    string.ascii_uppercase + "`\t\n\r\f\v\x1c\x1d\x1e\x1f",
    string.ascii_lowercase + "'" + 9 * " ",
)
_WIDE_SPACE = re.compile(r"\s\s")


@functools.cache
def _token_pattern() -> re.Pattern[str]:
    """One token a match. Built at first use: it asks Unicode for every combining mark."""
    # \w knows no combining marks, so a decomposed "é" or any vowel sign would end the word.
    codes = [c for c in range(0x300, 0xFE30) if unicodedata.category(chr(c)) in ("Mn", "Mc")]
    ranges: list[list[int]] = []
    for code in (*codes, 0x200C, 0x200D):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    marks = "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in ranges)
    letter = rf"(?:[^\W_{_UNSPACED}]|(?![{_UNSPACED}])[{marks}])"
    # An underscore inside a word belongs to it (snake_case is one word), around it it does not
    # (_emphasis_).
    return re.compile(rf"{letter}+(?:_+{letter}+)*|\S")


class _Tokens:
    """A text as tokens: their places in it, and the whole text in normal form.

    ``normal[at[i]:to[i]]`` is token i, so any run of tokens is one slice.
    """

    __slots__ = ("at", "ends", "normal", "starts", "to", "words")

    def __init__(self, text: str) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.words: list[str] = []
        self.at = self.starts
        self.to = self.ends
        if text.isascii():
            self._read_ascii(text)
        else:
            self._read(text)

    def _read_ascii(self, text: str) -> None:
        """Nothing changes its length here but wide white space, so most of it goes at once."""
        spans = [match.span() for match in _ASCII_TOKEN.finditer(text)]
        self.starts = self.at = [start for start, _ in spans]
        self.ends = self.to = [end for _, end in spans]
        if _WIDE_SPACE.search(text):
            self.normal = " ".join(text.split()).translate(_ASCII_SAME)
            spans = [match.span() for match in _ASCII_TOKEN.finditer(self.normal)]
            self.at = [start for start, _ in spans]
            self.to = [end for _, end in spans]
        else:
            self.normal = text.translate(_ASCII_SAME)
        normal = self.normal
        self.words = [normal[start:end] for start, end in spans]

    def _read(self, text: str) -> None:
        self.at, self.to = [], []
        parts: list[str] = []
        length = last = 0
        for match in _token_pattern().finditer(text):
            start, end = match.span()
            word = match.group()
            if word.isascii():
                word = word.lower() if word != "`" else "'"
            else:
                word = unicodedata.normalize("NFC", word).translate(_SAME).casefold()
                word = unicodedata.normalize("NFC", word)
            if start > last and parts:
                parts.append(" ")
                length += 1
            parts.append(word)
            self.at.append(length)
            length += len(word)
            self.to.append(length)
            self.starts.append(start)
            self.ends.append(end)
            self.words.append(word)
            last = end
        self.normal = "".join(parts)

    def slice(self, start: int, stop: int) -> str:
        """Tokens ``start`` to ``stop`` in normal form."""
        return self.normal[self.at[start] : self.to[stop - 1]]

    def glued(self, i: int) -> bool:
        """No white space before token i, and there is a token before it."""
        return 0 < i < len(self.words) and self.starts[i] == self.ends[i - 1]

    def starts_name(self, i: int) -> bool:
        """Whether a name may start at token i: not at the ending of "France's" or "3.11"."""
        if not (self.glued(i) and i > 1 and self.glued(i - 1)):
            return True
        before, joint = self.words[i - 2], self.words[i - 1]
        if joint == "'":
            return not (before[-1].isalnum() and self.words[i] in ("s", "t", "ll", "re", "ve"))
        return not (joint in ".," and before[-1].isdigit() and self.words[i][0].isdigit())

    def ends_name(self, stop: int) -> bool:
        """Whether a name may end before token ``stop``: not inside "can't", "O'Brien" or "3.11"."""
        if not (self.glued(stop) and self.glued(stop + 1)):
            return True
        joint, after, word = self.words[stop], self.words[stop + 1], self.words[stop - 1]
        if joint == "'" and word[-1].isalnum():
            return not after[0].isalnum() or after in _CONTRACTIONS
        return not (joint in ".," and word[-1].isdigit() and after[0].isdigit())


def _is_within_longer(tokens: _Tokens, start: int, stop: int, text: str) -> bool:
    """Whether a capitalised word beside tokens ``start`` to ``stop`` makes a longer name."""
    beside = []
    if stop < len(tokens.words):
        joined = stop + 1 if tokens.glued(stop) and tokens.words[stop] == "-" else stop
        plain = joined == stop and not tokens.glued(stop) and tokens.words[stop - 1] != "."
        hyphen = joined > stop and tokens.glued(joined)
        if (plain or hyphen) and _is_capitalised(tokens, joined, text):
            beside.append(joined)
    if start > 0:
        before = start - 1
        if tokens.words[before] == "-" and tokens.glued(start) and tokens.glued(before):
            before -= 1
        elif tokens.words[before] == "." and before > 0 and tokens.glued(before):
            before -= 1
            if tokens.ends[before] - tokens.starts[before] != 1:  # "J. Brill", not "end. Brill"
                before = -1
        elif tokens.glued(start):
            before = -1
        if (
            before >= 0
            and _is_capitalised(tokens, before, text)
            and tokens.words[before] not in _TITLES
            and not _opens_sentence(tokens, before, text)
        ):
            beside.append(before)
    return bool(beside) and _case_tells(tokens, start, stop, beside, text)


def _is_capitalised(tokens: _Tokens, i: int, text: str) -> bool:
    if not 0 <= i < len(tokens.words):
        return False
    return text[tokens.starts[i]].isupper() and tokens.words[i] not in STOP_WORDS


def _opens_sentence(tokens: _Tokens, i: int, text: str) -> bool:
    """Whether token i is the first word of the text, of a sentence, of a line or of a quotation."""
    if i == 0 or "\n" in text[tokens.ends[i - 1] : tokens.starts[i]]:
        return True
    return tokens.words[i - 1] in {".", "!", "?", ":", ";", "…", '"', "“", "(", "*", ">", "¿", "¡"}


def _case_tells(tokens: _Tokens, start: int, stop: int, beside: list[int], text: str) -> bool:
    """Whether capitals mean anything here: not in a headline, in shouting or in uncased text.

    A headline leaves function words small, so they tell only where nothing else is capitalised.
    The words around the mention decide, so that a long text takes no longer per mention.
    """
    small = other_capital = False
    for i in range(max(0, start - _AROUND), min(len(tokens.words), stop + _AROUND)):
        word = tokens.words[i]
        if start <= i < stop or i in beside or not word[0].isalpha():
            continue
        first = text[tokens.starts[i]]
        if first.islower():
            if word not in STOP_WORDS and len(word) > 1:
                return True
            small = True
        elif first.isupper() and word not in STOP_WORDS and not _opens_sentence(tokens, i, text):
            other_capital = True
    return small and not other_capital
