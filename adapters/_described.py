"""What every engine says of itself, and its use in a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from memedit.protocols import Capability


class Described(ABC):
    """An engine's name, abilities and description, as its constructor has found them."""

    _name: str
    _capabilities: frozenset[Capability]
    _description: Mapping[str, Any]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The model, without its folder."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do."""
        return self._capabilities

    def describe(self) -> Mapping[str, Any]:
        """Model, versions, data type and the options that change answers."""
        return dict(self._description)

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; it cannot be asked afterwards."""
