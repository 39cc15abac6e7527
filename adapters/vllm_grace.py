"""The codebooks of a running vLLM: what its workers hold, and how requests ask for it.

Every change is one call to the workers, which take it between two steps of the model. The prefix
cache keeps states that an entry has changed as well as others; so a request that is to use a
codebook carries a salt of the codebook's very state, and never finds states of another one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from memedit.adapters.vllm_worker import EDITS_ARG, NAMESPACE_ARG
from memedit.edits import Edit
from memedit.errors import ConfigError, InvalidInput, MemoryFileDamaged, Unsupported
from memedit.grace.codebook import LIMIT, Entries
from memedit.grace.file import BookFile
from memedit.server.middleware import Marked

logger = logging.getLogger("memedit.server")

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
        self._bytes: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """What the buffers of a worker take."""
        return sum(self._bytes.values())

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
        mirror, metric = self._spaces.get(namespace), _metric(entries)
        if mirror is None or mirror.metric != metric:
            size = max(self._ask("memedit_grace_space", namespace, self._capacity, metric))
            self._bytes[namespace] = size
            mirror = self._spaces[namespace] = _Mirror(self._capacity, metric)
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


class ServedCodebooks:
    """A codebook's file, and the engine of the server that memedit's middleware is in.

    The layer is wrapped, and the codebook written, with the first request that one of its edits is
    about. What an edit is about the scope step alone decides: an edit that is reverted answers no
    more, whatever the file holds.

    Args:
        file: what ``memedit grace learn`` has written.
        absent: whether it may be yet to come.

    Raises:
        ConfigError: it is not there, or says not which layer and namespace it is for.
        MemoryFileDamaged: it cannot be read.
    """

    def __init__(self, file: Path, *, absent: bool = False) -> None:
        self._file = file
        self._absent = absent
        self._lock = asyncio.Lock()
        self._books: EngineCodebooks | None = None
        self._refused = False
        self._fresh = True
        self._book: BookFile | None = None
        self._read = self._stamp()
        if self._read is not None:
            self._book = BookFile.read(file)

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuses a body that marks itself.

        Raises:
            InvalidInput: it does.
        """
        given = body.get("vllm_xargs")
        if isinstance(given, Mapping) and not given.keys().isdisjoint((NAMESPACE_ARG, EDITS_ARG)):
            raise InvalidInput(
                f"vllm_xargs holds {NAMESPACE_ARG} or {EDITS_ARG}, which memedit sets itself; "
                "leave them out"
            )

    async def marked(
        self,
        scope: Mapping[str, Any],
        body: Mapping[str, Any],
        namespace: str,
        edits: Sequence[Edit],
    ) -> Marked | None:
        """See :class:`memedit.server.middleware.Marks`."""
        if self._refused:
            return None
        async with self._lock:
            await self._refresh()
            book = self._book
            if book is None or not book.has(namespace, edits):
                return None
            try:
                mark = await self._mark(scope, book, [edit.id for edit in edits])
            except (Unsupported, InvalidInput):
                self._refused = True
                logger.exception("codebooks are left aside: edits answer in context")
                return None
        xargs, salt = body.get("vllm_xargs"), body.get("cache_salt")
        members = {
            "vllm_xargs": {**(xargs if isinstance(xargs, Mapping) else {}), **mark.extra_args},
            "cache_salt": f"{salt}:{mark.cache_salt}" if salt else mark.cache_salt,
        }
        return Marked(members, tuple(map(book.told, edits)))

    async def _mark(self, scope: Mapping[str, Any], book: BookFile, edits: Sequence[str]) -> Mark:
        """The mark for these edits, with the engine's codebook as the file has it."""
        if self._books is None:
            call = functools.partial(
                _across, scope["app"].state.engine_client, asyncio.get_running_loop()
            )
            capacity = max(LIMIT, 2 * len(book.entries))
            self._books = await asyncio.to_thread(EngineCodebooks, call, book.layer, capacity)
        if self._fresh:
            await asyncio.to_thread(self._books.put, book.namespace, book.entries)
            self._fresh = False
            logger.info("codebook of %d entries at layer %d", len(book.entries), book.layer)
        return self._books.mark(book.namespace, edits)

    async def _refresh(self) -> None:
        """Takes up another file in the place of the one that was read, if it is a codebook."""
        try:
            if (stamp := self._stamp()) == self._read or stamp is None:
                return
            self._read = stamp
            self._take(await asyncio.to_thread(BookFile.read, self._file))
        except (ConfigError, MemoryFileDamaged):
            logger.exception("the codebook stays as it was read last")

    def _take(self, book: BookFile) -> None:
        place = (book.layer, book.namespace)
        old = self._book
        if self._books is not None and old and place != (old.layer, old.namespace):
            raise ConfigError(
                f"{self._file} is for layer {book.layer} and namespace {book.namespace!r} now; "
                "start the server anew for it"
            )
        self._book, self._fresh = book, True

    def _stamp(self) -> tuple[int, int, int] | None:
        """Tells one state of the file from another; ``None`` while it is yet to come."""
        try:
            seen = self._file.stat()
        except OSError as error:
            if self._absent and isinstance(error, FileNotFoundError):
                return None
            raise ConfigError(
                f"the codebook {self._file} cannot be read ({error.strerror}); write it with "
                "`memedit grace learn`, or leave grace.file empty"
            ) from error
        return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _across(
    client: Any, loop: asyncio.AbstractEventLoop, method: str, args: tuple[Any, ...]
) -> list[Any]:
    """A call of an engine that belongs to an event loop, from another thread."""
    asked = client.collective_rpc(method, args=args)
    found: list[Any] = asyncio.run_coroutine_threadsafe(asked, loop).result()
    return found


class _Mirror:
    """Which entry each row of the workers' buffers holds.

    Attributes:
        metric: the parts of the metric that the buffers were made with.
        version: tells this state of the buffers from all others, earlier and later ones of the
            same content among them: a request that was marked before a change runs after it.
    """

    def __init__(self, capacity: int, metric: bytes) -> None:
        self._rows: dict[bytes, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self.metric = metric
        self.version = secrets.token_hex(8)

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
        self.version = secrets.token_hex(8)


def _digests(entries: Entries) -> list[bytes]:
    """Of each entry, what tells it from any other."""
    found = []
    for place, edit in enumerate(entries.edit_ids):
        digest = blake2b(edit.encode(), digest_size=16)
        for name in ("keys", "radii", "values", "spans", "arrivals"):
            digest.update(np.ascontiguousarray(getattr(entries, name)[place]).tobytes())
        found.append(digest.digest())
    return found


def _metric(entries: Entries) -> bytes:
    from safetensors.numpy import save

    one = entries.metric
    return bytes(save({} if one is None else {"centre": one.centre, "matrix": one.matrix}))


def _blob(entries: Entries, places: list[int]) -> bytes:
    from safetensors.numpy import save

    tensors = {name: getattr(entries, name)[places] for name in ("keys", "radii", "values")}
    counts = {"spans": entries.spans[places], "born": entries.arrivals[places]}
    return bytes(save({**tensors, **counts}))
