"""The README's tour, run as it stands there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memedit.server.process import free_port

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.vllm
def test_the_tour_runs_and_does_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    tour = README.read_text().partition("## Five-minute tour")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", tour, re.DOTALL)
    assert len(blocks) == 5
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MEMEDIT_MEMORY_PATH": str(tmp_path / "memory.sqlite3"),
        "MEMEDIT_SERVER_PORT": str(free_port()),
        "COLUMNS": "200",
    }
    script = "set -euo pipefail\n" + "\n".join(f"{block}echo '=== end'" for block in blocks)
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=600)
    finally:
        # Its session is its own: whatever it left running ends with it.
        os.killpg(shell.pid, signal.SIGKILL) if shell.poll() is None else None
    log = tmp_path / "server.log"
    assert shell.returncode == 0, output + (log.read_text()[-3000:] if log.exists() else "")
    before, added, asked, curl, after = output.split("=== end")[:5]
    assert "Lyon" not in before
    assert "[passthrough" in before
    assert added.count("active") == 3
    answer, rest = asked.split("[ike", 1)
    assert "Lyon" in answer
    other = rest.split("\n", 1)[1].split("[passthrough", 1)[0]
    assert "Berlin" in other
    assert "accepted" in rest
    assert "refused" in rest
    assert "x-memedit-route: ike" in curl
    assert "Maria Keller" in curl
    assert "Lyon" not in after.split("[passthrough")[0].split("reverted capital")[1]
    assert after.split("[passthrough")[0].split("\n")[-2:][0] in before
    assert "revert" in after.split("[passthrough")[1]
