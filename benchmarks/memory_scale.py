"""What a memory of 100,000 or 1,000,000 edits costs: to open, to hold, to ask and to add to.

    python benchmarks/memory_scale.py [--sizes 100000 1000000] [--folder DIR] [--seed N]
        writes "at scale" in benchmarks/results/memory.json

A file of N edits with ready-made vectors is made: the journal as adding them would leave it, and
then its snapshots, by a process that opens and closes it. A fresh process without any language
model opens it, says how much main memory it takes, asks one query at a time for the edits whose
subject it names and for the nearest (the vector is ready-made), and adds edits one at a time.

Texts are templates filled with made-up names. A vector is the unit sum of its template's direction,
a direction of its own, and for a query what lies a little beside an edit's. N is reached without
conflicts, but for one edit in fifty, which supersedes another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from setting import head

from memedit.edits import Edit, structured
from memedit.indexes.growing import GrowingIndex
from memedit.journal import Journal
from memedit.memory import EditMemory
from memedit.protocols import Vectors

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
DIM = 384
BATCH = 10_000
QUERIES = 1_000
ADDS = 200
SUPERSEDING = 50
"""One edit in so many answers the fact of an earlier one anew."""
TARGETS = {"open s": 5.0, "resident GB": 2.0, "candidates p99 ms": 10.0, "search p99 ms": 10.0}
TEMPLATES = (
    "The capital of {} is",
    "{} was founded by",
    "The headquarters of {} are in",
    "The official language of {} is",
    "The chief executive officer of {} is",
    "{} is a citizen of",
    "The spouse of {} is",
    "{} plays the position of",
    "The author of {} is",
    "{} was born in the city of",
)
SYLLABLES = "ba ke li mo nu ra se ti vo zu dan fel gor hin jas kel lam mir nor pol".split()


class Ready:
    """Gives the vectors that it was told to give, under a name of its own."""

    name = "ready-made"
    dim = DIM

    def __init__(self) -> None:
        self.rows: Vectors = np.zeros((1, DIM), np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), DIM): the rows that were put here."""
        return np.resize(self.rows, (len(texts), DIM))


def words(seed: int) -> list[str]:
    rng = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < 3_000:
        made["".join(rng.choices(SYLLABLES, k=rng.choice((2, 3)))).capitalize()] = None
    return list(made)


def edit_of(number: int, names: Sequence[str]) -> Edit:
    """The edit of this number: always the same one."""
    of = number - 1 if number % SUPERSEDING == SUPERSEDING - 1 else number
    first, second = divmod(of * 7919 % len(names) ** 2, len(names))
    subject = f"{names[first]} {names[second]}"
    template = TEMPLATES[of % len(TEMPLATES)]
    target = f"{names[number * 31 % len(names)]}"
    return structured(subject, template, target, id=f"edit-{number}")


def rows_of(first: int, count: int, seed: int) -> Vectors:
    """Unit rows of the edits from this number on, shape (count, DIM)."""
    directions = np.random.default_rng(seed).standard_normal((len(TEMPLATES), DIM))
    own = np.random.default_rng((seed, first)).standard_normal((count, DIM))
    rows = (directions[np.arange(first, first + count) % len(TEMPLATES)] + own).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def make_file(path: Path, count: int, seed: int) -> float:
    """Writes the journal of ``count`` edits; returns how many seconds that took."""
    names = words(seed)
    started = time.perf_counter()
    journal = Journal(path)
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        with journal.transaction() as transaction:
            positions = []
            for number in range(start, stop):
                again = number % SUPERSEDING == SUPERSEDING - 1
                event = transaction.append(
                    "add",
                    f"edit-{number}",
                    "default",
                    author="benchmark",
                    edit=edit_of(number, names).to_mapping(),
                    supersedes=[f"edit-{number - 1}"] if again else [],
                )
                positions.append(event.position)
            transaction.put_vectors(Ready.name, positions, rows_of(start, stop - start, seed))
        print(f"  {stop:,} of {count:,} edits, {time.perf_counter() - started:.0f} s", flush=True)
    journal.close()
    return time.perf_counter() - started


def save_snapshots(path: Path) -> dict[str, float]:
    """Opens the file as after a crash, waits for its index, and closes it."""
    started = time.perf_counter()
    memory = EditMemory(path, Ready())
    opened = time.perf_counter()
    index = memory._view.namespaces["default"].index
    if isinstance(index, GrowingIndex):
        index.wait()
    waited = time.perf_counter()
    memory.close()
    return {
        "open without a snapshot s": round(opened - started, 2),
        "then until the graph is there s": round(waited - opened, 1),
        "close s": round(time.perf_counter() - waited, 1),
    }


def resident() -> float:
    """Gigabytes of main memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)


def now() -> tuple[float, float]:
    """Wall clock and processor time of this process, in milliseconds."""
    return 1e3 * time.perf_counter(), 1e3 * time.process_time()


def spread(spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of spans of wall clock and processor time, which differ where others have the machine."""
    found: dict[str, Any] = {"n": len(spans)}
    for name, column in zip(("", " of processor time"), zip(*spans, strict=True), strict=True):
        ordered = sorted(column)
        found[f"p50 ms{name}"] = round(statistics.median(ordered), 3)
        found[f"p99 ms{name}"] = round(ordered[len(ordered) * 99 // 100], 3)
    return found


def ask(memory: EditMemory, encoder: Ready, count: int, seed: int) -> dict[str, Any]:
    """One query at a time: the edits whose subject a text names, and the eight nearest of all."""
    names = words(seed)
    rng = np.random.default_rng(seed + 1)
    named, nearest = [], []
    for i, start in enumerate(rng.integers(0, count // BATCH, QUERIES).tolist()):
        if i % 50 == 0:
            rows = rows_of(start * BATCH, BATCH, seed)
            held = start
        at = int(rng.integers(0, len(rows)))
        near = rows[at] + 0.5 / DIM**0.5 * rng.standard_normal(DIM).astype(np.float32)
        encoder.rows = (near / np.linalg.norm(near))[None, :]
        edit = edit_of(held * BATCH + at, names)
        begun = now()
        (candidates,) = memory.candidates([f"Tell me: {edit.key}?"])
        found = now()
        hits = memory.search("Tell me about that place, if you can.", k=8)
        done = now()
        named.append((found[0] - begun[0], found[1] - begun[1]))
        nearest.append((done[0] - found[0], done[1] - found[1]))
        assert any(candidate.edit.subject == edit.subject for candidate in candidates)
        assert len(hits) == 8
    return {"candidates": spread(named), "search": spread(nearest)}


def add(memory: EditMemory, encoder: Ready, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed + 2)
    times = []
    for i in range(ADDS):
        row = rng.standard_normal((1, DIM)).astype(np.float32)
        encoder.rows = row / np.linalg.norm(row)
        edit = structured(f"Newcomer {i} {rng.integers(1 << 40)}", TEMPLATES[i % 10], "Somewhere")
        started, busy = now()
        memory.add(edit)
        ended, done = now()
        times.append((ended - started, done - busy))
        assert memory.get(edit.id).state == "active"
    return spread(times)


def start(path: Path, count: int, seed: int, change: bool) -> dict[str, Any]:
    """What the fresh process does."""
    encoder = Ready()
    before = resident()
    started, busy = time.perf_counter(), time.process_time()
    memory = EditMemory(path, encoder)
    found: dict[str, Any] = {
        "open s": round(time.perf_counter() - started, 2),
        "open, processor s": round(time.process_time() - busy, 2),
    }
    found["active"] = len(memory)
    found["resident GB before"] = before
    found["resident GB"] = resident()
    if change:
        found |= ask(memory, encoder, count, seed)
        found["resident GB after queries"] = resident()
        found["add one edit"] = add(memory, encoder, seed)
        found["resident GB after adds"] = resident()
    os._exit(_told(found))  # as a kill would end it: the next run finds the same snapshot


def _told(found: dict[str, Any]) -> int:
    print(json.dumps(found), flush=True)
    return 0


def fresh(path: Path, count: int, seed: int, *, cached: bool, change: bool) -> dict[str, Any]:
    """Runs :func:`start` in a process of its own."""
    if not cached:
        for file in (path, *path.with_name(f"{path.name}.index").iterdir()):
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--seed", str(seed)),
            *("--start", str(path), str(count), str(int(change))),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(count: int, seed: int, folder: Path) -> dict[str, Any]:
    path = folder / f"memory-{count}.sqlite3"
    found: dict[str, Any] = {"edits": count}
    if not path.exists():
        found["journal written in s"] = round(make_file(path, count, seed), 1)
    if not path.with_name(f"{path.name}.index").exists():
        found |= save_snapshots(path)
    found["load average before"] = round(os.getloadavg()[0], 1)
    found["open s, files not in the page cache"] = fresh(
        path, count, seed, cached=False, change=False
    )["open s"]
    opened = [fresh(path, count, seed, cached=True, change=False)["open s"] for _ in range(2)]
    found["open s, files in the page cache"] = sorted(opened)
    found |= fresh(path, count, seed, cached=True, change=True)
    found["MB"] = {
        "memory file": round(path.stat().st_size / 1e6, 1),
        "snapshots": round(
            sum(f.stat().st_size for f in path.with_name(f"{path.name}.index").iterdir()) / 1e6, 1
        ),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where files are made, and found again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start:
        start(Path(given.start[0]), int(given.start[1]), given.seed, given.start[2] == "1")
    # What is not measured now is kept as an earlier run found it.
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    sizes = dict(results.get("at scale", {}).get("sizes", {}))
    with tempfile.TemporaryDirectory() as temporary:
        for count in given.sizes:
            found = measure(count, given.seed, given.folder or Path(temporary))
            print(json.dumps(found, indent=1), flush=True)
            sizes[str(count)] = found
            results["at scale"] = {
                **head(
                    (__doc__ or "").splitlines()[0],
                    f"python benchmarks/memory_scale.py --seed {given.seed}",
                    *("numpy", "faiss-cpu", "faiss-gpu"),
                ),
                "seed": given.seed,
                "targets": TARGETS,
                "sizes": sizes,
            }
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
