"""For how long a decision stays true: until the memory's file or the clock changes it."""

from __future__ import annotations

import bisect
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from memedit.errors import MemeditError
from memedit.journal.file import Journal

logger = logging.getLogger("memedit.server")

_CHUNK = 500
_UNKNOWN = 1.0
"""Seconds for which a decision counts while the moments at which edits begin are being read."""


class Stamp(NamedTuple):
    """When a decision is made, and for how long it then counts.

    Attributes:
        version: of the memory's file.
        now: seconds since the epoch.
        until: likewise; an edit begins or expires then, or may.
    """

    version: object
    now: float
    until: float


class Freshness:
    """Says whether anything has changed since a decision was made. Thread-safe.

    It has a connection of its own to the memory's file, on which every commit shows, whoever made
    it, and knows the moments at which edits begin and expire. Those are read from the journal in
    the background; until they are known a decision counts for a second.

    Args:
        path: the memory's file.
        clock: seconds since the epoch.

    Raises:
        MemoryFileError: the file cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        # Not to wait: whoever asks is the event loop, and may do without an answer.
        self._journal = Journal(path, busy_seconds=0.0)
        self._clock = clock
        self._moments: list[float] = []
        self._position = 0
        self._read_to: object = None
        self._reader: threading.Thread | None = None
        self._closing = False

    def stamp(self) -> Stamp | None:
        """How things stand now; ``None`` where that cannot be found out."""
        try:
            version = self._journal.version()
        except MemeditError:
            return None
        now = self._clock()
        if version != self._read_to:
            self._read(version)
            return Stamp(version, now, now + _UNKNOWN)
        after = bisect.bisect_right(self._moments, now)
        until = self._moments[after] if after < len(self._moments) else math.inf
        return Stamp(version, now, until)

    def close(self) -> None:
        """Closes the file."""
        self._closing = True
        if self._reader is not None:
            self._reader.join()
        self._journal.close()

    def _read(self, version: object) -> None:
        """Reads what is new in the journal, on a thread of its own, one at a time."""
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(
                target=self._take_in, args=(version,), name="memedit-moments", daemon=True
            )
            self._reader.start()

    def _take_in(self, version: object) -> None:
        moments: set[float] = set()
        try:
            while not self._closing and (
                events := self._journal.read_since(self._position, _CHUNK)
            ):
                for event in events:
                    moments |= {m for m in (event.valid_from, event.expires_at) if m is not None}
                self._position = events[-1].position
                time.sleep(0)  # a large journal must not keep requests from their turn
        except MemeditError:
            logger.debug("the journal cannot be read; decisions count for a second", exc_info=True)
            return
        self._moments = sorted(moments.union(self._moments))
        self._read_to = version
