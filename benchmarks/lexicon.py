"""How long does it take to see which of 1,000,000 subjects a text mentions, and in how much memory?

    python benchmarks/lexicon.py [--subjects 1000000] [--data DIR] [--seed N]

writes benchmarks/results/lexicon.json. Subjects are the data's, and names made of the words of
those. Texts have 2,000 characters: sentences of held-out records that mention no subject, with 0,
5 or 50 names put in at even distances. Beside the lexicon: a scan for every name, one regular
expression of all names (of 10,000 of them: more take minutes to compile), and pyahocorasick where
it is installed; the last two find the names without regard to word boundaries or possessives.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from setting import head, read

from memedit.lexicon import SubjectLexicon

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "lexicon.json"

LENGTH = 2_000
MENTIONS = (0, 5, 50)
TEXTS = 200
PASSES = 5
CHUNK = 10_000
IN_A_PATTERN = 10_000
SHARING = 100_000


def subjects_of(data: Path) -> list[str]:
    found = {record["subject"] for record in read(data, "counterfact/train.json")}
    for name in ("zsre", "wiki_counterfact"):
        found.update(record["subject"] for record in read(data, f"knowedit/{name}.json"))
    return sorted(found)


class Names:
    """Subjects, first the real ones and then as many more as are asked for."""

    def __init__(self, real: Sequence[str], seed: int) -> None:
        self._rng = random.Random(seed)
        self._real = list(real)
        self._rng.shuffle(self._real)
        self._words = sorted({word for name in real for word in name.split()})
        self._firsts = [name.split()[0] for name in real]

    def take(self, count: int) -> list[str]:
        """The next so many."""
        taken, self._real = self._real[:count], self._real[count:]
        while len(taken) < count:
            words = self._rng.choices(self._words, k=self._rng.choice((1, 1, 2)))
            taken.append(" ".join((self._rng.choice(self._firsts), *words)))
        return taken


def built(real: Sequence[str], count: int, seed: int) -> tuple[SubjectLexicon, dict[str, Any]]:
    """A lexicon of so many different names, and what it took to make it."""
    names, lexicon = Names(real, seed), SubjectLexicon()
    gc.collect()
    before, taken, position = resident(), 0.0, 0
    while len(lexicon) < count:
        some = names.take(min(CHUNK, count - len(lexicon)))
        started = time.perf_counter()
        for name in some:
            lexicon.add(position, (name,))
            position += 1
        taken += time.perf_counter() - started
        if position % (20 * CHUNK) == 0:
            print(f"  {position:,} of {count:,} subjects, {taken:.1f} s", flush=True)
    del names
    gc.collect()
    return lexicon, {
        "names": len(lexicon),
        "edits": position,
        "build s": round(taken, 2),
        "resident MB": round((resident() - before) / 1e6, 1),
    }


def resident() -> int:
    """Bytes of main memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def texts_of(fill: Sequence[str], names: Sequence[str], mentions: int, seed: int) -> list[str]:
    """Texts of :data:`LENGTH` characters with so many names, at even distances."""
    rng = random.Random(seed)
    made = []
    for _ in range(TEXTS):
        text, put = "", 0
        while len(text) < LENGTH:
            if put < mentions and len(text) >= put * (LENGTH - 40) / max(mentions, 1):
                text += f"{rng.choice(names)} "
                put += 1
            elif mentions > 20:
                # Whole sentences would leave no room for so many names.
                text += f"{rng.choice(rng.choice(fill).split())} "
            else:
                text += f"{rng.choice(fill)} "
        made.append(text[:LENGTH])
    return made


def times(call: Callable[[str], Any], texts: Sequence[str], passes: int = PASSES) -> dict[str, Any]:
    """Milliseconds of a call, by the clock and of the processor, and the spread of the medians."""
    call(texts[0])
    wall, work = [], []
    for _ in range(passes):
        for text in texts:
            started, begun = time.perf_counter(), time.thread_time()
            call(text)
            work.append(1e3 * (time.thread_time() - begun))
            wall.append(1e3 * (time.perf_counter() - started))
    medians = np.median(np.reshape(wall, (passes, -1)), axis=1)
    return {
        "n": len(wall),
        "p50 ms": round(float(np.median(wall)), 3),
        "p99 ms": round(float(np.quantile(wall, 0.99)), 3),
        "p50 ms of the processor": round(float(np.median(work)), 3),
        "p99 ms of the processor": round(float(np.quantile(work, 0.99)), 3),
        "medians of passes ms": [round(float(value), 3) for value in np.sort(medians)],
    }


def sharing(count: int) -> dict[str, Any]:
    """Seconds for edits that all have one subject: quadratic time would show here."""
    found = {}
    for edits in (count // 10, count):
        lexicon = SubjectLexicon()
        started = time.perf_counter()
        for position in range(edits):
            lexicon.add(position, ("France",))
        added = time.perf_counter()
        for position in range(edits):
            lexicon.remove(position)
        found[str(edits)] = {
            "add s": round(added - started, 3),
            "remove s": round(time.perf_counter() - added, 3),
        }
    return found


def baselines(names: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    folded = [name.casefold() for name in names]
    found: dict[str, Any] = {}

    def scan(text: str) -> list[str]:
        text = text.casefold()
        return [name for name in folded if name in text]

    found["scan for every name"] = times(scan, texts[:3], 1)
    started = time.perf_counter()
    some = sorted(folded[:IN_A_PATTERN], key=len, reverse=True)
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, some)) + r")\b")
    compiled = time.perf_counter() - started
    found[f"regular expression of {IN_A_PATTERN:,} names"] = {
        "build s": round(compiled, 2),
        **times(lambda text: pattern.findall(text.casefold()), texts[:5], 1),
    }
    if find_spec("ahocorasick") is not None:
        import ahocorasick

        gc.collect()
        before, started = resident(), time.perf_counter()
        automaton = ahocorasick.Automaton()
        for position, name in enumerate(folded):
            automaton.add_word(name, position)
        automaton.make_automaton()
        found["pyahocorasick"] = {
            "build s": round(time.perf_counter() - started, 2),
            "resident MB": round((resident() - before) / 1e6, 1),
            **times(lambda text: list(automaton.iter(text.casefold())), texts),
        }
    return found


def about(given: Any) -> dict[str, Any]:
    question = (__doc__ or "").splitlines()[0]
    command = f"python benchmarks/lexicon.py --subjects {given.subjects} --seed {given.seed}"
    return {**head(question, command, "numpy"), "seed": given.seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = Path(given.data)
    results = about(given)
    real = subjects_of(data)
    lexicon, results["lexicon"] = built(real, given.subjects, given.seed)
    started = time.perf_counter()
    saved = lexicon.to_bytes()
    results["lexicon"]["to bytes s"] = round(time.perf_counter() - started, 2)
    results["lexicon"]["MB on disk"] = round(len(saved) / 1e6, 1)
    started = time.perf_counter()
    again = SubjectLexicon.from_bytes(saved)
    results["lexicon"]["from bytes s"] = round(time.perf_counter() - started, 2)
    assert len(again) == len(lexicon)
    del saved, again
    print(json.dumps(results["lexicon"]), flush=True)
    names = Names(real, given.seed).take(given.subjects)
    sentences = [record["rephrase_prompt"] for record in read(data, "counterfact/dev.json")]
    fill = [text for text in sentences if not lexicon.find(text)]
    texts = {count: texts_of(fill, names, count, given.seed) for count in MENTIONS}
    for count, some in texts.items():
        seen = [len(lexicon.find(text)) for text in some]
        found = {"mentions found, median": float(np.median(seen)), **times(lexicon.find, some)}
        results[f"{LENGTH:,} characters, {count} names"] = found
        print(count, found, flush=True)
    results["edits that share one subject"] = sharing(SHARING)
    results["baselines, 5 names"] = baselines(names, texts[5])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results["baselines, 5 names"], indent=1))


if __name__ == "__main__":
    main()
