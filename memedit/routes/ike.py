"""IKE: the new fact and demonstrations of how to use one, in front of the question.

Source: Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?",
arXiv:2305.12740. The paper puts k = 32 demonstrations of three kinds (copy: the new fact asked in
its own words; update: asked in other words; retain: something else asked) in front of a raw text
prompt, chosen by similarity, the closest last. What differs here: chat requests carry them as
turns of the model's own chat template; the fact stands right in front of the question, as late
in the prompt as it can, which in a text that breaks off is the sentence that names the subject;
the wording depends on whether the question is one or a text to be completed; where it is to be
completed, the edit itself is the first demonstration, in its own words and in two that say little
but the subject, and there are no others unless they are set: right after them a small model gives
the new answer to anything, and that the prompt is about the edit is scope's to tell, not the
model's (``benchmarks/ike_forms.py``, docs/methods.md); an edit that was taught as a question and
its answer is shown as that before another question; and where a prompt is too long there are fewer
demonstrations.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from memedit.config import IKEConfig
from memedit.edits import Edit, clean
from memedit.errors import ConfigError, InvalidInput
from memedit.lexicon import mentions
from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.protocols import Encoder, Vectors
from memedit.sentences import around, breaks_off, split_sentences

Kind = Literal["copy", "update", "retain"]

_END = 2_000
# So many characters at a turn's end are searched for the sentence that names the subject.


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One example of a new fact and how a question is answered under it.

    Attributes:
        kind: ``copy``, ``update`` or ``retain``.
        statement: the new fact.
        query: what is asked.
        answer: the right answer, given the fact.
    """

    kind: Kind
    statement: str
    query: str
    answer: str


class Demonstrations:
    """The demonstrations of a file, chosen by similarity. Thread-safe.

    Args:
        file: a JSON Lines file; empty for the packaged one.
        encoder: compares them with queries; they are encoded when the first are chosen.

    Raises:
        ConfigError: the file cannot be read or is malformed.
    """

    def __init__(self, file: str, encoder: Encoder) -> None:
        self._all = _read(file)
        self._encoder = encoder
        self._vectors: Vectors | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def closest(self, query: str, k: int) -> list[Demonstration]:
        """The ``k`` demonstrations closest to the query, the closest last."""
        if k == 0:
            return []
        with self._lock:
            if self._vectors is None:
                self._vectors = self._encoder.encode([d.query for d in self._all])
        similarity = self._vectors @ self._encoder.encode([query])[0]
        best = np.argsort(-similarity, kind="stable")[:k]
        return [self._all[i] for i in best[::-1]]


class IKE:
    """In-context editing with demonstrations.

    Args:
        config: how many demonstrations, and whose.
        encoder: chooses them by similarity.

    Raises:
        ConfigError: the file of demonstrations cannot be read or is malformed.
    """

    name = "ike"

    def __init__(self, config: IKEConfig, encoder: Encoder) -> None:
        self._config = config
        self._demonstrations = Demonstrations(config.file, encoder)

    def rewrites(
        self, prompt: ChatPrompt | TextPrompt, edits: Sequence[Edit]
    ) -> Sequence[ChatPrompt | TextPrompt]:
        """The prompt with all demonstrations, then with ever fewer of the edit's own and others.

        Demonstrations are for what breaks off, and for a question where an edit was taught by one:
        a model that has seen short answers answers an open request, too, in a word.
        """
        if isinstance(prompt, TextPrompt) and prompt.rendered_chat:
            return [prompt.with_evidence(_fact(prompt.query, edits))]
        if not _is_open(prompt.query, edits):
            return [self._with(prompt, edits, shown) for shown in (*_taught(prompt, edits), ())]
        chat = isinstance(prompt, ChatPrompt)
        wanted = self._config.chat_demonstrations if chat else self._config.text_demonstrations
        closest = self._demonstrations.closest(prompt.query, wanted)
        own = [[*shown, *closest] for shown in _own(edits)]
        steps = [*own, *(closest[len(closest) - k :] for k in _ladder(len(closest)))]
        return [self._with(prompt, edits, shown) for shown in steps]

    def _with(
        self,
        prompt: ChatPrompt | TextPrompt,
        edits: Sequence[Edit],
        shown: Sequence[Demonstration],
    ) -> ChatPrompt | TextPrompt:
        if isinstance(prompt, ChatPrompt):
            return self._chat(prompt, edits, shown)
        return self._text(prompt, edits, shown)

    def _chat(
        self, prompt: ChatPrompt, edits: Sequence[Edit], chosen: Sequence[Demonstration]
    ) -> ChatPrompt:
        """Demonstrations as turns before the last one; the fact in it."""
        # What does not break off has a question before it, and is one.
        asks = bool(chosen) and not _is_open(prompt.query, edits)
        question = _prompt_text("chat_question") if asks else ""
        turns: list[Message] = []
        for shown in chosen:
            form = question or _form(shown.query, edits)
            asked = form.replace("{facts}", shown.statement) + shown.query
            turns.append({"role": "user", "content": asked})
            turns.append({"role": "assistant", "content": shown.answer})
        form = question or _form(prompt.query, edits)
        evidence = form.replace("{facts}", _facts(edits))
        return prompt.with_evidence(evidence, turns, skip=_skipped(prompt, edits))

    def _text(
        self, prompt: TextPrompt, edits: Sequence[Edit], chosen: Sequence[Demonstration]
    ) -> TextPrompt:
        """Demonstrations and the fact as text right in front of the text to be completed."""
        form = _prompt_text("text")
        blocks = [f"{form.replace('{facts}', d.statement)}{d.query} {d.answer}\n\n" for d in chosen]
        evidence = form.replace("{facts}", _facts(edits))
        return prompt.with_evidence("".join(blocks) + evidence)


def _own(edits: Sequence[Edit]) -> list[list[Demonstration]]:
    """The edits as demonstrations of their own, in steps of ever fewer.

    A single edit in its own words and in others; then, and where there are several edits, each in
    its own words, the most probable last. Those that cannot be asked are left out.
    """
    copies = [
        Demonstration("copy", edit.statement, edit.key, edit.target)
        for edit in reversed(edits)
        if edit.target is not None and edit.key != edit.statement
    ]
    steps = [copies] if copies else []
    if len(edits) == len(copies) == 1 and (subject := edits[0].subject):
        others = [subject, _prompt_text("stub").replace("{subject}", subject)]
        updates = [replace(copies[0], kind="update", query=query) for query in others]
        steps.insert(0, [*copies, *updates])
    return steps


def _taught(prompt: ChatPrompt | TextPrompt, edits: Sequence[Edit]) -> list[list[Demonstration]]:
    """An edit as the question and the answer by which it was taught, where a question is asked.

    Not of several edits: what has seen one answer gives one.
    """
    if len(edits) > 1 or not prompt.query.rstrip().endswith(("?", "？")):
        return []
    return [
        [Demonstration("copy", edit.statement, edit.question, edit.target)]
        for edit in edits
        if edit.question is not None and edit.target is not None
    ]


def _skipped(prompt: ChatPrompt, edits: Sequence[Edit]) -> int:
    """How much of a turn stands before the fact: all up to the sentence that names a subject.

    Only where the turn breaks off; where it asks, the fact stands before everything that is said.
    """
    if not _is_open(prompt.query, edits):
        return 0
    before = max(0, len(prompt.last_text) - _END)
    text = prompt.last_text[before:]
    named = mentions(text, [name for edit in edits for name in edit.names])
    if not named:
        return 0
    start, _ = around(split_sentences(text), named[-1])
    return before + start if start > 0 else 0


def _ladder(k: int) -> list[int]:
    """``k``, its half, and so on down to none: ``[8, 4, 2, 1, 0]``."""
    steps = [k]
    while steps[-1] > 0:
        steps.append(steps[-1] // 2)
    return steps


def _facts(edits: Sequence[Edit]) -> str:
    """The facts on one line; the most probable last, next to the question."""
    return " ".join(edit.statement for edit in reversed(edits))


def _fact(query: str, edits: Sequence[Edit]) -> str:
    return _form(query, edits).replace("{facts}", _facts(edits))


def _form(query: str, edits: Sequence[Edit]) -> str:
    """The text for a chat's query: what breaks off is completed, anything else answered."""
    return _prompt_text("chat_complete" if _is_open(query, edits) else "chat_answer")


def _is_open(query: str, edits: Sequence[Edit]) -> bool:
    """Whether a query breaks off and is to be completed; it may begin with an edit's name."""
    end = query[-_END:]
    return breaks_off(end, mentions(end, [name for edit in edits for name in edit.names]))


@cache
def _prompt_text(name: str) -> str:
    """A prompt text; a line break at the end of the file is not part of it."""
    file = files("memedit.routes").joinpath("prompts", f"ike_{name}.txt")
    return file.read_text(encoding="utf-8").removesuffix("\n")


def _read(file: str) -> list[Demonstration]:
    """The demonstrations of a JSON Lines file; of the packaged one by default."""
    place = Path(file) if file else files("memedit.routes").joinpath("demonstrations.jsonl")
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the demonstrations in {place} cannot be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            texts = {name: clean(data[name], name) for name in ("statement", "query", "answer")}
            if data["kind"] not in get_args(Kind):
                raise InvalidInput(
                    f"kind is {data['kind']!r}, not one of {', '.join(get_args(Kind))}"
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{place}, line {number}: not a demonstration with kind, statement, query and "
                f"answer ({error})"
            ) from error
        found.append(Demonstration(data["kind"], **texts))
    return found
