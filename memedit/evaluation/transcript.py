"""What an engine has said in a run, durable: the reason why a run can be stopped and resumed.

A run is a plan that always asks the same prompts in the same order. What has been answered is
remembered here, by prompt; a run that is started again goes through its plan from the beginning
and finds what it has asked already. New prompts go to the engine in chunks, and a chunk is written
whole or not at all, so that a resumed run sends the very chunks that the first one would have
sent: outputs depend, in the last digits, on what shares a batch.

A prompt that is asked twice is answered once. Answers are greedy, so that a second one could only
differ by rounding; and a method that sends a prompt on untouched gets what the unedited model
said.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memedit.errors import InvalidInput
from memedit.evaluation.methods import AnyPrompt
from memedit.prompt import ChatPrompt
from memedit.protocols import Engine, Feed, Generation, Request, Scored

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many prompts of it are done, and how many there are."""


class Transcript:
    """The answers and ratings of one run, in two files of its folder.

    ``transcript.jsonl`` holds what was said, one chunk a line; ``timings.jsonl`` how long each
    chunk took. Only one process may have a run's transcript open.

    Args:
        folder: the run's folder.
        engine: answers what is not known yet.
        progress: is told how far each call has come.
        batch: how many prompts go to the engine together, and to disk.

    Raises:
        InvalidInput: a line in the middle of the transcript is damaged.
    """

    def __init__(
        self, folder: Path, engine: Engine, progress: Progress, *, batch: int = 128
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._progress = progress
        self._path = folder / "transcript.jsonl"
        self._known: dict[str, dict[str, Any]] = {}
        self._load()
        self._file = self._path.open("ab")
        self._timings = (folder / "timings.jsonl").open("a", encoding="utf-8")

    def answers(
        self, what: str, prompts: Sequence[AnyPrompt], max_tokens: int, weights: str = ""
    ) -> list[Generation]:
        """Greedy answers in the order of the prompts, from what is known or else the engine.

        Args:
            what: names the step, for progress and timings.
            prompts: any number.
            max_tokens: longest answer.
            weights: names the state of the engine's weights; empty for its own.
        """
        keys = [_key("answer", prompt, str(max_tokens), weights) for prompt in prompts]
        new = self._new(keys)
        self._progress(what, len(prompts) - len(new), len(prompts))
        for start in range(0, len(new), self._batch):
            chunk = new[start : start + self._batch]
            asked = [prompts[place] for place in chunk]
            started = time.perf_counter()
            said = self._engine.generate(asked, max_tokens)
            self._keep(
                what,
                time.perf_counter() - started,
                {
                    keys[place]: {
                        "text": one.text,
                        "prompt_tokens": one.prompt_tokens,
                        "tokens": one.tokens,
                    }
                    for place, one in zip(chunk, said, strict=True)
                },
            )
            done = len(prompts) - len(new) + start + len(chunk)
            self._progress(what, done, len(prompts))
        return [Generation(**self._known[key]) for key in keys]

    def flow(self, what: str, feed: Feed) -> None:
        """Answers what ``feed`` gives, from what is known or else the engine, without rounds.

        What is answered goes to disk in chunks of ``batch``; a run that is killed loses one at
        most. Which requests share a batch depends on when answers end, so that a resumed run may
        differ from an uninterrupted one in the last digits.

        Args:
            what: names the step, for progress and timings.
            feed: as :meth:`memedit.protocols.Engine.flow` has it.
        """
        flow = _Flow(self._known, feed)
        started = time.perf_counter()

        def keep(least: int) -> None:
            nonlocal started
            if len(flow.fresh) >= least:
                now = time.perf_counter()
                self._keep(what, now - started, flow.fresh)
                flow.fresh = {}
                started = now
                self._progress(what, flow.answered, flow.asked)

        def through(done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
            found = flow.next(done)
            keep(self._batch)
            return found

        try:
            self._engine.flow(through)
        finally:
            keep(1)
        self._progress(what, flow.answered, flow.asked)

    def scores(
        self,
        what: str,
        prompts: Sequence[AnyPrompt],
        continuations: Sequence[str],
        weights: str = "",
    ) -> list[Scored]:
        """The rating of each continuation after its prompt, known or else from the engine."""
        pairs = list(zip(prompts, continuations, strict=True))
        keys = [_key("score", prompt, continuation, weights) for prompt, continuation in pairs]
        new = self._new(keys)
        self._progress(what, len(pairs) - len(new), len(pairs))
        for start in range(0, len(new), self._batch):
            chunk = new[start : start + self._batch]
            started = time.perf_counter()
            rated = self._engine.score(
                [pairs[place][0] for place in chunk], [pairs[place][1] for place in chunk]
            )
            self._keep(
                what,
                time.perf_counter() - started,
                {
                    keys[place]: {
                        "logprobs": list(one.logprobs),
                        "tokens": list(one.tokens),
                        "predicted": list(one.predicted),
                    }
                    for place, one in zip(chunk, rated, strict=True)
                },
            )
            self._progress(what, len(pairs) - len(new) + start + len(chunk), len(pairs))
        return [Scored(**{k: tuple(v) for k, v in self._known[key].items()}) for key in keys]

    def note(self, what: str, **figures: Any) -> None:
        """Writes a line of its own to the timings."""
        print(json.dumps({"what": what, **figures}), file=self._timings, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._timings.close()

    def _new(self, keys: Sequence[str]) -> list[int]:
        """The places of the keys that are not known, each key once, in order."""
        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key not in self._known:
                first.setdefault(key, place)
        return list(first.values())

    def _keep(self, what: str, seconds: float, chunk: dict[str, dict[str, Any]]) -> None:
        self._file.write(json.dumps(chunk, ensure_ascii=False).encode("utf-8") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._known.update(chunk)
        tokens = {
            name: sum(one.get(name, 0) for one in chunk.values())
            for name in ("prompt_tokens", "tokens")
            if all(isinstance(one.get(name), int) for one in chunk.values())
        }
        self.note(what, prompts=len(chunk), seconds=round(seconds, 3), **tokens)

    def _load(self) -> None:
        """Takes in the chunks on disk; a last one that was cut off is dropped from the file."""
        if not self._path.exists():
            return
        good = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    chunk = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    chunk = None
                if chunk is None:
                    if file.read(1):
                        raise InvalidInput(
                            f"{self._path}, line {number} is damaged; remove that line and what "
                            "follows it, and the run asks those prompts again"
                        )
                    break
                self._known.update(chunk)
                good += len(line)
        os.truncate(self._path, good)


class _Flow:
    """What stands between a feed and an engine: what is known already, and what is asked twice."""

    def __init__(self, known: Mapping[str, dict[str, Any]], feed: Feed) -> None:
        self._known = known
        self._feed = feed
        self._numbers = itertools.count()
        self._keys: dict[int, str] = {}
        self._waiting: dict[str, list[int]] = {}
        self.fresh: dict[str, dict[str, Any]] = {}
        """What the engine has said and is not on disk yet."""
        self.asked = self.answered = 0

    def next(self, done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
        """What to ask the engine next, having been told these."""
        ready: list[tuple[int, Generation]] = []
        for number, said in done:
            key = self._keys.pop(number)
            self.fresh[key] = asdict(said)
            ready += [(own, said) for own in self._waiting.pop(key)]
        asked = self._feed(ready)
        self.answered += len(ready)
        found: list[tuple[int, Request]] = []
        while asked:
            ready = []
            self.asked += len(asked)
            for own, request in asked:
                rest = " ".join((str(request.max_tokens), *map(json.dumps, request.stop)))
                key = _key("answer", request.prompt, rest)
                if known := self._known.get(key) or self.fresh.get(key):
                    ready.append((own, Generation(**known)))
                elif key in self._waiting:
                    self._waiting[key].append(own)
                else:
                    number = next(self._numbers)
                    self._keys[number] = key
                    self._waiting[key] = [own]
                    found.append((number, request))
            self.answered += len(ready)
            asked = self._feed(ready) if ready else ()
        return found


def _key(kind: str, prompt: AnyPrompt, rest: str, weights: str = "") -> str:
    form = list(prompt.messages) if isinstance(prompt, ChatPrompt) else prompt.text
    parts = [kind, form, rest, weights] if weights else [kind, form, rest]
    content = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
