"""The operator's page: a few files that hold no data and are the same for everybody.

Whoever fetches them has learnt nothing: all that the page shows, it asks of the edits API, of
inference and of the metrics, with the key that the operator types in. Its content policy lets no
script, style, font or picture in but its own, nobody frame it, and nothing be made into markup.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from importlib.resources import files
from types import MappingProxyType

from memedit.server.asgi import Receive, Scope, Send, header, path_of, respond

PAGE = "/memedit"
"""Where the page is; its other files are below."""

_HOME = "page.html"
_KINDS = MappingProxyType(
    {
        ".html": b"text/html; charset=utf-8",
        ".css": b"text/css; charset=utf-8",
        ".js": b"text/javascript; charset=utf-8",
        ".svg": b"image/svg+xml",
    }
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Asked for anew each time, so that page and server are of one version.
    (b"cache-control", b"no-cache"),
)


class Page:
    """An ASGI application that answers GET and HEAD with the page's files, read once."""

    __name__ = "page"  # what vLLM's log calls the endpoint of a route

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, bytes, bytes]] = {}
        for file in files("memedit.server").joinpath("static").iterdir():
            kind = _KINDS[f".{file.name.rpartition('.')[2]}"]
            path = PAGE if file.name == _HOME else f"{PAGE}/{file.name}"
            body = file.read_bytes()
            tag = b'"%s"' % blake2b(body, digest_size=12).hexdigest().encode()
            self._files[path] = (kind, body, tag)

    @property
    def paths(self) -> Collection[str]:
        """All that it answers; with a slash at its end the page's own path leads to it."""
        return (*self._files, f"{PAGE}/")

    def has(self, path: str) -> bool:
        """Whether it answers a path."""
        return path in self._files or path == f"{PAGE}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request for one of :attr:`paths`."""
        path = path_of(scope)
        if path == f"{PAGE}/":
            await respond(
                send, 308, b"", [*_HEADERS, (b"location", b"../memedit")], kind=b"text/plain"
            )
            return
        kind, body, tag = self._files[path]
        headers = [*_HEADERS, (b"etag", tag)]
        known = header(scope["headers"], b"if-none-match") or b""
        if tag in (one.strip().removeprefix(b"W/") for one in known.split(b",")):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await respond(send, 200, body, headers, kind=kind)
