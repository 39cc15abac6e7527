"""Whom a text names: by a name as it is known, by a variant of it, or by the answer.

:class:`Names` puts together the lexicon of subjects, the index of their variants and the lexicon
of targets ("Which company does Maria Keller run?"): what they find in a text is what scope is
decided among, before anything is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from memedit.lexicon import Mention, SubjectLexicon
from memedit.variants import VariantIndex

VARIANTS = 8
"""Most edits whose subject a text is taken to name by a variant."""

ANSWERS = 8
"""Most edits that are found by their target; a target that more edits share finds none of them."""

SCANNED = 20_000
"""So many characters of a text are searched for variants; names as they are known, in all."""


@dataclass(frozen=True, slots=True)
class Named:
    """An edit's subject, or its target, in a text.

    Attributes:
        position: of the edit.
        start, end: ``text[start:end]`` names it.
        likeness: how like the name this is (:data:`memedit.variants.FEATURES`); ``None`` where it
            is the name.
        answer: what is named is the target.
    """

    position: int
    start: int
    end: int
    likeness: tuple[float, ...] | None = None
    answer: bool = False

    @property
    def is_name(self) -> bool:
        """Whether this is the subject's name or an alias, as it is known."""
        return self.likeness is None and not self.answer


_ARTICLE = len("the ")
_BEFORE = 48
# "Christina I of Sweden", "Charles XIV John of Sweden": Sweden is part of a person's name.
_RULER = re.compile(r"\b[^\W\d_a-z]\w+ [IVXL]+(?: [^\W\d_a-z]\w+)?,? of (?:the )?$")


class Names:
    """The names of edits, and the texts that name them. Not thread-safe.

    Args:
        lexicon: the names as they are known; those in it already are taken over. The index of
            variants is built from it when it is first needed.
        targets: likewise the targets.
    """

    __slots__ = ("_variants", "lexicon", "targets")

    def __init__(
        self, lexicon: SubjectLexicon | None = None, targets: SubjectLexicon | None = None
    ) -> None:
        self.lexicon = lexicon or SubjectLexicon()
        self.targets = targets or SubjectLexicon()
        self._variants: VariantIndex | None = None

    def add(self, position: int, names: Iterable[str], target: str | None = None) -> None:
        """Makes these names, and the target, lead to the edit at ``position``."""
        if target is not None:
            self.targets.add(position, [target])
        known = self.lexicon.names_of(position)
        self.lexicon.add(position, names)
        if self._variants is not None:
            new = [name for name in self.lexicon.names_of(position) if name not in known]
            self._variants.add(position, new)

    def remove(self, position: int) -> None:
        """Forgets the names of this position; nothing happens where there are none."""
        if self._variants is not None:
            self._variants.remove(position)
        self.lexicon.remove(position)
        self.targets.remove(position)

    @property
    def variants(self) -> VariantIndex:
        """The index of variants; the first use takes some seconds a million names."""
        if self._variants is None:
            self._variants = VariantIndex(self.lexicon.names_of)
            for position in self.lexicon.positions():
                self._variants.add(position, self.lexicon.names_of(position))
        return self._variants

    def find(self, text: str) -> list[Named]:
        """Each edit that the text names, once: by a known name, by a variant, by its target."""
        whole: dict[int, Mention] = {}
        longer: dict[int, Mention] = {}
        lands: set[int] = set()
        for mention in self.lexicon.find(text):
            if _RULER.search(text, max(0, mention.start - _BEFORE), mention.start):
                lands.update(mention.positions)
                continue
            into = longer if mention.within_longer_name else whole
            for position in mention.positions:
                known = into.setdefault(position, mention)
                if mention.end - mention.start > known.end - known.start:
                    into[position] = mention
            for position in self._without_article(text, mention):
                into.setdefault(position, replace(mention, start=mention.start + _ARTICLE))
        found = [Named(position, m.start, m.end) for position, m in whole.items()]
        part = text[:SCANNED]
        spans = {(m.start, m.end) for m in whole.values()}
        likely = self.variants.find(part, spans, longer.keys() - whole.keys())
        found += [
            Named(v.position, v.start, v.end, v.features)
            for v in [v for v in likely if v.position not in {*whole, *lands}][:VARIANTS]
        ]
        known_already = {one.position for one in found}
        answers = [
            Named(position, mention.start, mention.end, answer=True)
            for mention in self.targets.find(part, ANSWERS)
            if not mention.within_longer_name
            for position in mention.positions
            if position not in known_already
        ]
        return found + list({one.position: one for one in answers}.values())[:ANSWERS]

    def _without_article(self, text: str, mention: Mention) -> tuple[int, ...]:
        """Whose name what is mentioned is but for its "the": "Simpsons" for "The Simpsons"."""
        if text[mention.start : mention.start + _ARTICLE].lower() != "the ":
            return ()
        rest = text[mention.start + _ARTICLE : mention.end]
        inner = self.lexicon.find(rest)
        return inner[0].positions if inner and inner[0].end - inner[0].start == len(rest) else ()
