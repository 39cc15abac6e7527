"""Running the commands of a document as somebody who reads it would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run(script: str, folder: Path, environ: Mapping[str, str], *, seconds: float) -> str:
    """What a script says, standard output and error together; it has to end with 0.

    Args:
        script: for bash; the commands of this environment are on its path.
        folder: where it runs, and where ``server.log`` is looked for should it fail.
        environ: of its environment, beside this process's own.
        seconds: it may take.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **environ},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=seconds)
    finally:
        # Its session is its own: whatever it left running ends with it.
        os.killpg(shell.pid, signal.SIGKILL) if shell.poll() is None else None
    log = folder / "server.log"
    assert shell.returncode == 0, output + (log.read_text()[-3000:] if log.exists() else "")
    return output
