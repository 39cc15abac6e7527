"""From a query to a decision: which route answers it, with which edits, and why.

No I/O and no clock but the stage timings. What the router knows of the memory and of scope it
knows through two small protocols, so that the same decision serves HTTP requests, the Python
wrapper, batches and ``memedit explain``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from memedit.edits import Edit
from memedit.protocols import Candidate, Considered, Decision, Judgement, ScopeClassifier

PASSTHROUGH = "passthrough"

LONGEST = 16_000
"""So many characters of a query are looked at: a document in it must not keep others waiting."""


class Candidates(Protocol):
    """What the router needs of a memory."""

    def candidates(self, queries: Sequence[str], namespace: str, k: int) -> list[list[Candidate]]:
        """For each query, the edits it may be about."""


def _shortened(query: str) -> str:
    """A query of at most :data:`LONGEST` characters: of a longer one, its beginning and its end."""
    if len(query) <= LONGEST:
        return query
    return f"{query[: LONGEST // 2]}\n{query[-LONGEST // 2 :]}"


class Router:
    """Decides queries in batches. Thread-safe where its memory and its classifier are.

    Args:
        memory: where candidates come from.
        scope: judges them.
        route: the route for queries that an edit is about.
        threshold: the probability, in [0, 1], from which an edit is accepted.
        thresholds: those of the namespaces that have another one.
        candidates: how many nearest edits of unknown subject are looked at.
        edits: at most this many edits answer one query.
    """

    def __init__(
        self,
        memory: Candidates,
        scope: ScopeClassifier,
        *,
        route: str = "ike",
        threshold: float = 0.5,
        thresholds: Mapping[str, float] | None = None,
        candidates: int = 8,
        edits: int = 3,
    ) -> None:
        self._memory = memory
        self._scope = scope
        self._route = route
        self._threshold = threshold
        self._thresholds = dict(thresholds or {})
        self._k = candidates
        self._edits = edits

    def warm(self) -> None:
        """Has the classifier load what it needs."""
        named = Candidate(Edit("warm", "It is warm.", "It", "{} is", "warm"), mention=(0, 2))
        self._scope.judge([("It is", [named])])

    def decide(self, queries: Sequence[str], namespace: str = "default") -> list[Decision]:
        """One decision per query, in their order.

        Raises:
            InvalidInput: the namespace is malformed.
            MemoryFileError: the memory cannot be read.
        """
        if not queries:
            return []
        queries = [_shortened(query) for query in queries]
        started = time.perf_counter()
        found = self._memory.candidates(queries, namespace, self._k)
        retrieved = time.perf_counter()
        judged = self._scope.judge(list(zip(queries, found, strict=True)))
        finished = time.perf_counter()
        threshold = self._thresholds.get(namespace, self._threshold)
        timings = {
            "retrieve_ms": (retrieved - started) * 1e3,
            "scope_ms": (finished - retrieved) * 1e3,
        }
        return [
            self._decision(query, candidates, judgements, timings, threshold)
            for query, candidates, judgements in zip(queries, found, judged, strict=True)
        ]

    def over(self, memory: Candidates) -> Self:
        """The same router over another memory."""
        other = copy.copy(self)
        other._memory = memory
        return other

    def _decision(
        self,
        query: str,
        candidates: Sequence[Candidate],
        judgements: Sequence[Judgement],
        timings: dict[str, float],
        threshold: float,
    ) -> Decision:
        both = zip(judgements, candidates, strict=True)
        ranked = sorted(both, key=lambda pair: -pair[0].probability)
        accepted = [c.edit for j, c in ranked if j.probability >= threshold][: self._edits]
        taken = {edit.id for edit in accepted}
        considered = tuple(
            Considered(
                edit=c.edit,
                cosine=c.cosine,
                mention=query[slice(*c.mention)] if c.mention else None,
                probability=j.probability,
                accepted=c.edit.id in taken,
                relation=j.relation,
                asked=j.asked,
                stated=j.stated,
                answer=c.answer,
            )
            for j, c in ranked
        )
        return Decision(
            route=self._route if accepted else PASSTHROUGH,
            edits=tuple(accepted),
            scope=considered[0].probability if considered else 0.0,
            reasons=_reasons(query, considered, threshold),
            considered=considered,
            timings=timings,
        )


def _reasons(query: str, considered: Sequence[Considered], threshold: float) -> tuple[str, ...]:
    if not query.strip():
        return ("the request asks nothing in words",)
    if not considered:
        return ("no live edit in this namespace comes near the query",)
    shown = [row for row in considered if row.accepted] or [considered[0]]
    return tuple(_reason(row, threshold) for row in shown)


def _reason(row: Considered, threshold: float) -> str:
    if row.mention is None:
        named = "is compared as a whole (the edit has no known subject)"
    elif row.answer:
        named = f"names {row.mention!r}, the answer of the edit"
    elif row.edit.names and row.mention.casefold() in map(str.casefold, row.edit.names):
        named = f"names {row.mention!r}"
        if row.edit.subject and row.mention.casefold() != row.edit.subject.casefold():
            named += f" (for {row.edit.subject!r})"
    else:
        named = f"names {row.mention!r}, perhaps a variant of {row.edit.subject!r}"
    asks = ""
    if row.relation is not None:
        asks = f"; asks {row.asked!r} where the edit says {row.stated!r}: {row.relation:.2f}"
    verdict = (
        f"accepted at {row.probability:.3f} ≥ {threshold:.3f}"
        if row.accepted
        else f"refused at {row.probability:.3f} < {threshold:.3f}"
    )
    return f"{row.edit.id}: the query {named}{asks}; {verdict}"
