"""How long an add takes in a large memory, and what an import costs beside encoding.

    python benchmarks/memory.py [--edits N] [--index KIND] [--seed N]
        writes benchmarks/results/memory.json (but for "at scale": memory_scale.py)

``add``: one edit at a time, encoding included, into a memory that holds N edits; and the same
without encoding, so that the encoder's share shows. ``import``: JSON Lines of new edits through
memedit.importing against the encoder alone on the same texts in the same batches, alternating in
one run; the ratio is what counts. The N edits are stored with random unit vectors under the
encoder's name: what they say plays no part in either figure.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from setting import head

from memedit.edits import Edit, structured
from memedit.encoders import SentenceEncoder
from memedit.importing import import_edits, read_source
from memedit.memory import EditMemory
from memedit.protocols import Vectors

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
RELATIONS = (
    "The capital of {} is",
    "{} was founded by",
    "The headquarters of {} are in",
    "The official language of {} is",
    "The chief executive officer of {} is",
)


class Filler:
    """Random unit rows under the name of the encoder that they stand in for."""

    def __init__(self, name: str, dim: int, seed: int) -> None:
        self.name = name
        self.dim = dim
        self._rng = np.random.default_rng(seed)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Shape (len(texts), dim), float32."""
        rows = self._rng.standard_normal((len(texts), self.dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def edits(prefix: str, count: int, rng: random.Random) -> list[Edit]:
    """Facts about as many subjects."""
    return [
        structured(
            f"{prefix} {i} {rng.choice(('Works', 'Island', 'Society', 'Institute'))}",
            rng.choice(RELATIONS),
            f"Place {rng.randrange(1_000)}",
        )
        for i in range(count)
    ]


def spread(milliseconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        "n": len(ordered),
        "median_ms": round(statistics.median(ordered), 3),
        "p10_ms": round(ordered[len(ordered) // 10], 3),
        "p90_ms": round(ordered[len(ordered) * 9 // 10], 3),
    }


def timed_adds(memory: EditMemory, new: Sequence[Edit]) -> dict[str, float]:
    """One call an edit; each is searched for afterwards, outside the time."""
    times = []
    for edit in new:
        started = time.perf_counter()
        memory.add(edit)
        times.append(1e3 * (time.perf_counter() - started))
        assert memory.get(edit.id).state == "active"
    return spread(times)


def timed_import(
    memory: EditMemory, encoder: SentenceEncoder, rounds: int, batch: int, rng: random.Random
) -> dict[str, Any]:
    """Texts per second of the encoder alone and of an import, in turns."""
    alone, through = [], []
    for number in range(rounds):
        new = edits(f"Round {number} alone", batch, rng)
        started = time.perf_counter()
        encoder.encode([edit.key for edit in new])
        alone.append(batch / (time.perf_counter() - started))
        new = edits(f"Round {number} import", batch, rng)
        lines = io.BytesIO("\n".join(json.dumps(edit.to_mapping()) for edit in new).encode())
        started = time.perf_counter()
        (report,) = import_edits(memory, read_source(lines, "jsonl", time.time()), batch=batch)
        through.append(batch / (time.perf_counter() - started))
        assert report.added == batch
    return {
        "rounds": rounds,
        "batch": batch,
        "encoder_per_s": round(statistics.median(alone), 1),
        "import_per_s": round(statistics.median(through), 1),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, through, strict=True)), 4),
        "target": 0.9,
    }


def refreshes(memory: EditMemory, count: int = 20_000) -> float:
    """Microseconds of a look that finds nothing new."""
    started = time.perf_counter()
    for _ in range(count):
        memory.refresh()
    return round(1e6 * (time.perf_counter() - started) / count, 1)


def measure(count: int, index: str, seed: int, folder: Path) -> dict[str, Any]:
    rng = random.Random(seed)
    encoder = SentenceEncoder()
    filler = Filler(encoder.name, encoder.dim, seed)
    path = folder / "memory.db"
    started = time.perf_counter()
    with EditMemory(path, filler, index=index) as memory:
        for start in range(0, count, 10_000):
            memory.add(edits(f"Old {start}", min(10_000, count - start), rng))
        filled = time.perf_counter() - started
        without = timed_adds(memory, edits("Plain", 200, rng))
    started = time.perf_counter()
    with EditMemory(path, encoder, index=index) as memory:
        opened = time.perf_counter() - started
        encoder.encode(["warm"])
        adds = timed_adds(memory, edits("New", 200, rng))
        # Another target for a known subject: what conflicts cost.
        subjects = [r.edit.subject or "" for r in memory.records()[:100]]
        again = [structured(s, "{} is led by", f"Person {i}") for i, s in enumerate(subjects)]
        conflicting = timed_adds(memory, again)
        return {
            "edits": count,
            "index": index,
            "fill_without_encoding_per_s": round(count / filled),
            "open_s": round(opened, 2),
            "refresh_us": refreshes(memory),
            "add": adds | {"target_ms": 30},
            "add without encoding": without,
            "add beside another edit of the subject": conflicting,
            "import": timed_import(memory, encoder, 5, 1_000, rng),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=100_000)
    parser.add_argument("--index", default="flat")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(given.edits, given.index, given.seed, Path(folder))
    results = {
        **head(
            "How long does an add take, and what does an import cost beside encoding?",
            f"python benchmarks/memory.py --edits {given.edits} --index {given.index} "
            f"--seed {given.seed}",
            *("numpy", "torch", "sentence-transformers"),
        ),
        "seed": given.seed,
        **measured,
    }
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if "at scale" in kept:
        results["at scale"] = kept["at scale"]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
