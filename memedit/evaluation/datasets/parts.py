"""Parts of a dataset by subject, so that nothing is reported on what something was fitted to.

The scope classifier was fitted on the ``fit`` part of knowedit, zsre and PokeMQA and calibrated on
their ``hold`` part (:mod:`memedit.training`, which splits by this rule with these shares). A figure
over ``report`` has seen neither.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from memedit.evaluation.cases import Case

Part = Literal["fit", "hold", "report"]

PARTS: tuple[Part, ...] = ("fit", "hold", "report")
FIT = 0.35
"""Share of subjects in ``fit``."""
HOLD = 0.15
"""Share of subjects in ``hold``; the rest is ``report``."""


def part_of(subject: str, fit: float = FIT, hold: float = HOLD) -> Part:
    """The part that a subject belongs to: the same on every machine and in every run.

    The first 64 bits of the SHA-256 of the subject, in folded case and with runs of white space
    made one, read as a share of the whole.

    Args:
        subject: the subject of a case's first edit.
        fit: share of subjects in ``fit``, 0 to 1.
        hold: share of subjects in ``hold``, 0 to 1.
    """
    digest = hashlib.sha256(" ".join(subject.casefold().split()).encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return "fit" if share < fit else "hold" if share < fit + hold else "report"


def subject_of(case: Case) -> str:
    """The text that places a case: its first edit's subject, or the statement that has none."""
    first = case.edits[0]
    return first.subject or first.statement
