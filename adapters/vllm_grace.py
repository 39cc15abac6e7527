"""The codebooks of a running vLLM: what its workers hold, and how requests ask for it.

Every change is one call to the workers, which take it between two steps of the model. The prefix
cache keeps states that an entry has changed as well as others; so a request that is to use a
codebook carries a salt of the codebook's very content, and never finds states of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from memedit.adapters.vllm_worker import EDITS_ARG, NAMESPACE_ARG
from memedit.errors import InvalidInput, Unsupported
from memedit.grace.codebook import LIMIT, Entries

Call = Callable[[str, tuple[Any, ...]], list[Any]]
"""Calls a method of all workers with these arguments: ``LLM.collective_rpc`` with its ``args``."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a request carries so that it uses a codebook.

    Attributes:
        extra_args: for ``SamplingParams(extra_args=…)``, or ``vllm_xargs`` over HTTP.
        cache_salt: for the prompt's, or the request's, ``cache_salt``.
    """

    extra_args: dict[str, Any]
    cache_salt: str


class EngineCodebooks:
    """The codebooks of one engine, one per namespace. Not thread-safe.

    Args:
        call: calls the engine's workers, which have
            :class:`~memedit.adapters.vllm_worker.GraceWorker` for an extension.
        layer: the decoder layer whose MLP is wrapped.
        capacity: most entries of a namespace; their buffers are made at its first.

    Raises:
        Unsupported: the engine has no such layer, or its model is compiled.
    """

    def __init__(self, call: Call, layer: int, capacity: int = LIMIT) -> None:
        self._call = call
        self._capacity = capacity
        self._spaces: dict[str, _Mirror] = {}
        answers = self._ask("memedit_grace_install", layer)
        if problems := [problem for _, problem in answers if problem]:
            raise Unsupported(f"this vLLM cannot keep codebooks: {problems[0]}")
        self.dim: int = max(dim for dim, _ in answers)
        self.bytes = 0

    def put(self, namespace: str, entries: Entries) -> None:
        """Makes a namespace's codebook this one; what was equal stays where it is.

        Raises:
            InvalidInput: there are more entries than fit, or of another length.
        """
        if len(entries) > self._capacity or entries.keys.shape[1:] != (self.dim,):
            raise InvalidInput(
                f"{len(entries)} entries of length {entries.keys.shape[1]}; the engine takes "
                f"{self._capacity} of {self.dim}"
            )
        mirror = self._spaces.get(namespace)
        if mirror is None:
            self.bytes += max(self._ask("memedit_grace_space", namespace, self._capacity))
            mirror = self._spaces[namespace] = _Mirror(self._capacity)
        dropped, written = mirror.compared(entries)
        if dropped or written:
            rows, places = [row for row, _ in written], [place for _, place in written]
            edits = [entries.edit_ids[place] for place in places]
            self._ask(
                *("memedit_grace_change", namespace, dropped, rows, edits),
                _blob(entries, places),
            )
        mirror.take(entries, dropped, written)

    def always(self, namespace: str | None) -> None:
        """Which codebook unmarked requests use as well; ``None`` for none.

        Their states in the prefix cache carry no salt: who changes that codebook must reset the
        prefix cache.
        """
        self._ask("memedit_grace_always", namespace)

    def mark(self, namespace: str, edits: Sequence[str] | None = None) -> Mark:
        """What a request carries to use a namespace's codebook as it is now.

        Args:
            namespace: whose.
            edits: the edits that the request is known to be about, if so: only their entries
                count then, whatever their radius.
        """
        args: dict[str, Any] = {NAMESPACE_ARG: namespace}
        if edits is not None:
            args[EDITS_ARG] = list(edits)
        mirror = self._spaces.get(namespace)
        version = mirror.version if mirror is not None else "none"
        return Mark(args, f"memedit-grace:{namespace}:{version}")

    def fired(self) -> dict[str, int]:
        """How many requests each edit has fired for, since the engine was started."""
        return max(self._ask("memedit_grace_fired"), key=len, default={})

    def _ask(self, method: str, *args: Any) -> list[Any]:
        return self._call(method, args)


class _Mirror:
    """Which entry each row of the workers' buffers holds."""

    def __init__(self, capacity: int) -> None:
        self._rows: dict[bytes, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self.version = "none"

    def compared(self, entries: Entries) -> tuple[list[int], list[tuple[int, int]]]:
        """The rows that go, and rows and places of the entries that are written."""
        digests = _digests(entries)
        kept = set(digests)
        dropped = [row for digest, row in self._rows.items() if digest not in kept]
        free = [*dropped, *self._free]  # the last ones first: rows that go are the last resort
        new = [place for place, digest in enumerate(digests) if digest not in self._rows]
        return dropped, [(free.pop(), place) for place in new]

    def take(
        self, entries: Entries, dropped: Sequence[int], written: Sequence[tuple[int, int]]
    ) -> None:
        """Notes that the workers have done so."""
        digests = _digests(entries)
        gone, used = set(dropped), {row for row, _ in written}
        self._rows = {digest: row for digest, row in self._rows.items() if row not in gone}
        self._rows |= {digests[place]: row for row, place in written}
        self._free = [row for row in (*dropped, *self._free) if row not in used]
        whole = blake2b(digest_size=8)
        for digest in digests:
            whole.update(digest)
        self.version = whole.hexdigest()


def _digests(entries: Entries) -> list[bytes]:
    """Of each entry, what tells it from any other."""
    found = []
    for place, edit in enumerate(entries.edit_ids):
        digest = blake2b(edit.encode(), digest_size=16)
        for name in ("keys", "radii", "values", "spans", "arrivals"):
            digest.update(np.ascontiguousarray(getattr(entries, name)[place]).tobytes())
        found.append(digest.digest())
    return found


def _blob(entries: Entries, places: list[int]) -> bytes:
    from safetensors.numpy import save

    tensors = {name: getattr(entries, name)[places] for name in ("keys", "radii", "values")}
    counts = {"spans": entries.spans[places], "born": entries.arrivals[places]}
    return bytes(save({**tensors, **counts}))
