"""The audit log: one JSON object a line for everything that somebody changed, or tried to.

It stands beside the memory, ``MEMORY.audit.jsonl``, made with permissions 0600 and only ever
appended to, one process at a time. A line holds who (a key's id and name), what, where, ids of
edits and the request's id; never a key, and no text of an edit, an author or a reason: those are
in the journal, under the ids.

Two lines belong to a change, with one request id: the first, with the outcome ``begun``, is on
the disk before anything is changed, and if it cannot be written nothing is; the second says what
came of it. Where the second is missing the process ended in between, and the journal knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from memedit.errors import AccessFileError, EditChanged, EditNotFound, InvalidInput
from memedit.server.keys import Key

Action = Literal["add", "supersede", "revert", "restore", "import", "keys.add", "keys.revoke"]
Outcome = Literal["begun", "done", "refused", "denied", "failed"]
"""``refused``: the memory would not; ``denied``: the key may not; ``failed``: a fault."""


@dataclass(slots=True)
class Change:
    """A change under way.

    Attributes:
        edits: ids of the edits that were added or changed, as far as it has come.
    """

    edits: list[str] = field(default_factory=list)


class Audit:
    """The audit log of one memory file.

    Args:
        memory: the memory's file.
    """

    def __init__(self, memory: str | os.PathLike[str]) -> None:
        memory = Path(memory).absolute()
        self.path = memory.with_name(f"{memory.name}.audit.jsonl")

    def write(
        self,
        action: str,
        outcome: Outcome,
        *,
        key: Key | None = None,
        namespace: str = "",
        request: str = "",
        edits: Sequence[str] = (),
        **more: Any,
    ) -> None:
        """Appends a line; it is on the disk when this returns.

        Args:
            action: what somebody did, or tried to.
            outcome: what came of it.
            key: whose; ``None`` for whoever works on the machine itself.
            namespace: where.
            request: the request's id.
            edits: ids.
            more: further members of the line, as JSON types.

        Raises:
            AccessFileError: the file cannot be written.
        """
        line = {
            "at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
            "key": None if key is None else key.id,
            "name": None if key is None else key.name,
            "action": action,
            "outcome": outcome,
            "namespace": namespace,
            "edits": list(edits),
            "request": request,
            **more,
        }
        data = f"{json.dumps(line)}\n".encode()
        try:
            file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = os.fstat(file).st_size
                if os.write(file, data) != len(data):
                    os.ftruncate(file, size)  # half a line would spoil the next one
                    raise OSError(0, "its disk is full")
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise AccessFileError(
                f"{self.path} cannot be written: {error.strerror}; no change is made without its "
                "line: its folder must be there, and writable for this user"
            ) from error

    @contextlib.contextmanager
    def change(self, action: Action, *, key: Key, namespace: str, request: str) -> Iterator[Change]:
        """Notes a change before it is made, and what came of it after.

        Raises:
            AccessFileError: it cannot be noted, and was not begun.
        """

        def note(outcome: Outcome, **more: Any) -> None:
            self.write(action, outcome, key=key, namespace=namespace, request=request, **more)

        note("begun")
        change = Change()
        try:
            yield change
        except BaseException as error:
            refused = isinstance(error, InvalidInput | EditNotFound | EditChanged)
            note("refused" if refused else "failed", error=type(error).__name__, edits=change.edits)
            raise
        note("done", edits=change.edits)

    def lines(self, namespace: str | None = None) -> Iterator[dict[str, Any]]:
        """The lines, the oldest first; a line that was cut off is left out.

        Args:
            namespace: of which; ``None`` for all.

        Raises:
            AccessFileError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for raw in file:
                    try:
                        line = json.loads(raw)
                    except ValueError:
                        continue
                    if isinstance(line, dict) and namespace in (None, line.get("namespace")):
                        yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise AccessFileError(f"{self.path} cannot be read: {error.strerror}") from error
