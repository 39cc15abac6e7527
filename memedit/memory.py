"""The memory of edits: what a served model should answer with, durable and searchable.

:class:`EditMemory` is the only writer. What it holds in main memory (records, one index and one
lexicon per namespace) changes in one way only: by reading events from the journal. A call that
adds or reverts writes events and then reads them back like everybody else's, so that two
processes on one file cannot come to different states.

An edit is superseded as long as an edit that replaced it, directly or through others, is not
reverted; so reverting brings back the newest edit of that fact that nobody reverted.

>>> from memedit.edits import structured
>>> from memedit.encoders import HashEncoder
>>> with EditMemory(path, HashEncoder()) as memory:
...     memory.add(structured("France", "The capital of {} is", "Lyon"))[0].state
'active'
"""

from __future__ import annotations

import difflib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import numpy as np

from memedit.edits import Edit, from_mapping
from memedit.errors import EditNotFound, InvalidEdit, InvalidInput, MemoryFileVersion
from memedit.indexes import check_kind, make_index
from memedit.journal import Event, Journal, Transaction
from memedit.lexicon import Mention, SubjectLexicon
from memedit.protocols import Candidate, EditRecord, Encoder, Index, State, Vectors

DEFAULT_NAMESPACE = "default"
"""The namespace of whoever names none."""

MAX_MENTIONED = 16
"""Most edits that join the candidates of a query only because their subject is mentioned."""

MAX_NOTE = 2_000
"""Longest author or reason, in characters."""

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CHUNK = 10_000
_SHOWN_PROBLEMS = 20
# Up to this many mentioned edits are compared with the query one by one; beyond it, going down
# the index's ranking until enough of them have come by is cheaper.
_MENTIONED_ONE_BY_ONE = 256


@dataclass(slots=True)
class _Namespace:
    """What one namespace's active edits are found by."""

    index: Index | None = None  # made with the first vector, which tells its length
    lexicon: SubjectLexicon = field(default_factory=SubjectLexicon)
    active: dict[int, EditRecord] = field(default_factory=dict)  # by position
    by_fact: dict[str, int] = field(default_factory=dict)  # conflict key -> position


class EditMemory:
    """The edits of one memory file. Thread-safe; several processes may share the file.

    Every method that reads first takes in what other processes have committed.

    Args:
        path: the journal's file; made where there is none.
        encoder: what queries and edits are compared by; the caller keeps and closes it.
        index: a kind of :data:`memedit.indexes.KINDS`.
        reencode: make vectors with ``encoder`` for the edits that have none of it (or damaged
            ones) and store them; without it such a file is refused.

    Raises:
        MemoryFileError: the file cannot be opened, is damaged or has another version.
        MemoryFileVersion: also where its vectors are another encoder's and ``reencode`` is off.
        ConfigError: there is no such kind of index.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: Encoder,
        *,
        index: str = "flat",
        reencode: bool = False,
    ) -> None:
        check_kind(index)
        self._encoder = encoder
        self._index_kind = index
        self._lock = threading.RLock()
        self._position = 0
        self._version: tuple[int, int] | None = None
        self._records: dict[str, EditRecord] = {}
        self._reverted: set[str] = set()
        self._replaced_by: dict[str, dict[str, None]] = {}  # id -> ids that superseded it, in order
        self._namespaces: dict[str, _Namespace] = {}
        self._opened = False
        self._journal = Journal(path)
        try:
            if reencode:
                self._reencode()
            self.refresh()
        except BaseException:
            self._journal.close()
            raise
        self._opened = True

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: str | None = None) -> Self:
        """The memory in this file, with a sentence encoder of its own.

        Args:
            path: the journal's file; made where there is none.
            model: a sentence-transformers folder or hub name; the packaged MiniLM by default.

        Raises:
            MemoryFileError: as for the class itself.
        """
        from memedit.encoders import SentenceEncoder

        return cls(path, SentenceEncoder(model))

    @property
    def encoder(self) -> Encoder:
        """What queries and edits are compared by."""
        return self._encoder

    # changing

    def add(
        self,
        edits: Edit | Sequence[Edit],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
    ) -> list[EditRecord]:
        """Adds edits, all of them or none; durable and live when it returns.

        An edit that states the same fact as an active one of the namespace (the same
        :attr:`Edit.conflict_key`) supersedes it. An edit that says nothing beyond an active one
        is not added again: its record is the active one's, under that one's id.

        Args:
            edits: one or several; later ones may supersede earlier ones.
            namespace: where they go.
            author: who adds them, free text of at most 2,000 characters.
            reason: why, likewise.

        Returns:
            One record per edit, in their order.

        Raises:
            InvalidEdit: an id is taken by another edit.
            InvalidInput: the namespace, author or reason is malformed.
            MemoryFileError: the file cannot be written; nothing was added.
        """
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        return self._add(edits, [""] * len(edits), namespace, author, reason)

    def revert(self, edit_id: str, *, author: str = "", reason: str = "") -> EditRecord:
        """Undoes an add: what the edit had replaced is active again, unless another replaced it.

        Returns:
            The record, now ``reverted``.

        Raises:
            EditNotFound: there is no such edit.
            InvalidInput: it was reverted before; author or reason is malformed.
            MemoryFileError: the file cannot be written; nothing was changed.
        """
        _check_note(author, "author")
        _check_note(reason, "reason")
        with self._journal.transaction() as transaction:
            record = self.get(edit_id)
            if record.state == "reverted":
                event = next(e for e in self._journal.history(edit_id) if e.kind == "revert")
                by = f" by {event.author}" if event.author else ""
                raise InvalidInput(
                    f"edit {edit_id} was reverted already, at {_utc(event.at)}{by}; to have the "
                    "fact back, add it as a new edit"
                )
            transaction.append("revert", edit_id, record.namespace, author=author, reason=reason)
        return self.get(edit_id)

    def import_jsonl(
        self,
        lines: Iterable[str | bytes],
        *,
        namespace: str = DEFAULT_NAMESPACE,
        author: str = "",
        reason: str = "",
    ) -> list[EditRecord]:
        """Adds the edits of JSON Lines, all of them or none; empty lines are skipped.

        Args:
            lines: JSON objects as :func:`memedit.edits.from_mapping` takes them, UTF-8 if bytes;
                an open file will do.
            namespace: as for :meth:`add`.
            author: as for :meth:`add`.
            reason: as for :meth:`add`.

        Raises:
            InvalidEdit: lines are bad; the message numbers them, and nothing was added.
        """
        edits: list[Edit] = []
        where: list[str] = []
        problems: list[str] = []
        count = 0
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            count += 1
            try:
                edits.append(_edit_of_line(line))
                where.append(f"line {number}: ")
            except InvalidEdit as error:
                problems.append(f"line {number}: {error}")
        if problems:
            raise InvalidEdit(_report(problems, count))
        return self._add(edits, where, namespace, author, reason)

    # looking

    def refresh(self) -> bool:
        """Takes in what was committed since the last look; returns whether there was anything.

        Raises:
            MemoryFileError: the file is damaged, or was deleted or replaced beneath the memory.
        """
        with self._lock:
            return self._refresh({})

    def get(self, edit_id: str) -> EditRecord:
        """The record of an edit in whatever state.

        Raises:
            EditNotFound: there is none of that id; the message names close ones.
        """
        with self._lock:
            self.refresh()
            record = self._records.get(edit_id)
            if record is None:
                close = self._close_ids(edit_id)
                hint = f"did you mean {' or '.join(close)}?" if close else "list them for their ids"
                raise EditNotFound(f"there is no edit {edit_id!r} in {self._journal.path}; {hint}")
            return record

    def records(
        self, namespace: str | None = None, states: Iterable[State] = ("active",)
    ) -> list[EditRecord]:
        """The records of a namespace, or of all of them, in these states, oldest first."""
        if namespace is not None:
            _check_namespace(namespace)
        wanted = set(states)
        with self._lock:
            self.refresh()
            return [
                record
                for record in self._records.values()
                if record.state in wanted and namespace in (None, record.namespace)
            ]

    def history(self, edit_id: str) -> list[Event]:
        """What happened to an edit, in order: kind, at, author, reason and position of each.

        Raises:
            EditNotFound: there is no such edit.
        """
        self.get(edit_id)
        return self._journal.history(edit_id)

    def namespaces(self) -> list[str]:
        """The namespaces that hold or have held an edit, in alphabetical order."""
        with self._lock:
            self.refresh()
            return sorted(self._namespaces)

    def __len__(self) -> int:
        """How many edits are active, in all namespaces."""
        with self._lock:
            self.refresh()
            return sum(len(space.active) for space in self._namespaces.values())

    def __bool__(self) -> bool:
        """True: an empty memory is a memory."""
        return True

    def count(self, namespace: str = DEFAULT_NAMESPACE) -> int:
        """How many edits are active in a namespace."""
        space = self._space(namespace)
        return 0 if space is None else len(space.active)

    def search(
        self, text: str, k: int = 8, namespace: str = DEFAULT_NAMESPACE
    ) -> list[tuple[EditRecord, float]]:
        """The ``k`` active edits closest to a text, each with its cosine, closest first.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        _check_k(k)
        if self._space(namespace) is None:
            return []
        queries = self._encoder.encode([text])
        with self._lock:
            space = self._space(namespace)
            if space is None or space.index is None:
                return []
            scores, positions = space.index.search(queries, k)
            found = zip(positions[0].tolist(), scores[0].tolist(), strict=True)
            return [(space.active[position], _cosine(score)) for position, score in found]

    def candidates(
        self, queries: Sequence[str], namespace: str = DEFAULT_NAMESPACE, k: int = 8
    ) -> list[list[Candidate]]:
        """The edits that each query may be about.

        Those are the ``k`` closest by cosine, and of the edits whose subject or alias the query
        mentions the :data:`MAX_MENTIONED` closest, by descending cosine and then by age. Where
        the namespace has no active edit nothing is encoded.

        Args:
            queries: any number of texts; they are encoded and searched together.
            namespace: whose edits.
            k: at least 1.

        Returns:
            One list per query.

        Raises:
            InvalidInput: ``k`` is below 1, or the namespace is malformed.
        """
        _check_k(k)
        if not queries or self._space(namespace) is None:
            return [[] for _ in queries]
        # Encoding takes milliseconds and needs no lock; what changes meanwhile is seen below.
        encoded = self._encoder.encode(queries)
        with self._lock:
            space = self._space(namespace)
            if space is None or space.index is None:
                return [[] for _ in queries]
            scores, positions = space.index.search(encoded, k)
            return [
                self._candidates_of(
                    space, text, row, dict(zip(ids.tolist(), cosines.tolist(), strict=True))
                )
                for text, row, ids, cosines in zip(queries, encoded, positions, scores, strict=True)
            ]

    def export_jsonl(self, namespace: str = DEFAULT_NAMESPACE) -> Iterator[str]:
        """The active edits of a namespace, oldest first, as lines for :meth:`import_jsonl`.

        The lines end without a line break and carry the edits' ids.
        """
        for record in self.records(namespace):
            yield json.dumps(record.edit.to_mapping(), ensure_ascii=False)

    # closing

    def close(self) -> None:
        """Closes the file; harmless when it is closed already. The encoder stays as it is."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # writing events

    def _add(
        self,
        edits: Sequence[Edit],
        where: Sequence[str],
        namespace: str,
        author: str,
        reason: str,
    ) -> list[EditRecord]:
        """:meth:`add`, with what to begin each edit's problem with in a message."""
        _check_namespace(namespace)
        _check_note(author, "author")
        _check_note(reason, "reason")
        if not edits:
            return []
        # Before any lock: encoding takes longer than all the rest.
        vectors = self._encoder.encode([edit.key for edit in edits])
        known: dict[int, Vectors] = {}
        with self._journal.transaction() as transaction:
            with self._lock:
                # From here to the commit nobody else commits, so what is seen now still holds.
                self.refresh()
                ids, fresh = self._plan(edits, where, namespace)
            for number, supersedes in fresh:
                edit = edits[number]
                event = transaction.append(
                    "add",
                    edit.id,
                    namespace,
                    author=author,
                    reason=reason,
                    edit=edit.to_mapping(),
                    supersedes=supersedes,
                )
                known[event.position] = vectors[number]
            if known:
                _put_vectors(transaction, self._encoder.name, known)
        with self._lock:
            self._refresh(known)
            return [self._records[edit_id] for edit_id in ids]

    def _plan(
        self, edits: Sequence[Edit], where: Sequence[str], namespace: str
    ) -> tuple[list[str], list[tuple[int, tuple[str, ...]]]]:
        """What adding these edits comes to.

        Returns:
            For each edit the id under which it will be found, and for each one that is really
            to be added its number and the ids that it supersedes.
        """
        space = self._namespaces.get(namespace) or _Namespace()
        by_fact: dict[str, Edit] = {}  # of this call
        taken: set[str] = set()
        ids: list[str] = []
        fresh: list[tuple[int, tuple[str, ...]]] = []
        problems: list[str] = []
        for number, edit in enumerate(edits):
            fact = edit.conflict_key
            current = by_fact.get(fact)
            if current is None and (position := space.by_fact.get(fact)) is not None:
                current = space.active[position].edit
            if current is not None and _says_nothing_beyond(edit, current):
                ids.append(current.id)
                continue
            if edit.id in self._records or edit.id in taken:
                state = self._records[edit.id].state if edit.id in self._records else "new"
                problems.append(
                    f"{where[number]}the id {edit.id} is taken by another edit ({state}); leave it "
                    "out to get a fresh one"
                )
                continue
            ids.append(edit.id)
            fresh.append((number, () if current is None else (current.id,)))
            by_fact[fact] = edit
            taken.add(edit.id)
        if problems:
            raise InvalidEdit(_report(problems, len(edits)))
        return ids, fresh

    def _reencode(self) -> None:
        """Stores vectors of this encoder for the added edits that have none, or damaged ones."""
        position = 0
        while events := self._journal.read_since(position, _CHUNK):
            position = events[-1].position
            keys = {e.position: _stored_edit(e).key for e in events if e.kind == "add"}
            lacking = self._journal.lacking_vectors(self._encoder.name, keys)
            if lacking:
                vectors = self._encoder.encode([keys[p] for p in lacking])
                with self._journal.transaction() as transaction:
                    transaction.put_vectors(self._encoder.name, lacking, vectors)

    # reading events

    def _refresh(self, known: Mapping[int, Vectors]) -> bool:
        """:meth:`refresh` by a caller who has the lock, and perhaps vectors of new edits."""
        version = self._journal.version()
        if version == self._version:
            return False
        before = self._position
        while events := self._journal.read_since(self._position, _CHUNK):
            self._apply(events, known)
        # Only now: a failure above has to show again at the next look.
        self._version = version
        return self._position > before

    def _apply(self, events: Sequence[Event], known: Mapping[int, Vectors]) -> None:
        """Takes these events in. May be repeated with the same ones after it failed half-way."""
        touched: dict[str, None] = {}
        for event in events:
            if event.kind == "add":
                self._records[event.edit_id] = EditRecord(
                    edit=_stored_edit(event),
                    position=event.position,
                    namespace=event.namespace,
                    state="active",
                    author=event.author,
                    reason=event.reason,
                    created_at=event.at,
                    supersedes=event.supersedes,
                )
                self._namespaces.setdefault(event.namespace, _Namespace())
                for replaced in event.supersedes:
                    self._replaced_by.setdefault(replaced, {})[event.edit_id] = None
                    touched[replaced] = None
            else:
                self._reverted.add(event.edit_id)
                touched.update(dict.fromkeys(self._freed_by(event.edit_id)))
            touched[event.edit_id] = None

        coming: dict[str, list[EditRecord]] = {}
        going: dict[str, list[EditRecord]] = {}
        for edit_id in touched:
            record = self._settled(self._records[edit_id])
            self._records[edit_id] = record
            is_held = record.position in self._namespaces[record.namespace].active
            if record.state == "active" and not is_held:
                coming.setdefault(record.namespace, []).append(record)
            elif record.state != "active" and is_held:
                going.setdefault(record.namespace, []).append(record)
        # All that can fail comes before the first change of a namespace.
        vectors = self._vectors([r for records in coming.values() for r in records], known)
        for name, records in going.items():
            self._let_go(self._namespaces[name], records)
        for name, records in coming.items():
            self._take_up(self._namespaces[name], records, vectors)
        self._position = events[-1].position

    def _freed_by(self, reverted: str) -> Iterator[str]:
        """The edits whose state the revert of this one may change."""
        stack = [reverted]
        while stack:
            for replaced in self._records[stack.pop()].supersedes:
                yield replaced
                if replaced in self._reverted:
                    stack.append(replaced)

    def _settled(self, record: EditRecord) -> EditRecord:
        """The record in the state that the events so far leave it in."""
        state, successor = self._state_of(record.edit.id)
        if (state, successor) == (record.state, record.superseded_by):
            return record
        return replace(record, state=state, superseded_by=successor)

    def _state_of(self, edit_id: str) -> tuple[State, str | None]:
        """An edit's state, and where it is superseded, the edit that replaced it."""
        if edit_id in self._reverted:
            return "reverted", None
        stack = [edit_id]
        while stack:
            for successor in self._replaced_by.get(stack.pop(), ()):
                if successor not in self._reverted:
                    return "superseded", successor
                stack.append(successor)
        return "active", None

    @staticmethod
    def _let_go(space: _Namespace, records: Sequence[EditRecord]) -> None:
        for record in records:
            space.lexicon.remove(record.position)
            del space.active[record.position]
            fact = record.edit.conflict_key
            if space.by_fact.get(fact) == record.position:
                del space.by_fact[fact]
        if space.index is not None:
            space.index.remove(np.array([record.position for record in records], dtype=np.int64))

    def _take_up(
        self, space: _Namespace, records: Sequence[EditRecord], vectors: Mapping[int, Vectors]
    ) -> None:
        records = sorted(records, key=lambda record: record.position)
        rows = np.stack([vectors[record.position] for record in records])
        if space.index is None:
            space.index = make_index(self._index_kind, rows.shape[1])
        space.index.add(np.array([record.position for record in records], dtype=np.int64), rows)
        for record in records:
            space.lexicon.add(record.position, record.edit.names)
            space.active[record.position] = record
            space.by_fact[record.edit.conflict_key] = record.position

    def _vectors(
        self, records: Sequence[EditRecord], known: Mapping[int, Vectors] | None = None
    ) -> dict[int, Vectors]:
        """A row of shape (dim,) per record: as known, as stored, or else encoded now.

        Raises:
            MemoryFileVersion: while the memory is being opened, where rows would be encoded.
            MemoryFileDamaged: a stored vector fails its checksum.
        """
        known = known or {}
        rows = {r.position: known[r.position] for r in records if r.position in known}
        absent = {r.position: r for r in records if r.position not in rows}
        if not absent:
            return rows
        rows.update(self._journal.vectors(self._encoder.name, absent))
        if lacking := [record for position, record in absent.items() if position not in rows]:
            if not self._opened:
                others = ", ".join(
                    repr(name) for name in self._journal.encoders() if name != self._encoder.name
                )
                raise MemoryFileVersion(
                    f"{self._journal.path} holds edits without vectors of the encoder "
                    f"{self._encoder.name!r} (it has those of {others or 'none'}); open it with "
                    "that encoder, or with reencode=True to store vectors of this one too"
                )
            # Another process has added these with another encoder: rare, few, and live for the
            # next request all the same.
            fresh = self._encoder.encode([record.edit.key for record in lacking])
            rows.update(zip((record.position for record in lacking), fresh, strict=True))
        return rows

    # finding

    def _space(self, namespace: str) -> _Namespace | None:
        """The namespace as of now, or ``None`` where it has no active edit."""
        _check_namespace(namespace)
        with self._lock:
            self.refresh()
            space = self._namespaces.get(namespace)
            return space if space is not None and space.active else None

    def _candidates_of(
        self, space: _Namespace, text: str, query: Vectors, cosines: dict[int, float]
    ) -> list[Candidate]:
        """The candidates of one query, given the cosines of those closest to it."""
        mentions = _mention_by_position(space.lexicon.find(text))
        for position, cosine in self._closest(space, query, mentions):
            cosines.setdefault(position, cosine)
        found = []
        for position in sorted(cosines, key=lambda p: (-cosines[p], p)):
            mention = mentions.get(position)
            found.append(
                Candidate(
                    edit=space.active[position].edit,
                    cosine=_cosine(cosines[position]),
                    mention=None if mention is None else (mention.start, mention.end),
                    masked_by_longer=mention is not None and mention.within_longer_name,
                )
            )
        return found

    def _closest(
        self, space: _Namespace, query: Vectors, positions: Mapping[int, Any]
    ) -> list[tuple[int, float]]:
        """The :data:`MAX_MENTIONED` of these positions that are closest to the query."""
        if not positions or space.index is None:
            return []
        if len(positions) <= _MENTIONED_ONE_BY_ONE:
            rows = self._vectors([space.active[position] for position in positions])
            scored = [(position, float(row @ query)) for position, row in rows.items()]
            return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:MAX_MENTIONED]
        depth = 4 * _MENTIONED_ONE_BY_ONE
        while True:
            scores, ids = space.index.search(query[None, :], depth)
            ranked = zip(ids[0].tolist(), scores[0].tolist(), strict=True)
            hits = [pair for pair in ranked if pair[0] in positions][:MAX_MENTIONED]
            if len(hits) == MAX_MENTIONED or depth >= len(space.index):
                return hits
            depth *= 4

    def _close_ids(self, edit_id: str) -> list[str]:
        longer = [known for known in self._records if known.startswith(edit_id)] if edit_id else []
        if longer:
            return longer[:3]
        # The newest only: comparing with a million would take half a minute.
        newest = list(self._records)[-2_000:]
        return difflib.get_close_matches(edit_id, newest, n=3, cutoff=0.7)


def _put_vectors(transaction: Transaction, encoder: str, rows: Mapping[int, Vectors]) -> None:
    transaction.put_vectors(encoder, list(rows), np.stack(list(rows.values())))


def _mention_by_position(mentions: Iterable[Mention]) -> dict[int, Mention]:
    """Each edit's best mention: rather not part of a longer name, then the longest, the first."""
    best: dict[int, Mention] = {}
    for mention in mentions:
        for position in mention.positions:
            if position not in best or _rank(mention) > _rank(best[position]):
                best[position] = mention
    return best


def _rank(mention: Mention) -> tuple[bool, int]:
    return not mention.within_longer_name, mention.end - mention.start


def _stored_edit(event: Event) -> Edit:
    """The edit as it was stored: checked then, so that stricter checks later do not lose it."""
    given = dict(event.edit or {})
    given["aliases"] = tuple(given.get("aliases", ()))
    return Edit(**given)


def _edit_of_line(line: str | bytes) -> Edit:
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        data = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InvalidEdit(f"not a JSON object ({error}); write one edit a line") from error
    return from_mapping(data)


def _says_nothing_beyond(edit: Edit, current: Edit) -> bool:
    """Whether every field that ``edit`` sets is the same in ``current``, id and source aside."""
    for name in (f.name for f in fields(Edit) if f.name not in ("id", "source", "aliases")):
        said = getattr(edit, name)
        if said is not None and said != getattr(current, name):
            return False
    return set(edit.aliases) <= set(current.aliases)


def _report(problems: Sequence[str], count: int) -> str:
    if count == 1:
        return problems[0]
    shown = "\n".join(problems[:_SHOWN_PROBLEMS])
    more = len(problems) - _SHOWN_PROBLEMS
    tail = f"\nand {more:,} more" if more > 0 else ""
    return f"{len(problems):,} of {count:,} edits are bad, and nothing was added:\n{shown}{tail}"


def _check_namespace(namespace: object) -> None:
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"the namespace {namespace!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )


def _check_note(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be text, not {type(text).__name__}")
    if len(text) > MAX_NOTE:
        raise InvalidInput(f"{name} has {len(text):,} characters; at most {MAX_NOTE:,} are taken")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} holds a lone surrogate; send valid Unicode") from error


def _check_k(k: int) -> None:
    if k < 1:
        raise InvalidInput(f"k is {k}; it must be at least 1")


def _cosine(score: float) -> float:
    """Clipped: rounding puts the product of equal unit vectors a little above 1."""
    return max(-1.0, min(1.0, float(score)))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
