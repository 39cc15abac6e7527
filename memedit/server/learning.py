"""Learning while serving: edits that ask for a codebook get into it, and no request waits for that.

A thread follows the journal. When something happens to an edit that asks for a codebook, whoever
wrote it, ``memedit grace learn`` runs as a process of its own with the lowest priority, without the
server's GPUs; what it writes the server takes up. Until then such edits are answered in context.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from memedit.errors import MemeditError
from memedit.journal.file import Journal

logger = logging.getLogger("memedit.server")

GRACE = "grace"
"""The route of the edits that are learned."""

_CHUNK = 500


class Learning:
    """Runs a command after every change of the edits that ask for a codebook.

    Args:
        memory: the memory's file.
        namespace: whose edits.
        command: learns what is not learned yet.
        every: seconds between two looks at the file.

    Raises:
        MemoryFileError: the file cannot be opened.
    """

    def __init__(
        self, memory: Path, namespace: str, command: Sequence[str], *, every: float = 1.0
    ) -> None:
        self._journal = Journal(memory)
        self._namespace = namespace
        self._command = command
        self._every = every
        self._edits: set[str] = set()
        self._position = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="memedit-learning", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Ends what is running; what has been learned so far is written."""
        atexit.unregister(self.close)
        self._closing.set()
        self._thread.join()
        self._journal.close()

    def _follow(self) -> None:
        seen: object = None
        while not self._closing.is_set():
            try:
                if (version := self._journal.version()) != seen:
                    if self._changed():
                        self._learn()
                    seen = version
            except (MemeditError, OSError):
                logger.exception("edits are not learned for the codebook: they answer in context")
            self._closing.wait(self._every)

    def _changed(self) -> bool:
        """Whether something has happened to an edit that asks for a codebook."""
        found = False
        while events := self._journal.read_since(self._position, _CHUNK):
            for event in events:
                if event.namespace == self._namespace:
                    if (event.edit or {}).get("route") == GRACE:
                        self._edits.add(event.edit_id)
                    found |= event.edit_id in self._edits
            self._position = events[-1].position
        return found

    def _learn(self) -> None:
        """Runs the command to its end, or until the server's."""
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            self._command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        while True:
            try:
                _, said = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if self._closing.is_set():
                    process.terminate()
        if process.returncode and not self._closing.is_set():
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            logger.error("learning edits for the codebook failed: %s", "".join(last))


def learner(model: str, out: Path, memory: Path, namespace: str) -> list[str]:
    """The command that learns a namespace's edits whose route is ``grace``."""
    return [
        *(sys.executable, "-m", "memedit", "grace", "learn", model, "--marked"),
        *("--out", str(out), "--memory", str(memory), "--namespace", namespace),
    ]
