"""memedit as it is served: the memory, the scope step and the routes of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

from memedit.assemble import assemble
from memedit.edits import Edit
from memedit.evaluation.methods import Answered, AnyPrompt, Ask, Bench, Model
from memedit.memory import EditMemory
from memedit.protocols import Capability, Decision

_BATCH = 64  # queries that are decided together


class Memory:
    """A memory file of the run's own, with one namespace per space."""

    name: ClassVar[str] = "memory"
    summary: ClassVar[str] = "memedit as served: memory, scope classifier, routes"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})

    def __init__(self, bench: Bench) -> None:
        self._config = bench.config
        self._memory = EditMemory(
            bench.folder / "memory.sqlite3", bench.encoder, index=bench.config.memory.index
        )
        self._parts = assemble(bench.config, self._memory)
        self._namespaces: dict[str, str] = {}
        self._original: dict[str, str] = {}

    def describe(self) -> Mapping[str, Any]:
        """What scope and routes are set to, and what compares texts."""
        return {
            "scope": asdict(self._config.scope),
            "ike": {**asdict(self._config.ike), "file": bool(self._config.ike.file)},
            "index": self._config.memory.index,
            "encoder": self._memory.encoder.name,
        }

    def learn(self, edits: Sequence[Edit], space: str) -> None:
        """Adds the edits to a namespace, under ids of their own: an id is one edit of a memory."""
        number = len(self._namespaces)
        self._namespaces[space] = f"space-{number}"
        added = [replace(edit, id=f"s{number}-{place}") for place, edit in enumerate(edits)]
        records = self._memory.add(added, namespace=self._namespaces[space])
        # An edit that says what another says already is recorded under that one's id.
        for record, edit in zip(records, edits, strict=True):
            self._original.setdefault(record.edit.id, edit.id)

    def answers(self, asks: Sequence[Ask], model: Model) -> list[Answered]:
        """Each prompt as the router decides: as it came, or as its route rewrites it."""
        decisions = self.decided([(ask.space, ask.prompt.in_context) for ask in asks])
        sent: list[AnyPrompt] = [
            self._parts.routes[decision.route].rewrites(ask.prompt, decision.edits)[0]
            if decision.edits
            else ask.prompt
            for ask, decision in zip(asks, decisions, strict=True)
        ]
        return [
            Answered(
                prompt,
                one,
                tuple(self.original(edit.id) for edit in decision.edits),
                decision.route,
                decision.scope,
            )
            for prompt, one, decision in zip(sent, model(sent), decisions, strict=True)
        ]

    def close(self) -> None:
        """Closes the memory file."""
        self._memory.close()

    def original(self, edit_id: str) -> str:
        """The id under which an edit was learned, by its id in the memory."""
        return self._original[edit_id]

    def decided(self, queries: Sequence[tuple[str, str]]) -> list[Decision]:
        """One decision per space and query; those of one space are decided in batches."""
        places: dict[str, list[int]] = {}
        for place, (space, _) in enumerate(queries):
            places.setdefault(space, []).append(place)
        decisions: dict[int, Decision] = {}
        for space, here in places.items():
            for start in range(0, len(here), _BATCH):
                batch = here[start : start + _BATCH]
                asked = [queries[place][1] for place in batch]
                decided = self._parts.router.decide(asked, self._namespaces[space])
                decisions.update(zip(batch, decided, strict=True))
        return [decisions[place] for place in range(len(queries))]
