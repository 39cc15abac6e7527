"""A server in a process of its own, for the demo, tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import httpx

from memedit.errors import UpstreamError


def free_port() -> int:
    """A port on loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """``memedit serve`` with these arguments, as a context manager.

    Args:
        arguments: what follows ``memedit serve``, without host and port.
        log: where its output goes.
        environ: added to this process's environment.
        health: the path that answers 200 when it is ready.
        timeout: seconds until it must be.
        waiting: called about twice a second with the seconds waited so far.
        program: another command line to put before the arguments instead of ``memedit serve``.
        port: where it listens; a free port by default.

    Attributes:
        url: its base URL, without ``/v1``.

    Raises:
        UpstreamError: it ended, or was not ready in time; the message quotes its last output.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str] | None = None,
        health: str = "/health",
        timeout: float = 300.0,
        waiting: Callable[[float], None] = lambda seconds: None,
        program: Sequence[str] = (sys.executable, "-m", "memedit", "serve"),
        port: int | None = None,
    ) -> None:
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._health = health
        self._timeout = timeout
        self._waiting = waiting
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        self._argv = [*program, *arguments, *listen]
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> ServerProcess:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self, grace: float = 20.0) -> None:
        """Asks the server to end; ends it and its children after ``grace`` seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        # Its session is its own, so this reaches nobody else's processes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill(self) -> None:
        """``kill -9``, to it and its children."""
        os.killpg(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _wait(self) -> None:
        assert self._process is not None
        started = time.monotonic()
        while (waited := time.monotonic() - started) < self._timeout:
            if self._process.poll() is not None:
                raise UpstreamError(
                    f"the server ended with exit code {self._process.returncode}:\n{self._tail()}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self.url + self._health, timeout=5.0).status_code == 200:
                    return
            self._waiting(waited)
            time.sleep(0.5)
        raise UpstreamError(f"the server was not ready in {self._timeout:.0f} s:\n{self._tail()}")

    def _tail(self, lines: int = 25) -> str:
        text = self._log.read_text(errors="replace")
        return "\n".join([*text.splitlines()[-lines:], f"(the whole output is in {self._log})"])
