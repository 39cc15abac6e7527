"""A codebook in vLLM's own server: does it outlive a restart, and how soon does a revert act?

    python benchmarks/grace_served.py --model DIR --work FOLDER --edits 20 --out FILE

``--work`` is what ``benchmarks/grace.py learn`` has written. The edits go into a new memory and a
new codebook file, and ``memedit serve`` answers their own prompts from them. Then a process of its
own, ``memedit edits revert``, takes one edit after the other back, while streams ask that edit's
prompt one request after the other; times count from the one that the journal has for the revert. At
last the server is stopped, another one is started on the same files, and all prompts are asked
again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from grace import PACKAGES, book_of, hit, setting
from ike_forms import share
from setting import arguments, head

from memedit.assemble import make_encoder
from memedit.config import Config
from memedit.edits import Edit
from memedit.memory import EditMemory
from memedit.server.process import ServerProcess

NAME = "model"
TOKENS = 8
STARTING = 900.0
"""Seconds that a server may take to start."""
SOAK = 2.0
"""Seconds that streams go on after a revert."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and when it was asked for and complete, in seconds since the epoch."""

    route: str
    edits: str
    text: str
    begun: float
    ended: float

    @property
    def outcome(self) -> tuple[str, str, str]:
        """All but the times."""
        return self.route, self.edits, self.text


def ask(client: httpx.Client, text: str) -> Said:
    """One chat request, greedy."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    begun = time.time()
    response = client.post("/v1/chat/completions", json=body)
    ended = time.time()
    response.raise_for_status()
    headers = response.headers
    said = response.json()["choices"][0]["message"]["content"]
    return Said(headers["x-memedit-route"], headers.get("x-memedit-edits", ""), said, begun, ended)


def asked(url: str, edits: Sequence[Edit]) -> list[Said]:
    """The edits' own prompts, one after the other."""
    with httpx.Client(base_url=url, timeout=300) as client:
        return [ask(client, edit.key) for edit in edits]


def reverted(url: str, memory: EditMemory, path: Path, edit: Edit, streams: int) -> list[Said]:
    """What streams get before, while and after another process reverts an edit."""
    said: list[Said] = []
    done = threading.Event()

    def stream() -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            while not done.is_set():
                said.append(ask(client, edit.key))

    threads = [threading.Thread(target=stream) for _ in range(streams)]
    for thread in threads:
        thread.start()
    try:
        revert = ["edits", "revert", edit.id, "--memory", str(path)]
        subprocess.run([sys.executable, "-m", "memedit", *revert], check=True)
        at = memory.history(edit.id)[-1].at
        while time.time() < at + SOAK:
            time.sleep(0.05)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return said


def delays(said: Sequence[Said], at: float, edit: Edit) -> dict[str, float | int]:
    """How long an edit was in force after it was reverted, in seconds; negative is before."""
    old = [one for one in said if one.edits == edit.id]
    new = [one for one in said if one.edits != edit.id]
    return {
        "answers": len(said),
        "last edited answer, asked for": round(max(one.begun for one in old) - at, 3),
        "last edited answer, complete": round(max(one.ended for one in old) - at, 3),
        "first plain answer, complete": round(min(one.ended for one in new) - at, 3),
    }


def spread(rows: Sequence[dict[str, float | int]], name: str) -> dict[str, float]:
    """Median and longest."""
    found = [row[name] for row in rows]
    return {"median": round(statistics.median(found), 3), "longest": max(found)}


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    made = setting(given.data, given.split, given.limit, given.seed)
    edits = made.edits[: given.edits]
    path, file = folder / "memory.sqlite3", folder / "edits.codebook"
    book, _ = book_of(given.work, given.share, [edit.id for edit in edits])
    book.save(file, {"model": NAME, "layer": str(given.layer), "namespace": "default"})
    arguments = [
        *(str(given.model), "--served-model-name", NAME),
        *("--max-model-len", "512", "--dtype", "float32"),
    ]
    environ = {
        "MEMEDIT_MEMORY_PATH": str(path),
        "MEMEDIT_GRACE_FILE": str(file),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }

    def server(name: str) -> ServerProcess:
        log = folder / f"{name}.log"
        return ServerProcess(arguments, log=log, environ=environ, timeout=STARTING)

    with EditMemory(path, make_encoder(Config())) as memory:
        memory.add(edits)
        taken, kept = edits[: given.reverts], edits[given.reverts :]
        with server("first") as first:
            live = asked(first.url, edits)
            rows = []
            for edit in taken:
                said = reverted(first.url, memory, path, edit, given.streams)
                rows.append(delays(said, memory.history(edit.id)[-1].at, edit))
                print(json.dumps(rows[-1]), flush=True)
            before = asked(first.url, edits)
        with server("second") as second:
            after = asked(second.url, edits)
    by_codebook = [one.route == "grace" for one in live]
    return {
        "edits": len(edits),
        "answered from the codebook": share(sum(by_codebook), len(edits)),
        "of these hold": share(
            sum(
                hit(one.text, edit)
                for one, edit, mine in zip(live, edits, by_codebook, strict=True)
                if mine
            ),
            sum(by_codebook),
        ),
        "reverts by another process": len(taken),
        "streams": given.streams,
        "seconds from the revert in the journal": {
            name: spread(rows, name) for name in rows[0] if name != "answers"
        },
        "each": rows,
        "after a restart": {
            "answers as before it": share(
                sum(a.outcome == b.outcome for a, b in zip(after, before, strict=True)), len(edits)
            ),
            "from the codebook": share(
                sum(one.route == "grace" for one in after[len(taken) :]), len(kept)
            ),
            "of reverted edits": sum(
                one.edits == edit.id for one, edit in zip(after, taken, strict=False)
            ),
        },
    }


def main() -> None:
    parser = arguments(__doc__, split="dev", limit=200)
    parser.add_argument("--edits", type=int, default=20, help="of them the first that are live")
    parser.add_argument("--reverts", type=int, default=10)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6, help="of the distances: the radii")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "A codebook in vLLM's own server: does it outlive a restart, how soon does a revert act?",
        f"benchmarks/grace_served.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --edits {given.edits} --reverts {given.reverts} "
        f"--streams {given.streams} --seed {given.seed} --layer {given.layer} "
        f"--share {given.share}",
        *PACKAGES,
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(given, Path(folder))
    results = {**started, "model": given.model.name, "layer": given.layer, **rows}
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
