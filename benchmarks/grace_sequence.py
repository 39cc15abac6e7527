"""Edits one after the other into a running vLLM's codebook: do earlier ones hold?

    python benchmarks/grace_sequence.py --model DIR --split dev --limit 200 --work FOLDER --out FILE

``--work`` is what ``benchmarks/grace.py learn`` has written. Each edit is added to the codebook by
the paper's rules and sent to the engine before the next one comes, and both are timed. At some
steps all edits so far are asked, by their radii alone: how many of them hold, and how many of those
that held at their first look. For the survey's equation 12 the first edit's prompt is looked up
after every step. At the end the codebook is written to its file and read again, and every other
edit is taken out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import vllm
from grace import PACKAGES, SPACE, TOKENS, book_of, books_of, chats, engine_of, hit, setting
from ike_forms import share
from setting import arguments, head

from memedit.adapters import _tokens
from memedit.edits import Edit
from memedit.evaluation.measures import retainability, retained
from memedit.grace.codebook import Codebook, Entries, Lesson

PARTS = ("keys", "radii", "values", "spans")


def same(one: Entries, other: Entries) -> bool:
    """Whether two codebooks have the same entries, bit for bit."""
    return one.edit_ids == other.edit_ids and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in PARTS
    )


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median and longest of some times."""
    return {
        "median": round(1e3 * statistics.median(seconds), 2),
        "longest": round(1e3 * max(seconds), 2),
    }


class Course:
    """A running vLLM into which edits come one by one.

    Args:
        given: the arguments.
        lessons: what each edit brings, in order.
        edits: the edits, likewise.
    """

    def __init__(
        self, given: argparse.Namespace, lessons: Sequence[Lesson], edits: Sequence[Edit]
    ) -> None:
        self._llm = engine_of(given.model)
        self._prompts = _tokens.prompt_ids(
            chats([edit.key for edit in edits]), self._llm.get_tokenizer()
        )
        self._edits, self._lessons = edits, lessons
        self.books = books_of(self._llm, given.layer, given.capacity)

    def close(self) -> None:
        """Ends the engine."""
        self._llm.llm_engine.engine_core.shutdown()

    def holding(self, count: int) -> list[bool]:
        """Which of the first edits hold now."""
        mark = self.books.mark(SPACE)
        params = vllm.SamplingParams(temperature=0, max_tokens=TOKENS, extra_args=mark.extra_args)
        asked = [
            {"prompt_token_ids": ids, "cache_salt": mark.cache_salt}
            for ids in self._prompts[:count]
        ]
        said = self._llm.generate(asked, params, use_tqdm=False)
        return [
            hit(one.outputs[0].text, edit)
            for one, edit in zip(said, self._edits[:count], strict=True)
        ]

    def come(self, book: Codebook, looks: Sequence[int]) -> dict[str, Any]:
        """All edits, one after the other, and some looks at those that have come."""
        first = self._lessons[0]
        fired, adding, sending, steps = [], [], [], []
        at_first: list[bool] = []
        for i, lesson in enumerate(self._lessons):
            started = time.perf_counter()
            book.add(lesson)
            entries = book.entries()
            added = time.perf_counter()
            self.books.put(SPACE, entries)
            adding.append(added - started)
            sending.append(time.perf_counter() - added)
            # The state of an edit's own prompt is its first key.
            at = int(entries.lookup(first.keys[:1])[0])
            fired.append(at >= 0 and entries.edit_ids[at] == first.edit_id)
            if i + 1 in looks or i + 1 == len(self._lessons):
                now = self.holding(i + 1)
                at_first += now[len(at_first) :]
                still = retained(at_first, now)
                steps.append(
                    {
                        "edits": i + 1,
                        "hold": share(sum(now), len(now)),
                        "hold of those that held": share(sum(still), len(still)),
                    }
                )
                print(json.dumps(steps[-1]), flush=True)
        return {
            "steps": steps,
            "equation 12, the first edit's own entry": retainability(fired),
            "entries": len(book.entries()),
            "buffer bytes": self.books.bytes,
            "ms to add": milliseconds(adding),
            "ms to send": milliseconds(sending),
        }

    def go(self, book: Codebook) -> dict[str, Any]:
        """Every other edit is taken out."""
        removing = []
        for lesson in self._lessons[1::2]:
            started = time.perf_counter()
            book.remove(lesson.edit_id)
            removing.append(time.perf_counter() - started)
        self.books.put(SPACE, book.entries())
        after = self.holding(len(self._edits))
        alone = Codebook(book.dim, limit=book.limit, metric=book.metric)
        for lesson in self._lessons[::2]:
            alone.add(lesson)
        return {
            "ms to remove": milliseconds(removing),
            "every other one taken out": {
                "as if it had never been there": same(book.entries(), alone.entries()),
                "the others hold": share(sum(after[::2]), len(after[::2])),
                "those taken out hold": share(sum(after[1::2]), len(after[1::2])),
            },
        }


def measured(given: argparse.Namespace) -> dict[str, Any]:
    made = setting(given.data, given.split, given.limit, given.seed)
    whole, _ = book_of(given.work, given.share, [edit.id for edit in made.edits])
    lessons = {lesson.edit_id: lesson for lesson in whole.lessons()}
    edits = [edit for edit in made.edits if edit.id in lessons]
    book = Codebook(whole.dim, limit=whole.limit, metric=whole.metric)
    course = Course(given, [lessons[edit.id] for edit in edits], edits)
    rows = {"edits": len(edits), **course.come(book, given.looks)}
    path = given.work / "sequence.safetensors"
    book.save(path)
    again = Codebook.load(path)[0]
    rows["file bytes"] = path.stat().st_size
    rows["read again"] = same(again.entries(), book.entries())
    rows |= course.go(again)
    course.close()
    return rows


def main() -> None:
    parser = arguments(__doc__, split="train", limit=200)
    parser.add_argument("--layer", type=int, default=25)
    parser.add_argument("--share", type=float, default=0.6, help="of the distances: the radii")
    parser.add_argument("--capacity", type=int, default=4096, help="entries of vLLM's buffers")
    parser.add_argument("--looks", type=int, nargs="*", default=[50, 100, 200, 500])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    started = head(
        "Edits one after the other into a running vLLM: do earlier ones hold?",
        f"benchmarks/grace_sequence.py --model {given.model.name} --split {given.split} "
        f"--limit {given.limit} --seed {given.seed} --layer {given.layer} --share {given.share}",
        *PACKAGES,
    )
    rows = measured(given)
    results = {
        **started,
        "model": given.model.name,
        "split": given.split,
        "n": given.limit,
        "seed": given.seed,
        "layer": given.layer,
        "share": given.share,
        **rows,
    }
    given.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
