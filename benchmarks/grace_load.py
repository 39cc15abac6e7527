"""Codebooks that change while a vLLM is serving: does a request fail, or see half an entry?

    python benchmarks/grace_load.py --model DIR --work FOLDER --out FILE

``--work`` is what ``benchmarks/grace.py learn`` has written. Streams ask one after another: the
prompt of an edit that comes and goes, and prompts that no edit is about. Meanwhile the edit is
added, replaced by another answer and removed, over and over. Each state's answers are taken down
first, one request at a time; under load, every answer must be that of a state that was in force at
some time while the request ran, and of the only one where there was only one.

Then what a codebook costs requests that no edit is about: in tokens a second, and in processor time
of the engine's processes. Two engines take turns, one of them with a codebook; before that they do
so without one, which says how far apart two equal engines are.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from grace import PACKAGES, book_of, chats, setting
from setting import arguments, head

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
    """An engine that serves, its processes, and its codebook, whose states follow each other."""

    def __init__(
        self, engine: Any, pids: Sequence[int], layer: int, prompts: Sequence[Sequence[int]]
    ) -> None:
        self._engine = engine
        self.pids = pids
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


def seconds(pids: Sequence[int]) -> float:
    """The processor seconds that processes have taken so far, their threads' among them."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


async def speed(serving: Serving, prompts: int, given: argparse.Namespace) -> dict[str, float]:
    """What unmarked requests cost that are all sent at once: time and processor time a token."""
    spent, started = seconds(serving.pids), time.perf_counter()
    said = await asyncio.gather(
        *(serving.ask(1 + i % (prompts - 1), 48, marked=False) for i in range(given.timed))
    )
    tokens = sum(len(one.answer) for one in said)
    took = time.perf_counter() - started
    return {
        "tokens/s": tokens / took,
        "processor ms a token": 1e3 * (seconds(serving.pids) - spent) / tokens,
    }


Way = Callable[[], Awaitable[dict[str, float]]]
"""One measurement of what requests cost."""


async def in_turn(ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    """Each way once a round, in another order each round; the first is what others are held to.

    The machine's other work comes and goes: what is compared is one way with the first of the same
    round.
    """
    names = list(ways)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(await ways[name]())
    base = taken[names[0]]
    found: dict[str, Any] = {}
    for name in names:
        found[name] = {part: [round(one[part], 3) for one in taken[name]] for part in base[0]}
        if name != names[0]:
            found[name]["% more than the first, median"] = {
                part: round(
                    100
                    * statistics.median(
                        mine[part] / other[part] - 1
                        for mine, other in zip(taken[name], base, strict=True)
                    ),
                    2,
                )
                for part in base[0]
            }
        print(name, json.dumps(found[name]), flush=True)
    return found


async def costs(
    plain: Serving, served: Serving, prompts: int, given: argparse.Namespace
) -> dict[str, Any]:
    """What a codebook costs requests that it is not about: two engines, one of them with it."""
    assert served.books is not None
    always = served.books.always

    async def of(serving: Serving, namespace: str | None) -> dict[str, float]:
        if serving is served:
            await asyncio.to_thread(always, namespace)
        return await speed(serving, prompts, given)

    return await in_turn(
        {
            "without a codebook": functools.partial(of, plain, None),
            "with it, unmarked": functools.partial(of, served, None),
            "with it, always looking up": functools.partial(of, served, "default"),
        },
        given.rounds,
    )


def states_of(book: Codebook) -> dict[str, Entries]:
    """The codebook's states: without an edit, with it, and with another answer for it."""
    first, second = book.lessons()[:2]
    other = replace(second, edit_id=first.edit_id, keys=first.keys, radii=first.radii)
    made = {}
    for name, lessons in (("none", []), ("first", [first]), ("second", [other])):
        one = Codebook(book.dim, metric=book.metric)
        for lesson in lessons:
            one.add(lesson)
        made[name] = one.entries()
    return made


def async_engine(model: Path) -> tuple[Any, list[int]]:
    """An engine, and its processes."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    me = psutil.Process()
    before = set(me.children(recursive=True))
    made = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            str(model),
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.2,
            max_model_len=1024,
            max_num_seqs=64,
            worker_extension_cls=EXTENSION,
        )
    )
    return made, [one.pid for one in set(me.children(recursive=True)) - before]


async def run(given: argparse.Namespace) -> dict[str, Any]:
    made = setting(given.data, given.split, given.limit, given.seed)
    ids = [edit.id for edit in made.edits]
    book, _ = book_of(given.work, given.share, ids)
    states = states_of(book)
    engines = []
    try:
        served_by, pids = async_engine(given.model)
        engines.append(served_by)
        edit = book.lessons()[0].edit_id
        texts = [made.own[ids.index(edit)], *made.questions[:7]]
        prompts = _tokens.prompt_ids(chats(texts), served_by.get_tokenizer())
        served = Serving(served_by, pids, given.layer, prompts)
        await served.ask(0, marked=False)
        plain_by, others = async_engine(given.model)
        engines.append(plain_by)
        plain = Serving(plain_by, others, given.layer, prompts)
        await plain.ask(0, marked=False)
        twins = await in_turn(
            {
                "one engine": functools.partial(speed, plain, len(prompts), given),
                "the other": functools.partial(speed, served, len(prompts), given),
            },
            given.rounds,
        )
        await served.install(given.capacity)
        loaded = await under_load(served, states, given, len(prompts))
        print(loaded, flush=True)
        put = await served.put(full(book, given.capacity))
        assert served.books is not None
        return {
            "load": loaded,
            "entries": given.capacity,
            "buffer bytes": served.books.bytes,
            "seconds to put all entries": round(put, 4),
            "unmarked requests, two engines without a codebook": twins,
            "unmarked requests": await costs(plain, served, len(prompts), given),
        }
    finally:
        for engine in engines:
            engine.shutdown()


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
    parser = arguments(__doc__, split="train", limit=20)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--capacity", type=int, default=1000, help="entries while speed is taken")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--pause", type=float, default=0.5, help="between changes, in seconds")
    parser.add_argument("--timed", type=int, default=64, help="requests that are timed at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "Codebooks that change while a vLLM is serving: what do requests see?",
        f"benchmarks/grace_load.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --streams {given.streams} --seconds {given.seconds:g} "
        f"--timed {given.timed} --rounds {given.rounds}",
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
