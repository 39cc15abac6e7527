"""The codebook: which states of a layer are replaced, and by what.

Source: Hartvigsen et al. 2023, arXiv:2211.11031, section 3 and algorithm 1. A state fires the entry
whose key is nearest, if it is no farther from it than the entry's radius. A new key makes an entry
of its own where it overlaps nothing (*init*); it widens the nearest entry where the two overlap and
mean the same (*expand*); where they mean different things, both shrink to half the way between
them (*split*).

What differs from the paper:

- A codebook is the list of the keys that it was given, in order, and what the rules make of them.
  Taking an edit out leaves exactly what the remaining keys would have made without it: radii that
  its arrival had split are whole again, and keys that it had absorbed stand on their own.
- Each key brings a radius of its own, and a split never widens an entry.
- Distances are Euclidean, as in the paper, unless the codebook has a metric of its own
  (:mod:`memedit.grace.metric`).
- Keys that are too near to be told apart (:attr:`Codebook.resolution`) and mean different things
  are not split into balls that nothing falls into: the newer one answers, and the older one does
  again once the newer is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memedit.errors import EditNotFound, InvalidInput, MemoryFileDamaged
from memedit.grace.metric import Floats, Metric

Counts = NDArray[np.int64]
"""One whole number per row, shape (n,), int64."""

LIMIT = 4_096
"""Keys that a codebook takes by default. Distances between all of them are kept: 32 MiB at this
number, four times as much at twice of it."""

_FORMAT = "1"
_BLOCK = 1 << 22  # numbers that a block of differences may have


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What one edit brings to a codebook.

    Attributes:
        edit_id: the edit's id.
        label: what the value makes the model say; keys of one label may share an entry.
        keys: states that the value belongs to, shape (n, dim), n at least 1.
        radii: how far from each key a state may be, shape (n,), by the codebook's metric.
        values: what replaces the layer's output, shape (n, dim of the output).
        spans: of how many tokens, from the last one of the prompt on, the output is replaced,
            shape (n,), int64; 0 for all that follow.
    """

    edit_id: str
    label: str
    keys: Floats
    radii: Floats
    values: Floats
    spans: Counts


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """The entries of a codebook, the oldest first: all that a lookup needs.

    Attributes:
        keys: where the keys lie by the metric, shape (n, dim).
        radii: shape (n,).
        values: shape (n, dim of the output).
        spans: shape (n,), int64.
        arrivals: shape (n,), int64, ascending: the running number of each key; it stays the
            same as long as the codebook holds the key.
        labels, edit_ids: one per entry; the edit is the one whose value answers.
        metric: by which states are compared; ``None`` for their Euclidean distance.
    """

    keys: Floats
    radii: Floats
    values: Floats
    spans: Counts
    arrivals: Counts
    labels: tuple[str, ...]
    edit_ids: tuple[str, ...]
    metric: Metric | None = None

    def __len__(self) -> int:
        return len(self.edit_ids)

    def lookup(self, queries: Floats, named: Sequence[Sequence[str]] | None = None) -> Counts:
        """The entry that each state fires, or -1, shape (queries,).

        Of several keys that are equally near the newest counts.

        Args:
            queries: states, shape (n, dim).
            named: of each state the edits that it is known to be about, by other means than its
                distance: their entries alone count then, whatever their radius. ``None`` leaves
                it to the radii.
        """
        if not len(self) or not len(queries):
            return np.full(len(queries), -1)
        apart = separations(self.metric, placed(self.metric, queries), self.keys)
        reach = np.broadcast_to(self.radii, apart.shape)
        if named is not None:
            counts = np.array([[one in set(edits) for one in self.edit_ids] for edits in named])
            apart = np.where(counts, apart, np.inf)
            reach = np.full_like(apart, np.finfo(np.float32).max)
        rows = np.arange(len(queries))
        nearest = len(self) - 1 - np.argmin(apart[:, ::-1], axis=1)
        return np.where(apart[rows, nearest] <= reach[rows, nearest], nearest, -1)


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """One key as it was given."""

    lesson: Lesson
    at: int
    arrival: int
    vector: Floats  # by the codebook's metric
    apart: Floats  # distances to the keys before it, (place,)


class Codebook:
    """The edits of one layer. Not thread-safe.

    Args:
        dim: length of a key.
        output_dim: length of a value; that of a key by default.
        limit: most keys that it takes.
        resolution: keys of different labels that are at most this far apart count as the same
            key: the noise of the states, by the metric.
        metric: by which states are compared; their Euclidean distance by default.
    """

    def __init__(
        self,
        dim: int,
        *,
        output_dim: int | None = None,
        limit: int = LIMIT,
        resolution: float = 0.0,
        metric: Metric | None = None,
    ) -> None:
        if dim < 1 or limit < 1 or resolution < 0:
            raise InvalidInput(
                f"dim {dim}, limit {limit}, resolution {resolution}: expected at least 1, 1 and 0"
            )
        self.dim = dim
        self.output_dim = output_dim or dim
        self.limit = limit
        self.resolution = resolution
        self.metric = metric
        self._keys: list[_Key] = []
        self._vectors = np.empty((0, dim), dtype=np.float32)  # of the keys, and room for more
        self._arrived = 0
        self._radii: list[float] = []  # of each key; only those of entries count
        self._entries: list[int] = []  # places of the keys that are entries, ascending

    def __len__(self) -> int:
        """How many keys it was given; entries may be fewer."""
        return len(self._keys)

    @property
    def edit_ids(self) -> tuple[str, ...]:
        """The edits in it, in the order in which they came."""
        return tuple(dict.fromkeys(key.lesson.edit_id for key in self._keys))

    def add(self, lesson: Lesson) -> None:
        """Adds an edit's keys, in their order, by the paper's rules.

        Raises:
            InvalidInput: the edit is in it, shapes or numbers are wrong, or it is full; nothing
                has changed then.
        """
        self._check(lesson, replaced=0)
        self._append(lesson)

    def remove(self, edit_id: str) -> None:
        """Takes an edit out; what remains is as if it had never been there.

        Raises:
            EditNotFound: the edit is not in it.
        """
        self._check_has(edit_id)
        self._drop(edit_id)
        self._replay()

    def replace(self, lesson: Lesson) -> None:
        """Takes the edit of that id out and adds the lesson as the newest.

        Raises:
            EditNotFound: the edit is not in it.
            InvalidInput: as for :meth:`add`; nothing has changed then.
        """
        self._check_has(lesson.edit_id)
        gone = sum(key.lesson.edit_id == lesson.edit_id for key in self._keys)
        self._check(lesson, replaced=gone)
        self._drop(lesson.edit_id)
        self._replay()
        self._append(lesson)

    def lessons(self) -> tuple[Lesson, ...]:
        """What it was given, in order."""
        return tuple(dict.fromkeys(key.lesson for key in self._keys))

    def entries(self) -> Entries:
        """What the rules have made of it; arrays of its own."""
        held = [self._keys[place] for place in self._entries]
        return Entries(
            keys=_stacked((key.vector for key in held), self.dim),
            radii=np.array([self._radii[place] for place in self._entries], dtype=np.float32),
            values=_stacked((key.lesson.values[key.at] for key in held), self.output_dim),
            spans=np.array([key.lesson.spans[key.at] for key in held], dtype=np.int64),
            arrivals=np.array([key.arrival for key in held], dtype=np.int64),
            labels=tuple(key.lesson.label for key in held),
            edit_ids=tuple(key.lesson.edit_id for key in held),
            metric=self.metric,
        )

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Writes all keys to a safetensors file, which appears whole or not at all.

        Args:
            path: the file.
            notes: further texts for its header, such as the model and the layer.
        """
        from safetensors.numpy import save

        lessons = self.lessons()
        about: dict[str, Any] = {
            "limit": self.limit,
            "resolution": self.resolution,
            "edits": [
                {"id": one.edit_id, "label": one.label, "keys": len(one.keys)} for one in lessons
            ],
        }
        tensors = {
            "keys": _joined((one.keys for one in lessons), (0, self.dim)),
            "radii": _joined((one.radii for one in lessons), (0,)),
            "values": _joined((one.values for one in lessons), (0, self.output_dim)),
            "spans": _joined((one.spans for one in lessons), (0,)).astype(np.int64),
        }
        if self.metric is not None:
            tensors |= {"centre": self.metric.centre, "matrix": self.metric.matrix}
        header = {**(notes or {}), "format": _FORMAT, "codebook": json.dumps(about)}
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(save(tensors, header))
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> tuple[Codebook, dict[str, str]]:
        """A codebook from its file, and the notes that were saved with it.

        Raises:
            MemoryFileDamaged: the file is no codebook, or of another format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                header = dict(file.metadata() or {})
                if header.pop("format", None) != _FORMAT:
                    raise MemoryFileDamaged(
                        f"{path} is no codebook of format {_FORMAT}; learn its edits again"
                    )
                about = json.loads(header.pop("codebook"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metric = (
                Metric(tensors.pop("centre"), tensors.pop("matrix"))
                if "matrix" in tensors
                else None
            )
            book = cls(
                tensors["keys"].shape[1],
                output_dim=tensors["values"].shape[1],
                limit=about["limit"],
                resolution=about["resolution"],
                metric=metric,
            )
            start = 0
            for one in about["edits"]:
                end = start + one["keys"]
                rows = {name: tensor[start:end] for name, tensor in tensors.items()}
                book.add(Lesson(one["id"], one["label"], **rows))
                start = end
            if len(book) != len(tensors["keys"]) or start != len(book):
                raise ValueError(f"{len(tensors['keys'])} keys, of which edits have {start}")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
            raise MemoryFileDamaged(
                f"{path} cannot be read as a codebook ({error}); learn its edits again"
            ) from error
        return book, header

    def _check_has(self, edit_id: str) -> None:
        if all(key.lesson.edit_id != edit_id for key in self._keys):
            raise EditNotFound(f"no edit {edit_id!r} in this codebook of {len(self.edit_ids)}")

    def _check(self, lesson: Lesson, *, replaced: int) -> None:
        if not replaced and any(key.lesson.edit_id == lesson.edit_id for key in self._keys):
            raise InvalidInput(f"the edit {lesson.edit_id!r} is in the codebook; replace it")
        n, parts = len(lesson.keys), (lesson.keys, lesson.values, lesson.radii, lesson.spans)
        shapes = tuple(part.shape for part in parts)
        expected = ((n, self.dim), (n, self.output_dim), (n,), (n,))
        if n < 1 or shapes != expected:
            raise InvalidInput(
                f"keys, values, radii and spans have the shapes {shapes}; expected {expected} with "
                "n at least 1"
            )
        if not all(np.isfinite(part).all() for part in parts):
            raise InvalidInput("keys, values and radii must be finite; learn the edit again")
        if lesson.radii.min() < 0 or lesson.spans.min() < 0:
            raise InvalidInput("a radius or a span is negative; expected 0 or more")
        if len(self._keys) - replaced + n > self.limit:
            raise InvalidInput(
                f"the codebook takes {self.limit} keys and has {len(self._keys) - replaced}; "
                f"{n} more are too many: take edits out, or raise its limit"
            )

    def _append(self, lesson: Lesson) -> None:
        for at, vector in enumerate(placed(self.metric, lesson.keys)):
            n = len(self._keys)
            if n == len(self._vectors):
                room = np.empty((max(n, 16), self.dim), dtype=np.float32)
                self._vectors = np.concatenate([self._vectors, room])
            self._vectors[n] = vector
            held = self._vectors[: n + 1]
            apart = separations(self.metric, held[n:], held[:n])[0]
            self._keys.append(_Key(lesson, at, self._arrived, vector, apart))
            self._arrived += 1
            self._place(n)

    def _drop(self, edit_id: str) -> None:
        stays = np.array([key.lesson.edit_id != edit_id for key in self._keys])
        self._vectors = self._vectors[: len(self._keys)][stays]
        self._keys = [
            replace(key, apart=key.apart[stays[:place]])
            for place, key in enumerate(self._keys)
            if stays[place]
        ]

    def _replay(self) -> None:
        """Places all keys anew, in order; their distances are known."""
        self._radii, self._entries = [], []
        for place in range(len(self._keys)):
            self._place(place)

    def _place(self, place: int) -> None:
        """The paper's rules for one key, against the entries before it."""
        key = self._keys[place]
        radius = float(key.lesson.radii[key.at])
        self._radii.append(radius)
        nearest, apart = self._nearest(key)
        if nearest is None or apart > self._radii[nearest] + radius:  # init
            self._entries.append(place)
        elif self._keys[nearest].lesson.label == key.lesson.label:  # expand
            self._radii[nearest] = max(self._radii[nearest], apart)
        elif apart <= self.resolution:  # the newer in the place of the older
            self._entries.remove(nearest)
            self._entries.append(place)
        else:  # split
            self._radii[nearest] = min(self._radii[nearest], apart / 2)
            self._radii[place] = min(radius, apart / 2)
            self._entries.append(place)

    def _nearest(self, key: _Key) -> tuple[int | None, float]:
        """The place of the entry nearest to a key, the newest of several, and how far it is."""
        if not self._entries:
            return None, np.inf
        apart = key.apart[self._entries]
        at = len(apart) - 1 - int(np.argmin(apart[::-1]))
        return self._entries[at], float(apart[at])


def placed(metric: Metric | None, states: Floats) -> Floats:
    """Where states lie by a metric, shape (n, dim)."""
    return states if metric is None else metric(states)


def separations(metric: Metric | None, queries: Floats, keys: Floats) -> Floats:
    """How far apart states are by a metric, shape (queries, keys), from where they lie by it."""
    apart = distances(queries, keys)
    # Of unit vectors half the squared distance is one less the cosine.
    found: Floats = apart if metric is None else (apart * apart / 2).astype(np.float32)
    return found


def distances(queries: Floats, keys: Floats) -> Floats:
    """Euclidean distances, shape (queries, keys).

    Each is the sum of its own squared differences, so that a distance is the same number whatever
    else is compared in the same call.
    """
    found = np.empty((len(queries), len(keys)), dtype=np.float32)
    step = max(1, _BLOCK // max(1, keys.shape[1]))
    for i, query in enumerate(queries):
        for start in range(0, len(keys), step):
            block = keys[start : start + step] - query
            found[i, start : start + step] = np.sqrt(np.einsum("ij,ij->i", block, block))
    return found


def _stacked(rows: Iterable[Floats], dim: int) -> Floats:
    held = list(rows)
    return np.stack(held) if held else np.empty((0, dim), dtype=np.float32)


def _joined(parts: Iterable[NDArray[Any]], empty: tuple[int, ...]) -> NDArray[Any]:
    held = list(parts)
    return np.concatenate(held) if held else np.empty(empty, dtype=np.float32)
