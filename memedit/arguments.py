"""What callers of a memory may give: names of namespaces, notes, counts."""

from __future__ import annotations

import re

from memedit.errors import InvalidInput

DEFAULT_NAMESPACE = "default"
"""The namespace of whoever names none."""

MAX_NOTE = 2_000
"""Longest author or reason, in characters."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_namespace(namespace: object) -> None:
    """Raises InvalidInput where this cannot name a namespace."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"the namespace {namespace!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )


def check_note(text: object, name: str) -> None:
    """Raises InvalidInput where this cannot be an author or a reason, as ``name`` says."""
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be text, not {type(text).__name__}")
    if len(text) > MAX_NOTE:
        raise InvalidInput(f"{name} has {len(text):,} characters; at most {MAX_NOTE:,} are taken")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} holds a lone surrogate; send valid Unicode") from error


def check_k(k: int) -> None:
    """Raises InvalidInput where no ``k`` edits can be looked for."""
    if k < 1:
        raise InvalidInput(f"k is {k}; it must be at least 1")
