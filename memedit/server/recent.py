"""The last prompts that a server decided on, for dry runs to try an edit on; off unless asked for.

They are what users wrote, so they stay in main memory, are never logged and never written to a
disk, and go when the server ends. Only a dry run shows them, to a key that may look at the
namespace they were asked in.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

_NAMESPACES = 64
"""Namespaces with prompts: where no keys were made, callers name as many as they like."""

_LONGEST = 4_096
"""Longer prompts are not kept, in characters: documents would fill the memory."""


class RecentPrompts:
    """The latest different prompts of each namespace. Thread-safe.

    Args:
        most: how many of a namespace are kept; 0 for none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._of: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()

    def saw(self, prompts: Sequence[str], namespace: str) -> None:
        """Keeps these, each in the place of the oldest; one that is kept already is counted."""
        if not self.most:
            return
        with self._lock:
            kept = self._of.setdefault(namespace, OrderedDict())
            self._of.move_to_end(namespace)
            if len(self._of) > _NAMESPACES:
                self._of.popitem(last=False)
            for prompt in prompts:
                if prompt.strip() and len(prompt) <= _LONGEST:
                    kept[prompt] = kept.pop(prompt, 0) + 1
            while len(kept) > self.most:
                kept.popitem(last=False)

    def of(self, namespace: str) -> list[tuple[str, int]]:
        """The prompts of a namespace, the latest first, each with how often it came meanwhile."""
        with self._lock:
            return list(reversed(self._of.get(namespace, {}).items()))
