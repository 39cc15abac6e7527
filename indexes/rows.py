"""Which row of an append-only store holds which id, and which rows are dead.

Graphs and inverted lists number their rows as they come and cannot take one out. Here a removal
marks the row dead (a tombstone) and the search passes it by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memedit.protocols import Ids

_FEW = 4_096
# So many newly added ids stay in a dictionary before they are sorted in with the others.


class Rows:
    """Ids of rows 0, 1, 2 ... with one bit per row that tells whether it lives.

    Takes about 22 bytes a row. An id may come again after it was removed, under a new row.

    Args:
        ids: the ids of the first rows, shape (n,).
        live: which of them live, shape (n,), bool; all by default.
    """

    def __init__(self, ids: Ids | None = None, live: NDArray[np.bool_] | None = None) -> None:
        self._ids: Ids = np.empty(0, np.int64) if ids is None else np.array(ids, np.int64)
        self._used = len(self._ids)
        alive = np.ones(self._used, np.bool_) if live is None else live
        self._bits: NDArray[np.uint8] = np.packbits(alive, bitorder="little")
        self._dead = self._used - int(alive.sum())
        self._settle()

    def __len__(self) -> int:
        """How many rows live."""
        return self._used - self._dead

    @property
    def total(self) -> int:
        """How many rows there are, dead ones too."""
        return self._used

    @property
    def dead(self) -> int:
        """How many rows are dead."""
        return self._dead

    @property
    def bits(self) -> NDArray[np.uint8]:
        """Bit ``row % 8`` of byte ``row // 8`` is set where the row lives."""
        return self._bits[: -(-self._used // 8)]

    def live(self) -> NDArray[np.bool_]:
        """Which rows live, shape (total,)."""
        return np.unpackbits(self._bits, count=self._used, bitorder="little").astype(np.bool_)

    def ids(self) -> Ids:
        """The id of every row, dead ones too, shape (total,); a view, not to be written to."""
        return self._ids[: self._used]

    def find(self, ids: Ids) -> Ids:
        """The live row of each id, -1 where it has none; shape (n,)."""
        rows = np.full(len(ids), -1, np.int64)
        if len(self._sorted):
            at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
            same = self._sorted[at] == ids
            rows[same] = self._sorted_rows[at[same]]
            rows[same] = np.where(self._lives(rows[same]), rows[same], -1)
        if self._recent:
            for i, one in enumerate(ids.tolist()):
                rows[i] = self._recent.get(one, rows[i])
        return rows

    def add(self, ids: Ids) -> None:
        """Gives these different ids, none of which has a live row, the next rows."""
        needed = self._used + len(ids)
        if needed > len(self._ids):
            room = max(needed, self._used + self._used // 4, 64)
            self._ids = np.concatenate([self.ids(), np.zeros(room - self._used, np.int64)])
            bits = np.zeros(-(-room // 8), np.uint8)
            bits[: len(self._bits)] = self._bits
            self._bits = bits
        rows = np.arange(self._used, needed)
        self._ids[self._used : needed] = ids
        np.bitwise_or.at(self._bits, rows >> 3, (1 << (rows & 7)).astype(np.uint8))
        self._used = needed
        if len(self._recent) + len(ids) > _FEW:
            self._settle()
        else:
            self._recent.update(zip(ids.tolist(), rows.tolist(), strict=True))

    def remove(self, ids: Ids) -> int:
        """Marks the rows of these ids dead, ignoring absent ones; returns how many died."""
        rows = np.unique(self.find(ids))
        rows = rows[rows >= 0]
        np.bitwise_and.at(self._bits, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))
        for one in self._ids[rows].tolist() if self._recent else ():
            self._recent.pop(one, None)
        self._dead += len(rows)
        return len(rows)

    def _lives(self, rows: Ids) -> NDArray[np.bool_]:
        lives: NDArray[np.bool_] = (self._bits[rows >> 3] >> (rows & 7) & 1) == 1
        return lives

    def _settle(self) -> None:
        """Sorts the live ids, all of them, so that none has to be in the dictionary."""
        rows = np.flatnonzero(self.live()).astype(np.int32)
        ids = self._ids[rows]
        # Positions come in order, and a stable sort of what is nearly in order is quick.
        order = np.argsort(ids, kind="stable")
        self._sorted, self._sorted_rows = ids[order], rows[order]
        self._recent: dict[int, int] = {}
