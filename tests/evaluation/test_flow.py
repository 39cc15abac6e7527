"""A transcript under a flow: the known is not asked, what is asked twice is asked once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memedit.evaluation.transcript import Transcript
from memedit.prompt import TextPrompt
from memedit.protocols import Feed, Generation, Request


class Counting:
    """Answers a prompt with its own text in capitals, and counts.

    Args:
        most: so many answers, and then it breaks off.
    """

    def __init__(self, most: int = 1_000) -> None:
        self.asked: list[str] = []
        self._most = most

    def flow(self, feed: Feed) -> None:
        waiting = list(feed(()))
        while waiting:
            number, request = waiting.pop(0)
            if len(self.asked) == self._most:
                raise KeyboardInterrupt
            self.asked.append(request.prompt.text)
            said = Generation(request.prompt.text.upper(), 3, 1)
            waiting += feed([(number, said)])


def two_hops(texts: Sequence[str], said: dict[int, list[str]]) -> Feed:
    """Each text, and then what was said to it."""

    def feed(done: Sequence[tuple[int, Generation]]) -> list[tuple[int, Request]]:
        if not done and not said:
            said.update({n: [] for n in range(len(texts))})
            return [(n, Request(TextPrompt(text), 4, ("\n",))) for n, text in enumerate(texts)]
        asked = []
        for number, answer in done:
            said[number].append(answer.text)
            if len(said[number]) == 1:
                asked.append((number, Request(TextPrompt(f"{answer.text} again"), 4)))
        return asked

    return feed


def opened(folder: Path, engine: Any, seen: list[tuple[int, int]] | None = None) -> Transcript:
    def progress(what: str, done: int, total: int) -> None:
        if seen is not None:
            seen.append((done, total))

    return Transcript(folder, engine, progress, batch=4)


def test_a_prompt_that_two_questions_share_is_asked_once(tmp_path: Path) -> None:
    engine, said, seen = Counting(), {}, []  # type: ignore[var-annotated]
    with opened(tmp_path, engine, seen) as transcript:
        transcript.flow("hops", two_hops(["a", "b", "a"], said))
    assert sorted(engine.asked) == ["A again", "B again", "a", "b"]
    assert said == {0: ["A", "A AGAIN"], 1: ["B", "B AGAIN"], 2: ["A", "A AGAIN"]}
    assert seen[-1] == (6, 6)


def test_a_run_that_is_stopped_asks_only_what_it_does_not_know(tmp_path: Path) -> None:
    texts = [f"t{n}" for n in range(20)]
    first = Counting(most=13)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path, first) as transcript:
        transcript.flow("hops", two_hops(texts, {}))
    second, said = Counting(), {}  # type: ignore[var-annotated]
    with opened(tmp_path, second) as transcript:
        transcript.flow("hops", two_hops(texts, said))
    assert len(first.asked) + len(second.asked) == 40
    assert said[19] == ["T19", "T19 AGAIN"]
    third = Counting()
    with opened(tmp_path, third) as transcript:
        transcript.flow("hops", two_hops(texts, {}))
    assert third.asked == []


def test_the_stop_is_part_of_what_is_asked(tmp_path: Path) -> None:
    engine = Counting()
    requests = [Request(TextPrompt("a"), 4), Request(TextPrompt("a"), 4, ("b",))]
    with opened(tmp_path, engine) as transcript:
        transcript.flow("x", lambda done: [] if done else list(enumerate(requests)))
    assert engine.asked == ["a", "a"]
