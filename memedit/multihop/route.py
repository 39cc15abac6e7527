"""The route of a question that was answered hop by hop: the facts go in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memedit.edits import Edit
from memedit.protocols import Route

NAME = "mello-guided"


class GuidedRoute:
    """Shows the facts of a chain, the first hop first, and leaves the caller's words as they are.

    The model answers the question itself, so that tone, language and form are what was asked for.

    Args:
        inner: puts facts in front of a question; it is given the one to stand last first.
    """

    def __init__(self, inner: Route) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """What headers call it."""
        return NAME

    def rewrites(self, prompt: Any, edits: Sequence[Edit]) -> Sequence[Any]:
        """The prompt with the facts; see :class:`memedit.protocols.Route`."""
        return self._inner.rewrites(prompt, edits[::-1])
