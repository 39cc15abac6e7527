"""Codebooks that change while a vLLM is serving: does a request fail, or see half an entry?

    python benchmarks/grace_load.py --model DIR --work FOLDER --out FILE

``--work`` is what ``benchmarks/grace.py learn`` has written. Streams ask one after another: the
prompt of an edit that comes and goes, and prompts that no edit is about. Meanwhile the edit is
added, replaced by another answer and removed, over and over. Each state's answers are taken down
first, one request at a time; under load, every answer must be that of a state that was in force at
some time while the request ran, and of the only one where there was only one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from grace import PACKAGES, book_of, chats, setting
from setting import head

from memedit.adapters import _tokens
from memedit.adapters.vllm_grace import EngineCodebooks, Mark
from memedit.adapters.vllm_worker import EXTENSION
from memedit.grace.codebook import Codebook, Entries

TOKENS = 16
STATES = ("none", "first", "second")


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer under load: what was asked, from when to when, and what came."""

    prompt: int
    started: float
    ended: float
    answer: tuple[int, ...]


class Serving:
    """An engine that serves, and its codebook, whose states follow each other."""

    def __init__(self, engine: Any, layer: int, prompts: Sequence[Sequence[int]]) -> None:
        self._engine = engine
        self._prompts = prompts
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._layer = layer
        self.books: EngineCodebooks | None = None

    async def install(self, capacity: int) -> None:
        """Wraps the layer."""
        self.books = await asyncio.to_thread(EngineCodebooks, self._call, self._layer, capacity)

    def _call(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        asked = self._engine.collective_rpc(method, args=args)
        found: list[Any] = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        return found

    async def put(self, entries: Entries) -> float:
        """Makes the codebook this one; gives the seconds that it took."""
        assert self.books is not None
        started = time.perf_counter()
        await asyncio.to_thread(self.books.put, "default", entries)
        return time.perf_counter() - started

    async def ask(self, prompt: int, tokens: int = TOKENS, *, marked: bool = True) -> Asked:
        """One request, to its end."""
        from vllm import SamplingParams

        self._count += 1
        mark: Mark | None = None
        if marked and self.books is not None:
            mark = self.books.mark("default")
        started = time.perf_counter()
        params = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=not marked,
            extra_args=mark.extra_args if mark else None,
        )
        said: dict[str, Any] = {"prompt_token_ids": list(self._prompts[prompt])}
        if mark is not None:
            said["cache_salt"] = mark.cache_salt
        answer: tuple[int, ...] = ()
        async for part in self._engine.generate(said, params, f"request-{self._count}"):
            answer = tuple(part.outputs[0].token_ids)
        return Asked(prompt, started, time.perf_counter(), answer)


async def under_load(
    serving: Serving, states: dict[str, Entries], given: argparse.Namespace, prompts: int
) -> dict[str, Any]:
    """The whole course; see the module."""
    alone = {}
    for name in STATES:
        await serving.put(states[name])
        alone[name] = [(await serving.ask(i)).answer for i in range(prompts)]
    changes: list[tuple[float, float, str]] = []  # begun, done, the state from then on
    asked: list[Asked] = []
    failed: list[str] = []
    end = time.perf_counter() + given.seconds

    async def stream(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            turn += 1
            try:
                asked.append(await serving.ask(0 if turn % 2 else turn % prompts))
            except Exception as error:  # noqa: BLE001 - any failure is what is counted here
                failed.append(f"{type(error).__name__}: {error}")

    async def changing() -> None:
        number = 0
        while time.perf_counter() < end:
            number += 1
            name = STATES[number % len(STATES)]
            begun = time.perf_counter()
            await serving.put(states[name])
            changes.append((begun, time.perf_counter(), name))
            await asyncio.sleep(given.pause)

    await serving.put(states["none"])
    changes.append((0.0, time.perf_counter(), "none"))
    await asyncio.gather(changing(), *(stream(number) for number in range(given.streams)))
    verdicts: Counter[str] = Counter()
    for one in asked:
        possible = in_force(changes, one.started, one.ended)
        if one.answer in {alone[name][one.prompt] for name in possible}:
            verdicts["of the only state" if len(possible) == 1 else "of a state in force"] += 1
        else:
            verdicts["of none"] += 1
    await serving.put(states["none"])
    after = [(await serving.ask(i)).answer for i in range(prompts)]
    return {
        "streams": given.streams,
        "seconds": given.seconds,
        "requests": len(asked),
        "changes": len(changes),
        "failed": failed,
        "answers": dict(verdicts),
        "the edit's prompt, answers": len({alone[name][0] for name in STATES}),
        "after removal as before": after == alone["none"],
        "median seconds a change": round(
            statistics.median(done - begun for begun, done, _ in changes[1:]), 4
        ),
    }


def in_force(changes: Sequence[tuple[float, float, str]], start: float, end: float) -> set[str]:
    """The states that a request may have met that ran from ``start`` to ``end``."""
    found = set()
    for i, (begun, _, name) in enumerate(changes):
        until = changes[i + 1][1] if i + 1 < len(changes) else float("inf")
        if begun <= end and until >= start:
            found.add(name)
    return found


async def speed(serving: Serving, prompts: int, given: argparse.Namespace) -> float:
    """Tokens a second of unmarked requests, all sent at once."""
    started = time.perf_counter()
    said = await asyncio.gather(
        *(serving.ask(1 + i % (prompts - 1), 48, marked=False) for i in range(given.timed))
    )
    return sum(len(one.answer) for one in said) / (time.perf_counter() - started)


async def run(given: argparse.Namespace) -> dict[str, Any]:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    made = setting(given.data, given.split, given.limit, given.seed)
    ids = [edit.id for edit in made.edits]
    book, _ = book_of(given.work, given.share, ids)
    first, second = book.lessons()[:2]
    states = {}
    for name, lesson in (
        ("first", first),
        ("second", replace(second, edit_id=first.edit_id, keys=first.keys, radii=first.radii)),
    ):
        one = Codebook(book.dim, metric=book.metric)
        one.add(lesson)
        states[name] = one.entries()
    states["none"] = Codebook(book.dim, metric=book.metric).entries()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            str(given.model),
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.2,
            max_model_len=1024,
            max_num_seqs=64,
            worker_extension_cls=EXTENSION,
        )
    )
    try:
        tokenizer = engine.get_tokenizer()
        texts = [made.own[ids.index(first.edit_id)], *made.questions[:7]]
        prompts = _tokens.prompt_ids(chats(texts), tokenizer)
        serving = Serving(engine, given.layer, prompts)
        await serving.ask(0, marked=False)
        bare = [await speed(serving, len(prompts), given) for _ in range(given.rounds)]
        await serving.install(given.capacity)
        loaded = await under_load(serving, states, given, len(prompts))
        print(loaded, flush=True)
        put = await serving.put(full(book, given.capacity))
        assert serving.books is not None
        marked_none = [await speed(serving, len(prompts), given) for _ in range(given.rounds)]
        await asyncio.to_thread(serving.books.always, "default")
        always = [await speed(serving, len(prompts), given) for _ in range(given.rounds)]
        return {
            "load": loaded,
            "entries": given.capacity,
            "buffer bytes": serving.books.bytes,
            "seconds to put all entries": round(put, 4),
            "tokens/s of unmarked requests": {
                "before the layer is wrapped": rounded(bare),
                "wrapped, unmarked": rounded(marked_none),
                "wrapped, always looking up": rounded(always),
            },
        }
    finally:
        engine.shutdown()


def rounded(rates: Sequence[float]) -> list[float]:
    return [round(rate, 1) for rate in rates]


def full(book: Codebook, count: int) -> Entries:
    """As many entries as fit: the book's, over and over, moved apart."""
    entries = book.entries()
    rows = np.arange(count) % len(entries)
    apart = 100 * (np.arange(count, dtype=np.float32) // len(entries))
    return Entries(
        keys=entries.keys[rows] + apart[:, None],
        radii=entries.radii[rows],
        values=entries.values[rows],
        spans=entries.spans[rows],
        arrivals=np.arange(count),
        labels=tuple(entries.labels[row] for row in rows),
        edit_ids=tuple(f"{entries.edit_ids[row]}-{i}" for i, row in enumerate(rows)),
        metric=entries.metric,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--data", type=Path, default=os.environ.get("MEMEDIT_DATA", "data"))
    parser.add_argument("--split", choices=("train", "dev"), default="train")
    parser.add_argument("--limit", type=int, default=20, help="CounterFact records")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--capacity", type=int, default=1000, help="entries while speed is taken")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pause", type=float, default=0.5, help="between changes, in seconds")
    parser.add_argument("--timed", type=int, default=32, help="requests that are timed at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "Codebooks that change while a vLLM is serving: what do requests see?",
        f"benchmarks/grace_load.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --streams {given.streams} --seconds {given.seconds:g}",
        *PACKAGES,
    )
    rows = asyncio.run(run(given))
    results = {
        **started,
        "model": given.model.name,
        "layer": given.layer,
        **rows,
    }
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
