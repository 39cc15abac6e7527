"""The HTTP server in front: uvicorn, with limits that it does not have itself."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memedit.config import ServerConfig
from memedit.server.app import ProxyApp
from memedit.server.asgi import Receive, Scope, Send, error_body, respond

_BACKLOG = 4_096
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def server(app: ProxyApp, config: ServerConfig) -> uvicorn.Server:
    """A server that runs until a signal ends it; what is under way has ``drain_timeout`` to end."""
    _more_files()
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=_protocol(config.max_headers, config.header_timeout),
        backlog=_BACKLOG,
        server_header=False,
        date_header=False,
        access_log=False,
        proxy_headers=False,
        log_level="info",
        timeout_graceful_shutdown=math.ceil(config.drain_timeout) or None,
    )
    return _Server(settings, app)


class _Server(uvicorn.Server):
    """Tells the application when it is asked to end."""

    def __init__(self, config: uvicorn.Config, app: ProxyApp) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        self._app.drain()
        super().handle_exit(sig, frame)


def _protocol(max_headers: int, header_timeout: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol with a limit on the size of a request's head, and on its time."""

    class Limited(HttpToolsProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._in_head = True
            self._head = 0
            self._deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                self._head += len(data)
            super().data_received(data)
            if self._in_head and self._head > max_headers:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True
            self._wait()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._head = 0
            self._arrived()
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            self.app = self.config.loaded_app if size <= max_headers else _refuse
            super().on_headers_complete()

        def _wait(self) -> None:
            if header_timeout and self._deadline is None:
                self._deadline = self.loop.call_later(header_timeout, self.transport.close)

        def _arrived(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Limited


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    text = "the request's headers are too long (server.max_headers)"
    await respond(send, 431, error_body(text, "invalid_request_error", 431))


def _more_files() -> None:
    """As many open files as this process may have: each request needs two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
