"""Does an answer state the new fact, and not the old one?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLE = re.compile(r"^(?:the|an?) ")


def normalised(text: str) -> str:
    """Lower case, compatibility forms, one space between words, no leading article."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return _ARTICLE.sub("", " ".join(folded.split()))


def mentions(answer: str, fact: str) -> bool:
    """Whether ``fact`` stands in ``answer`` as whole words, in any case, article or not."""
    wanted = normalised(fact)
    if not wanted:
        return False
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", normalised(answer)) is not None


def took(answer: str, new: str, old: Iterable[str] = ()) -> bool:
    """Whether an answer states the new fact and none of the old ones.

    An old fact that is part of the new one's name ("York", "New York") does not count against it.

    Args:
        answer: what the model said.
        new: the new target.
        old: the answers that the edit replaces.
    """
    if not mentions(answer, new):
        return False
    rest = normalised(answer).replace(normalised(new), " ")
    return not any(mentions(rest, fact) for fact in old)
