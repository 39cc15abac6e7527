"""The edits API over a memory of its own, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from starlette.testclient import TestClient

from memedit.assemble import assemble
from memedit.config import Config, MemoryConfig, ServerConfig
from memedit.encoders import HashEncoder
from memedit.memory import EditMemory
from memedit.protocols import Encoder, Vectors
from memedit.server.api import edits_api
from memedit.server.audit import Audit
from memedit.server.keys import Key, Keys, Role
from memedit.server.recent import RecentPrompts

EDITS = "/v1/edits"


class CountingEncoder(HashEncoder):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return super().encode(texts)


class Api:
    """The edits API of the memory at a path, as a context manager.

    Attributes:
        app: the guarded ASGI application.
        memory: its memory.
        keys: its keys.
        audit: its audit log.
        recent: the prompts that dry runs try edits on; none yet.
    """

    def __init__(
        self, path: Path, encoder: Encoder | None = None, *, max_body: int = 2**20
    ) -> None:
        self.memory = EditMemory(path, encoder or HashEncoder())
        self.config = Config(memory=MemoryConfig(path=path), server=ServerConfig(max_body=max_body))
        self.parts = assemble(self.config, self.memory)
        self.recent = RecentPrompts(20)
        self.app = edits_api(self.parts, self.config, self.recent)
        self.keys = Keys(path)
        self.audit = Audit(path)

    def key(self, role: Role = "admin", *namespaces: str, name: str = "test") -> tuple[Key, str]:
        """A new key and its secret."""
        return self.keys.add(name, role, namespaces)

    def client(self, role: Role = "admin", *namespaces: str, **headers: str) -> TestClient:
        """A client with a new key."""
        _, secret = self.key(role, *namespaces)
        return self.bare(**{"x-memedit-key": secret, **headers})

    def bare(self, **headers: str) -> TestClient:
        """A client with these headers and no key."""
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.memory.close()


def code(response: Any, status: int) -> str:
    """The code of a refusal with this status, in OpenAI's error form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    found: str = error["code"]
    return found
