"""The README's tour, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memedit.server.process import free_port
from tests.shell import run

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.vllm
def test_the_tour_runs_and_does_what_it_says(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: use the extra cpu or gpu")
    tour = README.read_text().partition("## Five-minute tour")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", tour, re.DOTALL)
    assert len(blocks) == 5
    environ = {
        "MEMEDIT_MEMORY_PATH": str(tmp_path / "memory.sqlite3"),
        "MEMEDIT_SERVER_PORT": str(free_port()),
        "COLUMNS": "200",
    }
    script = "set -euo pipefail\n" + "\n".join(f"{block}echo '=== end'" for block in blocks)
    output = run(script, tmp_path, environ, seconds=600)
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
