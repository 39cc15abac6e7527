"""The editors of :mod:`memedit.editors`: a space is a state of the model's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from memedit.editors import make_editor, options_of
from memedit.editors.deltas import applied
from memedit.edits import Edit
from memedit.evaluation.methods import Answered, Ask, Bench, Model, Weights
from memedit.lexicon import SubjectLexicon
from memedit.protocols import Capability, Editor, WeightDelta, Weighted


@dataclass(frozen=True, slots=True)
class _Lot:
    """Edits that were learned at once, and what came of it."""

    edits: tuple[Edit, ...]
    deltas: tuple[WeightDelta, ...]


class EditedWeights:
    """One editor. Its edits go into the weights; prompts go to the model as they came.

    With ``Bench.at_once`` edits are learned in lots, each on the weights that the one before it
    left. An edit without subject, prompt or target is not learned. An edit counts as having taken
    part in an answer where the prompt names its subject.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "weights"})

    def __init__(self, bench: Bench) -> None:
        engine = cast(Weighted, bench.engine)
        self._model, self._tokenizer = engine.model, engine.tokenizer
        self._editor: Editor = make_editor(self.name)
        if bench.corpus is not None and "corpus" in options_of(self._editor):
            self._editor = make_editor(self.name, corpus=bench.corpus)
        self._at_once = bench.at_once
        self._spaces: dict[str, list[_Lot]] = {}

    def describe(self) -> Mapping[str, Any]:
        """The editor's settings, and how many edits it takes at a time."""
        return {**self._editor.describe(self._model), "at_once": self._at_once}

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Makes the deltas; the model's own weights stay as they are."""
        usable = [edit for edit in edits if not edit.missing_for_weights]
        size = self._at_once or max(1, len(usable))
        lots: list[_Lot] = []
        for start in range(0, len(usable), size):
            chunk = tuple(usable[start : start + size])
            lots.append(self._known(lots, chunk) or self._learned(lots, chunk))
        self._spaces[space] = lots

    def _known(self, before: Sequence[_Lot], chunk: tuple[Edit, ...]) -> _Lot | None:
        """The lot, where another space has learned the same after the same."""
        wanted = [*(lot.edits for lot in before), chunk]
        for lots in self._spaces.values():
            if [lot.edits for lot in lots[: len(wanted)]] == wanted:
                return lots[len(wanted) - 1]
        return None

    def _learned(self, before: Sequence[_Lot], chunk: tuple[Edit, ...]) -> _Lot:
        earlier = [edit for lot in before for edit in lot.edits]
        with applied(self._model, [delta for lot in before for delta in lot.deltas]):
            deltas = self._editor.deltas(self._model, self._tokenizer, chunk, earlier)
        return _Lot(chunk, tuple(deltas))

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Each prompt as it came, by the weights of its space."""
        places: dict[str, list[int]] = {}
        for place, ask in enumerate(asks):
            places.setdefault(ask.space, []).append(place)
        found: dict[int, Answered] = {}
        for space, here in places.items():
            lots = self._spaces[space]
            deltas = [delta for lot in lots for delta in lot.deltas]
            edits = [edit for lot in lots for edit in lot.edits]
            subjects = SubjectLexicon()
            for number, edit in enumerate(edits):
                subjects.add(number, edit.names)
            weights = Weights(f"{self.name}, {space}", partial(applied, self._model, deltas))
            with weights.applied():
                said = model([asks[place].prompt for place in here], weights.name)
            for place, one in zip(here, said, strict=True):
                prompt = asks[place].prompt
                named = {n for mention in subjects.find(prompt.query) for n in mention.positions}
                used = tuple(edits[number].id for number in sorted(named))
                found[place] = Answered(prompt, one, used, "weights", weights=weights)
        return [found[place] for place in range(len(asks))]

    def close(self) -> None:
        """Lets go of the deltas."""
        self._spaces.clear()


class FTL(EditedWeights):
    """Constrained fine-tuning on the text."""

    name: ClassVar[str] = "ft-l"
    summary: ClassVar[str] = "constrained fine-tuning of a down projection, on the whole fact"


class FTTarget(EditedWeights):
    """Constrained fine-tuning on the target."""

    name: ClassVar[str] = "ft-target"
    summary: ClassVar[str] = "constrained fine-tuning of a down projection, on the target alone"


class RECT(EditedWeights):
    """R-ROME, regularised."""

    name: ClassVar[str] = "rect"
    summary: ClassVar[str] = "R-ROME, of whose change the largest relative parts are kept"


class LoRA(EditedWeights):
    """Low-rank fine-tuning."""

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank fine-tuning of down projections through PEFT"


class ROME(EditedWeights):
    """Rank-one model editing."""

    name: ClassVar[str] = "rome"
    summary: ClassVar[str] = "rank-one changes of one layer"


class RROME(EditedWeights):
    """Rank-one model editing with one key."""

    name: ClassVar[str] = "r-rome"
    summary: ClassVar[str] = "rank-one changes of one layer, the mean key in all places"


class MEMIT(EditedWeights):
    """Mass-editing memory."""

    name: ClassVar[str] = "memit"
    summary: ClassVar[str] = "least squares over several layers"


class PMET(EditedWeights):
    """Mass-editing with the attention optimised beside."""

    name: ClassVar[str] = "pmet"
    summary: ClassVar[str] = "MEMIT with the attention optimised beside the MLP"


class EMMET(EditedWeights):
    """Equality-constrained mass editing."""

    name: ClassVar[str] = "emmet"
    summary: ClassVar[str] = "the least change of one layer that maps every key exactly"


class AlphaEdit(EditedWeights):
    """Null-space constrained editing."""

    name: ClassVar[str] = "alphaedit"
    summary: ClassVar[str] = "MEMIT in the null space of ordinary keys and earlier edits"
