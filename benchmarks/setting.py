"""What benchmarks share: the data they read, and what they say of where they ran."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def read(data: Path, name: str) -> Any:
    """The records of one file of the data folder."""
    path = data / name
    if not path.is_file():
        sys.exit(f"{path} is not there: name the data folder with --data or MEMEDIT_DATA")
    return json.loads(path.read_text(encoding="utf-8"))


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def commit() -> str:
    """The commit that is checked out."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
