"""IKE: the new fact and demonstrations of how to use one, in front of the question.

Source: Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?",
arXiv:2305.12740. The paper puts k = 32 demonstrations of three kinds (copy: the new fact asked in
its own words; update: asked in other words; retain: something else asked) in front of a raw text
prompt, chosen by similarity, the closest last. What differs here: chat requests carry them as
turns of the model's own chat template; the fact stands right in front of the question, as late
in the prompt as it can; the wording depends on whether the question is one or a text to be
completed; how many demonstrations are worth their tokens was measured
(``benchmarks/ike_forms.py``) and is a setting; and where a prompt is too long there are fewer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from memedit.config import IKEConfig
from memedit.edits import Edit, clean
from memedit.errors import ConfigError, InvalidInput
from memedit.prompt import ChatPrompt, Message, TextPrompt
from memedit.protocols import Encoder, Vectors

Kind = Literal["copy", "update", "retain"]


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


class IKE:
    """In-context editing with demonstrations.

    Args:
        config: how many demonstrations, and whose.
        encoder: chooses them by similarity; they are encoded when the first are chosen.

    Raises:
        ConfigError: the file of demonstrations cannot be read or is malformed.
    """

    name = "ike"

    def __init__(self, config: IKEConfig, encoder: Encoder) -> None:
        self._config = config
        self._encoder = encoder
        self._demonstrations = _read(config.file)
        self._vectors: Vectors | None = None
        self._lock = threading.Lock()

    def rewrites(
        self, prompt: ChatPrompt | TextPrompt, edits: Sequence[Edit]
    ) -> Sequence[ChatPrompt | TextPrompt]:
        """The prompt with all demonstrations, with half of them, and so on, and with none."""
        if isinstance(prompt, ChatPrompt):
            ladder = _ladder(self._config.chat_demonstrations)
            chosen = self._closest(prompt.query, ladder[0])
            return [self._chat(prompt, edits, chosen[len(chosen) - k :]) for k in ladder]
        if prompt.rendered_chat:
            return [prompt.with_evidence(_fact(prompt.query, edits))]
        ladder = _ladder(self._config.text_demonstrations)
        chosen = self._closest(prompt.query, ladder[0])
        return [self._text(prompt, edits, chosen[len(chosen) - k :]) for k in ladder]

    def _chat(
        self, prompt: ChatPrompt, edits: Sequence[Edit], chosen: Sequence[Demonstration]
    ) -> ChatPrompt:
        """Demonstrations as turns before the last one; the fact at its start."""
        turns: list[Message] = []
        for shown in chosen:
            asked = _form("chat", shown.query).replace("{facts}", shown.statement) + shown.query
            turns.append({"role": "user", "content": asked})
            turns.append({"role": "assistant", "content": shown.answer})
        return prompt.with_evidence(_fact(prompt.query, edits), turns)

    def _text(
        self, prompt: TextPrompt, edits: Sequence[Edit], chosen: Sequence[Demonstration]
    ) -> TextPrompt:
        """Demonstrations and the fact as text right in front of the text to be completed."""
        form = _prompt_text("text")
        blocks = [f"{form.replace('{facts}', d.statement)}{d.query} {d.answer}\n\n" for d in chosen]
        evidence = form.replace("{facts}", _facts(edits))
        return prompt.with_evidence("".join(blocks) + evidence)

    def _closest(self, query: str, k: int) -> list[Demonstration]:
        """The ``k`` demonstrations closest to the query, the closest last."""
        if k == 0:
            return []
        with self._lock:
            if self._vectors is None:
                self._vectors = self._encoder.encode([d.query for d in self._demonstrations])
        similarity = self._vectors @ self._encoder.encode([query])[0]
        best = np.argsort(-similarity, kind="stable")[:k]
        return [self._demonstrations[i] for i in best[::-1]]


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
    return _form("chat", query).replace("{facts}", _facts(edits))


def _form(surface: str, query: str) -> str:
    """The text for this query: a text that breaks off is completed, anything else answered."""
    ended = query.rstrip().endswith(("?", ".", "!", "。", "？", "！", "؟", ":", '"', ")"))
    return _prompt_text(f"{surface}_answer" if ended else f"{surface}_complete")


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
