"""Does an answer state the new fact, and not the old one?

Names are compared as whole words after :func:`normalised`. All names that could be meant are
looked for at once, the longest first, so that "New York" never counts as "York", nor "Nintendo
DSi" as "Nintendo". A name right behind "not" or "instead of" is mentioned, but not asserted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_ARTICLE = re.compile(r"^(?:the|an?) (?=\S)")
_DENIED = re.compile(
    r"\b(?:not|no longer|never|neither|nor|isn't|wasn't|aren't|weren't|rather than|instead of"
    r"|as opposed to|formerly|previously|replacing|replaces|replaced)"
    r"(?: (?:the|an?|in|at|by|from|of|to))*[ \"'(]*$"
)
# Scripts that are written without spaces: a name in them has no word boundaries.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-") | {"’": "'", "‘": "'", "“": '"', "”": '"'})


def normalised(text: str) -> str:
    """The form in which names are compared.

    Lower case, compatibility forms (NFKC), no accents on letters, plain quotes and dashes, one
    space between words, no leading article.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_DASHES)
    apart = unicodedata.normalize("NFD", folded)
    plain = "".join(char for char in apart if not "\u0300" <= char <= "\u036f")
    return _ARTICLE.sub("", " ".join(unicodedata.normalize("NFC", plain).split()))


@dataclass(frozen=True, slots=True)
class Stated:
    """What an answer asserts: an accepted name, a denied one, both or neither."""

    accepted: bool
    denied: bool

    @property
    def took(self) -> bool:
        """Whether it states the new fact and not the old one."""
        return self.accepted and not self.denied


def stated(
    answer: str,
    accepted: Iterable[str],
    denied: Iterable[str] = (),
    *,
    aside: Iterable[str] = (),
) -> Stated:
    """What an answer asserts.

    Args:
        answer: what the model said.
        accepted: the names of the right answer. A name that is also denied is accepted.
        denied: the names of answers that must not be asserted beside it.
        aside: names that mean neither where they are longer than one that they hold: the
            question's subject ("Nintendo DSi", where "Nintendo" is the old answer).
    """
    roles: dict[str, str] = {}
    for role, names in (("accepted", accepted), ("denied", denied), ("aside", aside)):
        for name in names:
            if wanted := normalised(name):
                roles.setdefault(wanted, role)
    if not roles:
        return Stated(False, False)
    text = normalised(answer)
    found = {
        roles[match.group()]
        for match in _pattern(tuple(sorted(roles, key=lambda name: (-len(name), name)))).finditer(
            text
        )
        if not _DENIED.search(text[max(0, match.start() - 48) : match.start()])
    }
    return Stated("accepted" in found, "denied" in found)


def mentions(answer: str, fact: str) -> bool:
    """Whether ``fact`` stands in ``answer`` as whole words, asserted or not."""
    wanted = normalised(fact)
    return bool(wanted) and _pattern((wanted,)).search(normalised(answer)) is not None


def took(answer: str, new: str, old: Iterable[str] = ()) -> bool:
    """Whether an answer states the new fact and none of the old ones; see :func:`stated`."""
    return stated(answer, [new], old).took


@lru_cache(maxsize=4096)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Any of these normalised names, as whole words; the first that fits."""
    return re.compile("|".join(_bounded(name) for name in names))


def _bounded(name: str) -> str:
    before = "" if _UNSPACED.match(name[0]) or not _is_word(name[0]) else r"(?<!\w)"
    after = "" if _UNSPACED.match(name[-1]) or not _is_word(name[-1]) else r"(?!\w)"
    return f"{before}{re.escape(name)}{after}"


def _is_word(char: str) -> bool:
    return char == "_" or char.isalnum()
