"""What benchmarks share: the data they read, and what they say of where they ran."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def read(data: Path, name: str) -> Any:
    """The records of one file of the data folder."""
    path = data / name
    if not path.is_file():
        sys.exit(f"{path} is not there: name the data folder with --data or MEMEDIT_DATA")
    return json.loads(path.read_text(encoding="utf-8"))


def arguments(doc: str | None, *, split: str, limit: int) -> argparse.ArgumentParser:
    """A parser with what every script has that asks a model about records of CounterFact.

    Args:
        doc: the script's own, shown as its help.
        split: the part that is drawn from unless another is named.
        limit: how many records of it are drawn.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--split", choices=("train", "dev"), default=split)
    parser.add_argument("--limit", type=int, default=limit, help="CounterFact records")
    parser.add_argument("--seed", type=int, default=7)
    return parser


def head(question: str, command: str, *packages: str) -> dict[str, Any]:
    """What every result says first: the question, how it was answered, when, and on what.

    Args:
        question: what the script wants to know.
        command: how to run it again.
        packages: whose versions matter, besides Python's; those that are not installed are left
            out.
    """
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "question": question,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load average": [round(one, 1) for one in os.getloadavg()],
        },
        "versions": versions,
    }


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
