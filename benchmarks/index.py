"""How well, how fast and in how much memory are edits found among 10,000, 100,000 and 1,000,000?

    python benchmarks/index.py [--sizes 10000 100000 1000000] [--data DIR] [--cache DIR] [--seed N]

writes benchmarks/results/index.json. The edits are the data's templates filled with the data's
subjects; ``--real`` of them are encoded. Beyond that, rows are drawn: a real edit's vector is the
mean, plus what its template adds, plus what its subject adds, plus a rest; a drawn row takes a
template, a subject and the rest of some real edit, scaled so that the distance to the nearest
neighbour is what it is among as many real edits (see "calibration" in the results). Queries are
rephrasings and questions of records held out from the edits, and edits with noise.

All searches run on one thread. Beside the indexes: ``sentence_transformers.util.semantic_search``,
which in-context editors retrieve with, and a loop over a pickle of vectors.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from setting import head, read

from memedit.encoders import SentenceEncoder
from memedit.indexes import make_index
from memedit.indexes.snapshot import Loaded, Stamp, load, save
from memedit.protocols import Ids, Vectors

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "index.json"

K = 8
BATCH = 64
KINDS = ("hnsw", "flat", "ivfpq")
NOISE = 0.3
"""Length of what is added to an edit's unit vector to make a perturbed query."""
SCALES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
CALIBRATION_ROWS = 600
QUERIES = 500
PASSES = 3
PASS_S = 6.0
CHUNK = 50_000
STAMP = Stamp("benchmark", 1)


@dataclass
class Edits:
    """Real edits: their vectors (n, dim) and the number of each one's template and subject."""

    rows: Vectors
    template: Ids
    subject: Ids

    def __post_init__(self) -> None:
        """Splits every row into mean + template + subject + rest."""
        self.mean = self.rows.mean(axis=0)
        self.by_template = _means(self.rows - self.mean, self.template)
        left = self.rows - self.mean - self.by_template[self.template]
        self.by_subject = _means(left, self.subject)
        self.rest = left - self.by_subject[self.subject]
        self.subjects = np.unique(self.subject)

    def drawn(self, count: int, scale: float, seed: int) -> Vectors:
        """``count`` unit rows like those of real edits."""
        rng = np.random.default_rng(seed)
        rows = np.empty((count, self.rows.shape[1]), np.float32)
        for start in range(0, count, CHUNK):
            part = rows[start : start + CHUNK]
            n = len(part)
            part[:] = self.mean + self.by_template[rng.integers(0, len(self.by_template), n)]
            part += self.by_subject[rng.choice(self.subjects, n)]
            part += np.float32(scale) * self.rest[rng.integers(0, len(self.rest), n)]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return rows


def _means(rows: Vectors, group: Ids) -> Vectors:
    sums = np.zeros((int(group.max()) + 1, rows.shape[1]), np.float32)
    np.add.at(sums, group, rows)
    means: Vectors = sums / np.maximum(np.bincount(group), 1)[:, None].astype(np.float32)
    return means


def templates_and_subjects(data: Path) -> tuple[list[str], list[str]]:
    """Every template with one ``{}`` for its subject, and every subject; both sorted."""
    templates, subjects = set(), set()
    for record in read(data, "counterfact/train.json"):
        subjects.add(record["subject"])
        if record["prompt"].count(record["subject"]) == 1:
            templates.add(record["prompt"].replace(record["subject"], "{}"))
    for case in read(data, "mquake/cf-3k-odd.json"):
        for edit in case["requested_rewrite"]:
            templates.add(edit["prompt"])
            subjects.add(edit["subject"])
    for form in ("cloze", "question"):
        for text in read(data, f"mquake/templates/{form}_templates.json").values():
            templates.add(text.replace("[X]", "{}").replace("__", "").strip())
    for name in ("zsre", "wiki_counterfact"):
        subjects.update(record["subject"] for record in read(data, f"knowedit/{name}.json"))
    return sorted(templates), sorted(subjects)


def held_out(data: Path) -> list[str]:
    """Rephrasings and questions of records that no edit is made of, and search questions."""
    texts = [record["rephrase_prompt"] for record in read(data, "counterfact/dev.json")]
    asked = [q for record in read(data, "scope/edit_questions.json") for q in record["questions"]]
    return texts + asked[:6000:3] + list(read(data, "scope/natural_questions.json"))


def encoded(texts: list[str], cache: Path, what: str) -> Vectors:
    """Their vectors, from the cache where an earlier run left them there."""
    encoder = SentenceEncoder(cache_size=0)
    mark = hashlib.sha256("\n".join([encoder.name, *texts]).encode()).hexdigest()[:16]
    path = cache / f"vectors-{mark}.npy"
    if path.is_file():
        rows: Vectors = np.load(path)
        return rows
    parts, started = [], time.monotonic()
    for start in range(0, len(texts), 5_000):
        parts.append(encoder.encode(texts[start : start + 5_000]))
        done = min(start + 5_000, len(texts))
        print(f"  {done:,} of {len(texts):,} {what} encoded, {time.monotonic() - started:.0f} s")
    rows = np.concatenate(parts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
    return rows


def real_edits(data: Path, count: int, cache: Path, seed: int) -> Edits:
    templates, subjects = templates_and_subjects(data)
    rng = random.Random(seed)
    texts: dict[str, tuple[int, int]] = {}
    number_of = {subject: i for i, subject in enumerate(subjects)}
    of_template = {template: i for i, template in enumerate(templates)}
    while len(texts) < count:
        template, subject = rng.choice(templates), rng.choice(subjects)
        made = template.replace("{}", subject)
        texts.setdefault(made, (of_template[template], number_of[subject]))
    pairs = np.array(list(texts.values()))
    return Edits(encoded(list(texts), cache, "edits"), pairs[:, 0], pairs[:, 1])


def nearest(rows: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """The exact answer: scores and row numbers (n, k)."""
    scores, ids = faiss.knn(queries, rows, k, faiss.METRIC_INNER_PRODUCT)
    return scores, ids


def distances(rows: Vectors, queries: Vectors) -> dict[str, Any]:
    """Cosines to the 1st and 8th neighbour: of edits among themselves, and of queries."""
    own = nearest(rows, rows[:CALIBRATION_ROWS], K + 1)[0][:, 1:]
    asked = nearest(rows, queries[:CALIBRATION_ROWS], K)[0]
    found: dict[str, Any] = {}
    for name, scores in (("edit", own), ("query", asked)):
        for rank in (1, K):
            at = np.quantile(scores[:, rank - 1], (0.1, 0.5, 0.9))
            found[f"{name} to neighbour {rank}"] = {
                "p10": round(float(at[0]), 4),
                "median": round(float(at[1]), 4),
                "p90": round(float(at[2]), 4),
            }
    return found


def calibrated(edits: Edits, queries: Vectors, seed: int) -> tuple[float, dict[str, Any]]:
    """The scale at which as many drawn rows lie as far apart as the real ones do."""
    real = distances(edits.rows, queries)
    goal = real["edit to neighbour 1"]["median"]
    tried: dict[float, dict[str, Any]] = {}
    for scale in SCALES:
        tried[scale] = distances(edits.drawn(len(edits.rows), scale, seed), queries)
        print(f"  scale {scale}: {tried[scale]['edit to neighbour 1']}")
    best = min(SCALES, key=lambda s: abs(tried[s]["edit to neighbour 1"]["median"] - goal))
    return best, {
        "rows compared": len(edits.rows),
        "scale": best,
        "real": real,
        "drawn": tried[best],
        "median to neighbour 1 by scale": {
            str(scale): found["edit to neighbour 1"]["median"] for scale, found in tried.items()
        },
    }


def times(call: Callable[[Any], Any], inputs: list[Any]) -> dict[str, Any]:
    """Milliseconds of a call, by the clock and of the processor, and the spread of the medians.

    The processor's time leaves out what other processes on the same cores took in between. What
    takes long is asked for fewer of the inputs, about :data:`PASS_S` seconds a pass.
    """
    begun = time.perf_counter()
    call(inputs[0])
    inputs = inputs[: max(3, int(PASS_S / (time.perf_counter() - begun)))]
    wall, work = [], []
    for _ in range(PASSES):
        for one in inputs:
            started, begun = time.perf_counter(), time.thread_time()
            call(one)
            work.append(1e3 * (time.thread_time() - begun))
            wall.append(1e3 * (time.perf_counter() - started))
    medians = np.median(np.reshape(wall, (PASSES, -1)), axis=1)
    return {
        "n": len(wall),
        "p50 ms": round(float(np.median(wall)), 3),
        "p99 ms": round(float(np.quantile(wall, 0.99)), 3),
        "p50 ms of the processor": round(float(np.median(work)), 3),
        "p99 ms of the processor": round(float(np.quantile(work, 0.99)), 3),
        "medians of passes ms": [round(float(value), 3) for value in np.sort(medians)],
    }


def recall(found: Ids, best: Ids) -> dict[str, Any]:
    """Share of the exact K that were found, with the standard error over queries."""
    of_query = np.array([len(set(a) & set(b)) / K for a, b in zip(found, best, strict=True)])
    return {
        "n": len(of_query),
        "recall@8": round(float(of_query.mean()), 4),
        "standard error": round(float(of_query.std() / len(of_query) ** 0.5), 4),
    }


def asked_times(search: Callable[[Vectors], Any], queries: Vectors) -> dict[str, Any]:
    batches = [queries[start : start + BATCH] for start in range(0, len(queries) - BATCH, BATCH)]
    return {
        "one query": times(search, [queries[i : i + 1] for i in range(len(queries))]),
        f"batch of {BATCH}": times(search, batches),
    }


def measure(kind: str, rows: Vectors, queries: dict[str, Vectors], best: dict[str, Ids]) -> Any:
    """One index of one size: made, asked, changed, saved and started again."""
    index: Any = make_index(kind, rows.shape[1])
    ids = np.arange(len(rows), dtype=np.int64)
    started = time.perf_counter()
    for start in progress(0, len(rows), CHUNK, kind):
        index.add(ids[start : start + CHUNK], rows[start : start + CHUNK])
    getattr(index, "wait", lambda: None)()
    result: dict[str, Any] = {
        "build s": round(time.perf_counter() - started, 2),
        "build threads": faiss.omp_get_max_threads(),
    }
    for name, texts in queries.items():
        result[name] = recall(index.search(texts, K)[1], best[name])
    result |= asked_times(lambda q: index.search(q, K), np.concatenate(list(queries.values())))
    result["on disk"] = started_again(index, kind, queries["held out"])
    extra = iter(range(10**9, 10**9 + 10**6))
    one = queries["perturbed"][:200]
    result["add one edit"] = times(
        lambda row: index.add(np.array([next(extra)]), row), [one[i : i + 1] for i in range(200)]
    )
    result["remove one edit"] = times(lambda i: index.remove(np.array([i])), list(range(200)))
    return result


def started_again(index: Any, kind: str, queries: Vectors) -> dict[str, Any]:
    """Saves the index and loads it in a fresh process, as a server does when it starts."""
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        path = Path(folder) / "index"
        started = time.perf_counter()
        save(index, path, STAMP)
        saved = time.perf_counter() - started
        np.save(Path(folder) / "queries.npy", queries)
        found = []
        for cached in (True, True, True, False):
            if not cached:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            done = subprocess.run(
                [sys.executable, __file__, "--start", kind, folder],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            found.append(json.loads(done.stdout))
        size = path.stat().st_size
    return {
        "save s": round(saved, 2),
        "MB": round(size / 1e6, 1),
        "start-up s, file in the page cache": sorted(one["start-up s"] for one in found[:3]),
        "start-up s, file not in it": found[3]["start-up s"],
        "resident MB": found[0]["resident MB"],
        "resident MB of the process": found[0]["resident MB of the process"],
    }


def start(kind: str, folder: Path) -> dict[str, Any]:
    """What the fresh process does: loads, searches, and says what it holds."""
    queries = np.load(folder / "queries.npy")
    empty = make_index(kind, queries.shape[1])  # the libraries, which are not the index's memory
    empty.add(np.arange(50), queries[:50])
    empty.search(queries[:1], K)
    gc.collect()
    before = resident()
    started = time.perf_counter()
    loaded = load(folder / "index", kind, queries.shape[1], STAMP)
    taken = time.perf_counter() - started
    assert isinstance(loaded, Loaded), loaded
    for i in range(min(50, len(queries))):
        loaded.index.search(queries[i : i + 1], K)
    return {
        "start-up s": round(taken, 2),
        "resident MB": round((resident() - before) / 1e6, 1),
        "resident MB of the process": round(resident() / 1e6, 1),
    }


def resident() -> int:
    """Bytes of main memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def baselines(rows: Vectors, queries: Vectors) -> dict[str, Any]:
    """What in-context editors retrieve with today."""
    import torch
    from sentence_transformers.util import semantic_search

    torch.set_num_threads(1)
    corpus = torch.from_numpy(rows)
    few = 100 if len(rows) <= 100_000 else 20
    found: dict[str, Any] = {
        "semantic_search": {
            "one query": times(
                lambda q: semantic_search(torch.from_numpy(q), corpus, top_k=K),
                [queries[i : i + 1] for i in range(few)],
            ),
            f"batch of {BATCH}": times(
                lambda q: semantic_search(torch.from_numpy(q), corpus, top_k=K),
                [queries[i * BATCH : (i + 1) * BATCH] for i in range(3)],
            ),
        }
    }
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        path = Path(folder) / "vectors.pkl"
        with path.open("wb") as file:
            pickle.dump({"embeddings": list(rows)}, file, protocol=5)
        started = time.perf_counter()
        with path.open("rb") as file:
            stored = pickle.load(file)["embeddings"]
        taken = time.perf_counter() - started
    found["loop over a pickle"] = {
        "start-up s": round(taken, 2),
        "one query": times(
            lambda q: sorted(range(len(stored)), key=lambda i: -float(stored[i] @ q))[:K],
            list(queries[: 20 if len(rows) <= 10_000 else 3]),
        ),
    }
    return found


def progress(begin: int, end: int, step: int, what: str) -> Iterator[int]:
    started = time.monotonic()
    for at in range(begin, end, step):
        yield at
        done = min(at + step, end)
        print(f"  {what}: {done:,} of {end:,} rows, {time.monotonic() - started:.0f} s", flush=True)


def of_size(
    size: int, edits: Edits, scale: float, asked: Vectors, given: Any
) -> Iterator[dict[str, Any]]:
    """What was found, one part after another."""
    is_real = size <= min(len(edits.rows), 10_000)
    rows = edits.rows[:size] if is_real else edits.drawn(size, scale, given.seed + 1)
    rng = np.random.default_rng(given.seed)
    noise = rng.standard_normal((QUERIES, rows.shape[1])).astype(np.float32)
    near = rows[rng.integers(0, size, QUERIES)] + NOISE * noise / rows.shape[1] ** 0.5
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    held = asked[rng.permutation(len(asked))[:QUERIES]]
    queries: dict[str, NDArray[np.float32]] = {"held out": held, "perturbed": near}
    print(f"{size:,} edits ({'encoded' if is_real else 'drawn'}): the exact answers", flush=True)
    best = {name: nearest(rows, texts, K)[1] for name, texts in queries.items()}
    yield {"rows": "encoded" if is_real else "drawn", "distances": distances(rows, asked)}
    for kind in given.kinds:
        load_average = os.getloadavg()[0]
        found = measure(kind, rows, queries, best)
        yield {kind: found | {"load average before": round(load_average, 1)}}
        gc.collect()
    if not given.no_baselines:
        yield baselines(rows, held)


def about(given: Any) -> dict[str, Any]:
    question = (__doc__ or "").splitlines()[0]
    command = f"python benchmarks/index.py --seed {given.seed} --real {given.real}"
    return {
        **head(
            question, command, "faiss-cpu", "faiss-gpu", "numpy", "torch", "sentence-transformers"
        ),
        "seed": given.seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--real", type=int, default=100_000, help="edits to encode (340 a second)")
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "vectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-baselines", action="store_true", help="the indexes alone")
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start:
        print(json.dumps(start(given.start[0], Path(given.start[1]))))
        return
    (ROOT / "build").mkdir(exist_ok=True)
    edits = real_edits(Path(given.data), given.real, given.cache, given.seed)
    asked = encoded(held_out(Path(given.data)), given.cache, "queries")
    order = np.random.default_rng(given.seed).permutation(len(asked))
    scale, calibration = calibrated(edits, asked[order], given.seed)
    # Sizes that are not run now keep what an earlier run found for them.
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    sizes = dict(kept.get("sizes", {}))
    for size in given.sizes:
        found = sizes.setdefault(str(size), {})
        for part in of_size(size, edits, scale, asked[order], given):
            print(json.dumps(part), flush=True)
            found |= part
            results = about(given) | {"calibration": calibration, "sizes": sizes}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
