"""The seams: what each part is to the others, and nothing of how it does it.

Values first, protocols after them. An implementation declares what it is able to do on its
class; nothing anywhere asks for a part's name to decide how to treat it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from memedit.edits import Edit

Vectors = NDArray[np.float32]
"""Rows of unit length, shape (n, dim), float32."""

Ids = NDArray[np.int64]
"""Index keys, shape (n,), int64: journal positions, never edit ids."""

State = Literal["proposed", "active", "consolidated", "superseded", "reverted", "expired"]
"""Where an edit is in its life; see :class:`EditRecord`."""

IN_FORCE: frozenset[State] = frozenset({"active", "consolidated"})
"""The states in which edits are retrieved."""


@dataclass(frozen=True, slots=True)
class EditRecord:
    """An edit together with what the journal knows of it.

    An edit is in one state at a time, the first of these that holds: ``reverted`` by somebody;
    ``proposed`` until ``valid_from``; ``expired`` from ``expires_at`` on; ``superseded`` while
    another edit of the same fact that began later is in force; ``consolidated`` while its fact is
    in a model's weights; else ``active``. Edits of the last two are in force: they are retrieved.

    Attributes:
        edit: the content.
        position: its place in the journal, increasing and never reused; also its index key.
        namespace: the set of edits it belongs to.
        state: as of the look that gave this record.
        author, reason: who added it and why, as they said; free text.
        created_at: when it was added, seconds since the epoch.
        supersedes: ids of the edits in force that this one replaced when it was added.
        superseded_by: the id of the edit that replaced this one, while it does.
        valid_from: from when it answers; ``None`` for the moment it was added.
        expires_at: from when it answers no longer; ``None`` for never.
        version: the version of the weights that hold it, while it is consolidated.
        warnings: what the call that added it had to say; not stored.
    """

    edit: Edit
    position: int
    namespace: str
    state: State
    author: str = ""
    reason: str = ""
    created_at: float = 0.0
    supersedes: tuple[str, ...] = ()
    superseded_by: str | None = None
    valid_from: float | None = None
    expires_at: float | None = None
    version: str = ""
    warnings: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit that a query may be about, with what retrieval saw.

    Attributes:
        edit: the edit.
        cosine: similarity of the query and the edit's key, in [-1, 1]; ``None`` where the query
            was not encoded, because names told enough.
        mention: ``(start, end)`` in the query of what names the subject, in characters, or
            ``None`` where nothing does.
        likeness: how like the subject's name that is
            (:data:`memedit.variants.FEATURES`); ``None`` where it is the name or an alias.
        answer: what is mentioned is the edit's target: the query may ask for the subject.
    """

    edit: Edit
    cosine: float | None = None
    mention: tuple[int, int] | None = None
    likeness: tuple[float, ...] | None = None
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the scope classifier thinks of one candidate.

    Attributes:
        probability: that the query is about the edit, in [0, 1].
        relation: that it asks the edit's relation, in [0, 1]; ``None`` where that was not looked
            at.
        asked, stated: the two texts that were compared, the subject masked.
    """

    probability: float
    relation: float | None = None
    asked: str = ""
    stated: str = ""


@dataclass(frozen=True, slots=True)
class Considered:
    """One candidate as the scope classifier judged it: the row that ``explain`` prints."""

    edit: Edit
    cosine: float | None
    mention: str | None
    probability: float
    accepted: bool
    relation: float | None = None
    asked: str = ""
    stated: str = ""
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a query, and why.

    Attributes:
        route: the name of the route that answers.
        edits: the edits that take part, most probable first; empty on passthrough.
        scope: the highest probability among the candidates, 0.0 where there were none.
        reasons: sentences a person can read.
        considered: every candidate with its scores, most probable first.
        timings: milliseconds per stage.
        shown: what the route puts in front of the model, where that is not the edits themselves:
            a question of several hops also needs the facts that the model knows.
    """

    route: str
    edits: tuple[Edit, ...] = ()
    scope: float = 0.0
    reasons: tuple[str, ...] = ()
    considered: tuple[Considered, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    shown: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model said.

    Attributes:
        text: the answer.
        prompt_tokens: length of the prompt, in tokens, with the chat template around it.
        tokens: length of the answer, in tokens.
    """

    text: str
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt put to an engine that answers many at once.

    Attributes:
        prompt: a :class:`~memedit.prompt.ChatPrompt` or :class:`~memedit.prompt.TextPrompt`.
        max_tokens: longest answer.
        stop: the answer ends in front of the first of these texts.
    """

    prompt: Any
    max_tokens: int
    stop: tuple[str, ...] = ()


Feed = Callable[[Sequence[tuple[int, Generation]]], Sequence[tuple[int, Request]]]
"""What keeps an engine busy: given what has been answered since it was last asked, by number, it
gives what to ask next, with numbers of its own choice. It is first asked with nothing, and not
asked again once all that it gave is answered."""


@dataclass(frozen=True, slots=True)
class Scored:
    """How a model rates a continuation that it is forced to read (teacher forcing).

    Attributes:
        logprobs: the natural log of each of the continuation's tokens' probability, given the
            prompt and the tokens before it.
        tokens: the continuation's token ids.
        predicted: the model's own most probable token at each of these places.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WeightDelta:
    """A change of one weight matrix, as the product of two factors or whole.

    The matrix is the one that a vector of inputs is multiplied with, (out, in), also where the
    model stores it the other way round (GPT-2's ``Conv1D``). All tensors are torch's, float32.

    Attributes:
        name: the parameter as the model names it: ``"model.layers.5.mlp.down_proj.weight"``.
        left, right: the factors, (out, rank) and (rank, in); ``None`` where the change is whole.
        full: the change whole, (out, in); ``None`` where it is in factors.

    Raises:
        ValueError: it is neither of the two, or the factors do not fit.
    """

    name: str
    left: Any = None
    right: Any = None
    full: Any = None

    def __post_init__(self) -> None:
        if (self.left is None) != (self.right is None) or (self.left is None) == (
            self.full is None
        ):
            raise ValueError(f"the delta of {self.name} needs left and right, or full")
        if self.left is not None and self.left.shape[1] != self.right.shape[0]:
            raise ValueError(
                f"the factors of {self.name} do not fit: {tuple(self.left.shape)} and "
                f"{tuple(self.right.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        if self.full is not None:
            return (self.full.shape[0], self.full.shape[1])
        return (self.left.shape[0], self.right.shape[1])

    def dense(self) -> Any:
        """The change whole, (out, in), float32."""
        return self.left @ self.right if self.full is None else self.full


Capability = Literal["generate", "score", "chat", "score_chats", "weights"]
"""What an engine can do: answer; rate what follows a text; take chats; rate what follows a chat;
expose its weights."""


class Encoder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str:
        """Names model and version: vectors of encoders with different names do not compare."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit rows of shape (len(texts), dim), in the order of the texts. Thread-safe."""


class Index(Protocol):
    """Nearest vectors by inner product. Not thread-safe: the memory holds the lock."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    def __len__(self) -> int: ...

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds rows under ids that are not in the index; ValueError where one is."""

    def remove(self, ids: Ids) -> int:
        """Removes the rows of these ids, ignoring absent ones; returns how many went."""

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """The min(k, len(self)) best of each query: scores, descending, and ids, both (n, k')."""


class ScopeClassifier(Protocol):
    """Is this query about one of these edits?"""

    def judge(self, batch: Sequence[tuple[str, Sequence[Candidate]]]) -> list[list[Judgement]]:
        """For each query, a judgement with a calibrated probability per candidate, in order."""


class Prompt(Protocol):
    """What a model is about to be asked, in whichever form it was sent."""

    @property
    def query(self) -> str:
        """The text that scope is decided on; empty where the prompt asks nothing."""


class Route(Protocol):
    """One way of answering a query that edits are about."""

    @property
    def name(self) -> str:
        """What headers and ``explain`` call it."""

    def rewrites(self, prompt: Any, edits: Sequence[Edit]) -> Sequence[Any]:
        """Prompts that carry the edits, the richest first, each shorter than the one before.

        Whoever sends them goes down the list while the engine says that a prompt is too long,
        and sends the caller's own prompt at last.
        """


class Engine(Protocol):
    """A language model to put prompts to, greedily, in batches.

    Prompts are :class:`~memedit.prompt.ChatPrompt` or :class:`~memedit.prompt.TextPrompt`.
    """

    @property
    def name(self) -> str:
        """The model, as a report names it."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do."""

    def describe(self) -> Mapping[str, Any]:
        """What a report has to say of it: model, versions, data type, options. JSON types."""

    def generate(self, prompts: Sequence[Any], max_tokens: int) -> list[Generation]:
        """Greedy answers of at most ``max_tokens`` tokens, in the order of the prompts.

        The same list gives the same answers where ``describe()["deterministic"]`` is true.

        Raises:
            InvalidInput: a prompt is longer than the model takes.
            UpstreamError: a server cannot be reached or refuses.
        """

    def flow(self, feed: Feed) -> None:
        """Answers what ``feed`` gives, greedily, and hands each answer back as soon as it can.

        An engine that batches continuously lets no answer wait for another; which requests share a
        batch, and with it the last digits, then depends on when answers end.

        Raises:
            InvalidInput: a prompt is longer than the model takes.
            UpstreamError: a server cannot be reached or refuses.
        """

    def score(self, prompts: Sequence[Any], continuations: Sequence[str]) -> list[Scored]:
        """Each continuation after its prompt, teacher-forced; needs the capability ``score``."""

    def close(self) -> None:
        """Frees what the engine holds."""


class Weighted(Engine, Protocol):
    """An engine with the capability ``weights``."""

    @property
    def model(self) -> Any:
        """The transformers model; what changes its weights changes the answers."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""


class Editor(Protocol):
    """A way to move edits into a model's weights.

    The model is one of transformers', with its tokenizer; what an editor has to know of its
    shape is in ``memedit/editors/architectures.toml``.
    """

    @property
    def name(self) -> str:
        """What commands and reports call it."""

    def describe(self, model: Any) -> Mapping[str, Any]:
        """The settings that its deltas depend on, for this model; JSON types."""

    def prepare(self, model: Any, tokenizer: Any) -> None:
        """Learns from the unedited model what :meth:`deltas` needs to know of it, and keeps that.

        Whoever lays earlier edits on the model before ``deltas`` calls this first; elsewhere
        ``deltas`` finds out by itself.

        Raises:
            InvalidInput: the editor's settings will not do.
            Unsupported: the model's architecture is not known.
        """

    def deltas(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit], earlier: Sequence[Edit] = ()
    ) -> list[WeightDelta]:
        """What makes the model state these edits, all at once; the model stays as it is.

        Args:
            model: a transformers model in evaluation mode.
            tokenizer: its fast tokenizer.
            edits: at least one, each with subject, prompt and target.
            earlier: what the weights have learned before, for editors that keep it.

        Raises:
            InvalidInput: an edit lacks what an editor needs.
            Unsupported: the model's architecture is not known.
        """

    def separately(
        self, model: Any, tokenizer: Any, edits: Sequence[Edit]
    ) -> list[list[WeightDelta]]:
        """For each edit the deltas that it would get alone, computed together where that pays."""
