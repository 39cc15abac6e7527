"""GRACE as published: a codebook that decides by its radii alone what fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from memedit.edits import Edit
from memedit.evaluation.methods import Answered, Ask, Bench, Model, Weights
from memedit.grace.codebook import Codebook, Entries, Lesson
from memedit.protocols import Capability

_BATCH = 40  # edits that are learned together


class Grace:
    """One codebook a space, for chats. Prompts go to the model as they came.

    An edit is learned once, whatever spaces it is in. One without a target, and one that the model
    does not take up, is in none. What a prompt fires is looked up before it is asked, so that it is
    known of answers that the run remembers as well.
    """

    name: ClassVar[str] = "grace"
    summary: ClassVar[str] = "a codebook of one layer's states and what the model then says"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "score_chats", "weights"})

    def __init__(self, bench: Bench) -> None:
        engine: Any = bench.engine
        layer = engine.model.config.get_text_config().num_hidden_layers - 5
        self._grace = import_module("memedit.adapters.transformers_grace").GraceLocal(engine, layer)
        self._metric = self._grace.metric()
        self._lessons: dict[Edit, Lesson | None] = {}
        self._spaces: dict[str, Entries] = {}

    def describe(self) -> Mapping[str, Any]:
        """The layer, and how many edits it could not learn."""
        failed = sum(lesson is None for lesson in self._lessons.values())
        return {"layer": self._grace.layer, "not_taken_up": failed}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Learns what is not learned yet, and makes a codebook of all."""
        told = [edit for edit in edits if edit.target is not None]
        new = [edit for edit in told if edit not in self._lessons]
        subjects = [edit.subject for edit in told if edit.subject]
        for start in range(0, len(new), _BATCH):
            chunk = new[start : start + _BATCH]
            made = self._grace.lessons(chunk, subjects=subjects, metric=self._metric)
            for edit, (lesson, one) in zip(chunk, made, strict=True):
                self._lessons[edit] = lesson if one.held else None
        lessons = dict.fromkeys(self._lessons[edit] for edit in told)
        book = Codebook(self._grace.dim, limit=1 << 16, metric=self._metric)
        for lesson in lessons:
            if lesson is not None:
                book.add(lesson)
        self._spaces[space] = book.entries()

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Each prompt as it came, with the codebook of its space."""
        places: dict[str, list[int]] = {}
        for place, ask in enumerate(asks):
            places.setdefault(ask.space, []).append(place)
        found: dict[int, Answered] = {}
        for space, here in places.items():
            entries, prompts = self._spaces[space], [asks[place].prompt for place in here]
            fired = entries.lookup(self._grace.states(prompts)).tolist()
            weights = Weights(f"{self.name}, {space}", partial(self._grace.applied, entries))
            with weights.applied():
                said = model(prompts, weights.name)
            for place, prompt, one, at in zip(here, prompts, said, fired, strict=True):
                used = (entries.edit_ids[at],) if at >= 0 else ()
                route = self.name if used else "passthrough"
                found[place] = Answered(prompt, one, used, route, weights=weights)
        return [found[place] for place in range(len(asks))]

    def close(self) -> None:
        """Lets go of the codebooks."""
        self._spaces.clear()
