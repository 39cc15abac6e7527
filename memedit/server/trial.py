"""Which prompts would be answered otherwise, were edits added.

The edits go into a memory of their own, which is thrown away, and the server's own router decides
over both memories together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from memedit.assemble import Parts
from memedit.memory import EditMemory
from memedit.planning import Planned, Proposal
from memedit.protocols import Candidate
from memedit.router import Candidates


@dataclass(frozen=True, slots=True)
class Tried:
    """A prompt that would be answered otherwise.

    Attributes:
        prompt: its place among those that were tried.
        before, after: ids of the edits that take part now, and would then.
    """

    prompt: int
    before: tuple[str, ...]
    after: tuple[str, ...]


class _Together:
    """A memory with more edits in it, and without some of its own.

    Args:
        memory: as it is.
        more: the edits that would be added.
        gone: ids of those that would no longer answer.
    """

    def __init__(self, memory: Candidates, more: Candidates, gone: Collection[str]) -> None:
        self._memory = memory
        self._more = more
        self._gone = gone

    def candidates(self, queries: Sequence[str], namespace: str, k: int) -> list[list[Candidate]]:
        """For each query, the edits it may be about."""
        own = self._memory.candidates(queries, namespace, k + len(self._gone))
        more = self._more.candidates(queries, namespace, k)
        return [
            [found for found in (*a, *b) if found.edit.id not in self._gone]
            for a, b in zip(own, more, strict=True)
        ]


def tried(
    parts: Parts, planned: Sequence[Planned], prompts: Sequence[str], namespace: str
) -> list[Tried]:
    """The prompts that other edits would answer, were these edits added and in force.

    Args:
        parts: the memory, and the router that decides.
        planned: what adding the edits would come to.
        prompts: what to decide on.
        namespace: of the edits and of the prompts.

    Raises:
        MemoryFileError: a memory cannot be read, or no temporary one written.
    """
    gone = {old for one in planned if one.added for old in one.supersedes}
    added = [one for one in planned if one.added and one.edit_id not in gone]
    if not prompts or not added:
        return []
    with (
        tempfile.TemporaryDirectory(prefix="memedit-") as folder,
        EditMemory(Path(folder) / "trial.sqlite3", parts.memory.encoder) as more,
    ):
        more.add_timed(
            [Proposal(one.proposal.edit) for one in added],
            namespace=namespace,
            on_conflict="keep-both",
        )
        router = parts.router.over(_Together(parts.memory, more, gone))
        before = parts.router.decide(prompts, namespace)
        after = router.decide(prompts, namespace)
    both = [
        Tried(number, *(tuple(edit.id for edit in one.edits) for one in pair))
        for number, pair in enumerate(zip(before, after, strict=True))
    ]
    return [one for one in both if one.before != one.after]
