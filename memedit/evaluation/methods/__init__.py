"""The methods that can be put to the test, one a file.

    none.py         the model as it is: the baseline of everything
    ike_always.py   in-context editing without a scope gate, as other frameworks run it
    memory.py       memedit as it is served: memory, scope, routes
    weights.py      the editors of memedit/editors, one class each
    grace.py        GRACE: a codebook of activations, which decides by its radii
    mello.py        MeLLo: the model divides a question, and is shown an edit a step
    guided.py       mello-guided: a decomposer divides it, scope finds the edit of each hop

A method learns edits into a *space*, a set of edits that are live together, and answers prompts
under a space. It gets the model as a function, so that whoever runs it can batch, remember and
resume what is asked. A new method is a file here and a line in :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from memedit.config import Config
from memedit.edits import Edit
from memedit.errors import InvalidInput
from memedit.multihop.chain import Hop
from memedit.prompt import ChatPrompt, TextPrompt
from memedit.protocols import Capability, Encoder, Engine, Feed, Generation

AnyPrompt = ChatPrompt | TextPrompt


class Model(Protocol):
    """The model under test, however it is asked and whatever is remembered of it."""

    def __call__(self, prompts: Sequence[AnyPrompt], weights: str = "") -> list[Generation]:
        """Prompts to greedy answers, in order.

        Args:
            prompts: any number.
            weights: names what the engine's weights have been changed to; empty for its own.
        """

    def flow(self, feed: Feed) -> None:
        """Answers what ``feed`` gives as it comes; see :meth:`memedit.protocols.Engine.flow`."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A state of the engine's weights other than its own.

    Attributes:
        name: tells it from all others of the run.
        applied: a context in which the engine has it.
    """

    name: str
    applied: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt, and the space whose edits are live for it."""

    prompt: AnyPrompt
    space: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What a method did with a prompt.

    Attributes:
        sent: the prompt as the model got it; the last one where there were several.
        generation: the answer.
        edits: ids of the edits that took part.
        route: how it was answered: ``"passthrough"``, ``"ike"``, ``"mello"``.
        scope: the probability that the prompt was about its best candidate; ``None`` where the
            method has no such step.
        weights: the weights that the engine had; ``None`` for its own.
        hops: as they were taken, where it was answered hop by hop.
    """

    sent: AnyPrompt
    generation: Generation
    edits: tuple[str, ...] = ()
    route: str = "passthrough"
    scope: float | None = None
    weights: Weights | None = None
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What methods are built from.

    Attributes:
        config: the configuration under test.
        encoder: the sentence encoder, loaded once for all methods.
        folder: an empty folder of the run's own, gone when the run ends.
        engine: the model, for methods that need more of it than its answers.
        at_once: how many edits an editor of weights takes at a time; 0 for all of a space.
        corpus: text whose keys such an editor is to leave as they are; ``None`` for text that the
            model makes itself.
    """

    config: Config
    encoder: Encoder
    folder: Path
    engine: Engine | None = None
    at_once: int = 0
    corpus: Path | None = None


class Method(Protocol):
    """One way to edit what a model knows."""

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Capability]]

    def __init__(self, bench: Bench) -> None: ...

    def describe(self) -> Mapping[str, Any]:
        """The settings that its results depend on; JSON types."""

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Makes these edits, in this order, live in a new space."""

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """One answer per prompt, in their order."""

    def close(self) -> None:
        """Frees what the method holds."""


METHODS: Mapping[str, str] = {
    "none": "memedit.evaluation.methods.none:Unedited",
    "ike-always": "memedit.evaluation.methods.ike_always:IKEAlways",
    "memory": "memedit.evaluation.methods.memory:Memory",
    "ft-l": "memedit.evaluation.methods.weights:FTL",
    "ft-target": "memedit.evaluation.methods.weights:FTTarget",
    "rect": "memedit.evaluation.methods.weights:RECT",
    "lora": "memedit.evaluation.methods.weights:LoRA",
    "rome": "memedit.evaluation.methods.weights:ROME",
    "r-rome": "memedit.evaluation.methods.weights:RROME",
    "memit": "memedit.evaluation.methods.weights:MEMIT",
    "pmet": "memedit.evaluation.methods.weights:PMET",
    "emmet": "memedit.evaluation.methods.weights:EMMET",
    "alphaedit": "memedit.evaluation.methods.weights:AlphaEdit",
    "grace": "memedit.evaluation.methods.grace:Grace",
    "mello": "memedit.evaluation.methods.mello:MeLLo",
    "mello-guided": "memedit.evaluation.methods.guided:Guided",
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        InvalidInput: there is no method of that name.
    """
    if name not in METHODS:
        raise InvalidInput(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(import_module(module), attribute)
    return found
