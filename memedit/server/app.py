"""The proxy as one application: memedit's middleware in front of the forwarding to an upstream.

In front of both stands :class:`~memedit.server.door.Door`, with the edits API behind it.
"""

from __future__ import annotations

import logging

from memedit.assemble import assemble
from memedit.config import Config
from memedit.server.api import edits_api
from memedit.server.decider import Decider
from memedit.server.door import Door
from memedit.server.logs import log_to_stderr
from memedit.server.middleware import ASGIApp, MemeditMiddleware
from memedit.server.proxy import Proxy

logger = logging.getLogger("memedit.server")


def proxy_app(upstream: str, config: Config) -> ASGIApp:
    """An ASGI application that answers as the upstream does, with edits live.

    Args:
        upstream: URL of an OpenAI-compatible server.
        config: memory, encoder, scope, demonstrations and limits.

    Raises:
        MemeditError: a part cannot be made; the server then does not start.
    """
    log_to_stderr()
    proxy = Proxy(upstream, connect_timeout=config.server.connect_timeout)
    parts = assemble(config)
    parts.warm()
    logger.info("%d edits live in %s", len(parts.memory), config.memory.path)
    middleware = MemeditMiddleware(
        proxy,
        Decider(parts.router),
        parts.routes,
        namespace=config.memory.namespace,
        max_body=config.server.max_body,
    )
    return Door(middleware, edits_api(parts, config))
