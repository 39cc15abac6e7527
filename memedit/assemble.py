"""From a configuration to working parts: the one place that knows which class serves which seam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memedit.config import Config
from memedit.memory import EditMemory
from memedit.protocols import Encoder, Route
from memedit.router import Router


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server, a wrapper or a command works with.

    Attributes:
        memory: the edits.
        router: decides queries.
        routes: answer them, by name.
    """

    memory: EditMemory
    router: Router
    routes: Mapping[str, Route]

    def warm(self) -> None:
        """Loads encoder and scope now, so that the first request does not wait for them."""
        self.memory.encoder.encode(["warm"])
        self.router.warm()

    def close(self) -> None:
        """Closes the memory."""
        self.memory.close()


def make_encoder(config: Config) -> Encoder:
    """The sentence encoder; its model is loaded when the first text is encoded.

    Raises:
        MissingDependency: the model is neither a folder nor installed.
    """
    from memedit.encoders import SentenceEncoder

    return SentenceEncoder(
        config.encoder.model or None,
        device=config.encoder.device or None,
        cache_size=config.encoder.cache,
        threads=config.encoder.threads or None,
        precision=config.encoder.precision,
    )


def open_memory(config: Config) -> EditMemory:
    """The memory file of this configuration, made where there is none.

    Raises:
        MemoryFileError: the file cannot be opened or is damaged.
    """
    return EditMemory(config.memory.path, make_encoder(config), index=config.memory.index)


def assemble(config: Config, memory: EditMemory | None = None) -> Parts:
    """Memory, router and routes of this configuration.

    Args:
        config: the configuration.
        memory: an open memory to use instead of the configuration's own.

    Raises:
        MemeditError: a part cannot be made; the message says which and what to do.
    """
    from memedit.multihop.route import GuidedRoute
    from memedit.routes.ike import IKE
    from memedit.scope import AnyLanguage, VerifiedScope

    memory = memory or open_memory(config)
    memory.count(config.memory.namespace)  # a malformed one is said now, not with every request
    scope = VerifiedScope()
    router = Router(
        memory,
        AnyLanguage(scope, memory.encoder) if config.scope.languages == "any" else scope,
        route=IKE.name,
        threshold=config.scope.threshold or scope.threshold,
        thresholds=config.scope.by_namespace,
        candidates=config.scope.candidates,
        edits=config.scope.edits,
    )
    ike = IKE(config.ike, memory.encoder)
    routes: dict[str, Route] = {route.name: route for route in (ike, GuidedRoute(ike))}
    return Parts(memory, router, routes)
