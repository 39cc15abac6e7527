"""What stands before everything else in a server: it looks at keys before a body is read.

:mod:`memedit.server.access` says what a key allows.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match

from memedit.errors import AccessFileError
from memedit.server.access import ACCESS, Access, without_secrets
from memedit.server.api_errors import ApiError, translated
from memedit.server.asgi import ASGIApp, Message, Receive, Scope, Send, header, path_of
from memedit.server.audit import Audit
from memedit.server.keys import Key, Keys, Role
from memedit.server.options import NAMESPACE_HEADER

PATH = "/v1/edits"
"""Where the edits API is."""

ROLE = "x-memedit-role"
"""The member of an operation in the OpenAPI schema that names the role it needs."""

CALLER = "memedit.caller"
"""The member of an ASGI scope that holds a :class:`Caller`."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request of the edits API, let in already.

    Attributes:
        key: theirs.
        namespace: what the request is about; the key grants it.
        request: the request's id.
    """

    key: Key
    namespace: str
    request: str


class Guard:
    """Lets those with a good key in to the edits API, as far as the key goes.

    Whoever is refused causes no look at the memory, nor is their body read; what they are told
    does not depend on what the memory holds.

    Attributes:
        app: the API. Each of its operations names its role under :data:`ROLE`.
        keys: the keys.
        namespace: the server's own: that of requests that name none.

    Args:
        app: as above.
        keys: as above.
        audit: told of changes that a key does not allow.
        namespace: as above.
        max_body: longest body, in bytes.
    """

    __name__ = "edits_api"  # what vLLM's log calls the endpoint of a route

    def __init__(
        self, app: FastAPI, keys: Keys, audit: Audit, *, namespace: str, max_body: int
    ) -> None:
        self.app = app
        self.keys = keys
        self.namespace = namespace
        self._audit = audit
        self._max_body = max_body

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """All that the API answers."""
        return self.app.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope["headers"], b"x-request-id") or b""
        known = _REQUEST_ID.fullmatch(given)
        request = given.decode() if known else f"req-{secrets.token_hex(12)}"
        answer = _answering(send, request)
        try:
            caller = await self._caller(scope, request)
            limited = self._limited(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, answer)
        except AccessFileError as error:
            await translated(error).response()(scope, receive, answer)
        else:
            # The API has its paths whole, wherever it is mounted.
            inner = {**scope, "path": path_of(scope), "root_path": "", CALLER: caller}
            await self.app(inner, limited, answer)

    async def _caller(self, scope: Scope, request: str) -> Caller:
        key = Access(self.keys, scope, self.namespace).key()
        if key is None:
            raise ApiError(
                "invalid_api_key",
                "this needs an admin key of memedit's, in X-Memedit-Key, in X-Api-Key or as "
                "Authorization: Bearer; `memedit keys add` makes one",
                headers={"www-authenticate": "Bearer"},
            )
        role, name = self._needed(scope)
        namespace = self._asked(scope, key)
        if not (key.may(role) and key.grants(namespace)):
            if role != "read":
                await run_in_threadpool(self._audit.write, name, "denied", key=key, request=request)
            raise ApiError(
                "not_permitted",
                f"this needs the role {role}, in a namespace of the key's; the key "
                f"{key.name!r} has the role {key.role} in "
                f"{', '.join(key.namespaces) or 'every namespace'}",
            )
        return Caller(key, namespace, request)

    def _needed(self, scope: Scope) -> tuple[Role, str]:
        """The role that the operation needs, and its name; what is no operation needs the least."""
        inner = {**scope, "path": path_of(scope), "root_path": ""}
        for route in self.routes:
            if route.matches(inner)[0] == Match.FULL:
                assert isinstance(route, APIRoute)
                role: Role = (route.openapi_extra or {}).get(ROLE, "admin")
                return role, route.name
        return "read", ""

    def _asked(self, scope: Scope, key: Key) -> str:
        """The namespace that a request is about."""
        named = [v.decode("latin-1") for k, v in scope["headers"] if k == NAMESPACE_HEADER]
        query = scope["query_string"].decode("latin-1")
        named += parse_qs(query, keep_blank_values=True).get("namespace", [])
        if len(set(named)) > 1:
            raise ApiError(
                "invalid_request",
                "the request names several namespaces; name one, in X-Memedit-Namespace or in "
                "the query parameter namespace",
                param="namespace",
            )
        if named:
            return str(named[0])
        if len(key.namespaces) == 1:
            return key.namespaces[0]
        return self.namespace

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """A ``receive`` that stops at the longest body."""
        too_large = ApiError(
            "body_too_large",
            f"the body is longer than {self._max_body:,} bytes; send it in parts",
            headers={"connection": "close"},
        )
        length = header(scope["headers"], b"content-length") or b""
        if length.isdigit() and int(length[:20]) > self._max_body:
            raise too_large
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise too_large
            return message

        return limited


class Door:
    """Stands before everything else: the edits API to the one side, inference to the other.

    Args:
        app: what answers all that is not the edits API's; it finds an
            :class:`~memedit.server.access.Access` in its scopes, and no memedit key.
        api: the edits API.
        refused: called where the namespace header asks for more than a key allows.
    """

    def __init__(
        self, app: ASGIApp, api: Guard, *, refused: Callable[[], None] = lambda: None
    ) -> None:
        self._app = app
        self._api = api
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                scope = {**scope, "headers": without_secrets(scope["headers"])}
            await self._app(scope, receive, send)
            return
        if is_own(scope):
            await self._api(scope, receive, send)
            return
        access = Access(self._api.keys, scope, self._api.namespace)
        named = header(scope["headers"], NAMESPACE_HEADER)
        try:
            if named is not None and not access.may_use(named.decode("latin-1")):
                raise ApiError(
                    "not_permitted",
                    "the namespace that X-Memedit-Namespace names needs a key of memedit's that "
                    "grants it, in X-Memedit-Key",
                    param="x-memedit-namespace",
                )
        except ApiError as error:
            self._refused()
            await error.response()(scope, receive, send)
            return
        except AccessFileError as error:
            await translated(error).response()(scope, receive, send)
            return
        inner = {**scope, ACCESS: access, "headers": access.headers}
        await self._app(inner, receive, send)


def is_own(scope: Scope) -> bool:
    """Whether a request is for the edits API."""
    path = path_of(scope)
    return path == PATH or path.startswith(f"{PATH}/")


def _answering(send: Send, request: str) -> Send:
    """A ``send`` that names the request, and lets no cache keep what it does not say itself."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", request.encode())]
            if header(headers, b"cache-control") is None:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await send(message)

    return answer
