"""A codebook's file, as ``memedit grace learn`` has written it for one model that is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memedit.edits import Edit
from memedit.errors import ConfigError
from memedit.grace.codebook import Codebook, Entries


@dataclass(frozen=True, slots=True, eq=False)
class BookFile:
    """What a file holds.

    Attributes:
        layer: whose MLP its values take the place of.
        namespace: whose edits it has.
        entries: what the rules have made of them.
        edits: ids of the edits that have an entry.
    """

    layer: int
    namespace: str
    entries: Entries
    edits: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> BookFile:
        """Reads a file.

        Raises:
            ConfigError: it says not which layer and namespace it is for.
            MemoryFileDamaged: it cannot be read as a codebook.
        """
        book, notes = Codebook.load(path)
        try:
            layer, namespace = int(notes["layer"]), notes["namespace"]
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{path} says not which layer and namespace it is for; write it with "
                "`memedit grace learn`"
            ) from error
        entries = book.entries()
        return cls(layer, namespace, entries, frozenset(entries.edit_ids))

    def has(self, namespace: str, edits: Sequence[Edit]) -> bool:
        """Whether all of these edits of a namespace have an entry."""
        return namespace == self.namespace and all(edit.id in self.edits for edit in edits)

    def told(self, edit: Edit) -> str:
        """What it does for an edit that it has."""
        held = [at for at, one in enumerate(self.entries.edit_ids) if one == edit.id]
        span = self.entries.spans[held].max()
        tokens = f"for {span} tokens" if span else "for all tokens"
        return (
            f"{edit.id}: its value takes the place of the MLP of layer {self.layer} {tokens}, "
            "from the last one of the prompt on"
        )
