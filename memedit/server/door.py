"""Who may do what: the door of the edits API, and how far the namespace header goes.

A key comes in ``X-Memedit-Key``, or as ``Authorization: Bearer``. The first is for servers whose
own key check takes the second, vLLM's among them. Neither ever goes on to an upstream.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match

from memedit.errors import AccessFileError
from memedit.server.api_errors import ApiError, translated
from memedit.server.audit import Audit
from memedit.server.keys import PREFIX, Key, Keys, Role
from memedit.server.middleware import NAMESPACE, ASGIApp, Headers, Message, Receive, Scope, Send

logger = logging.getLogger("memedit.server")

PATH = "/v1/edits"
"""Where the edits API is."""

KEY = b"x-memedit-key"
ROLE = "x-memedit-role"
"""The member of an operation in the OpenAPI schema that names the role it needs."""

ACCESS = "memedit.access"
CALLER = "memedit.caller"
"""Members of an ASGI scope: an :class:`Access`, for inference; a :class:`Caller`, for the API."""

_BEARER = b"bearer "
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


class Access:
    """How far an inference request may go in memedit; most never ask.

    Args:
        keys: the keys of this memory.
        secret: the memedit key that came along, or ``None``.
        own: the server's own namespace, which serves everybody.
    """

    def __init__(self, keys: Keys, secret: str | None, own: str) -> None:
        self._keys = keys
        self._secret = secret
        self._own = own

    def may_use(self, namespace: str) -> bool:
        """Whether the edits of a namespace may answer: the server's own, or one that a key grants.

        Where no key was ever made nobody is told apart from anybody, and every namespace answers.

        Raises:
            AccessFileError: the keys cannot be read.
        """
        return namespace == self._own or not self._keys.exist() or self.may_read(namespace)

    def may_read(self, namespace: str) -> bool:
        """Whether the caller may see texts of a namespace's edits, as an explanation shows them.

        Raises:
            AccessFileError: the keys cannot be read.
        """
        key = None if self._secret is None else self._keys.find(self._secret)
        return key is not None and key.grants(namespace)


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
        given = _header(scope["headers"], b"x-request-id") or b""
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
            inner = {**scope, "path": _path(scope), "root_path": "", CALLER: caller}
            await self.app(inner, limited, answer)

    async def _caller(self, scope: Scope, request: str) -> Caller:
        secret = secret_of(scope["headers"])
        key = None if secret is None else self.keys.find(secret)
        if key is None:
            raise ApiError(
                "invalid_api_key",
                "this needs an admin key of memedit's, in X-Memedit-Key or as Authorization: "
                "Bearer; `memedit keys add` makes one",
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
        inner = {**scope, "path": _path(scope), "root_path": ""}
        for route in self.routes:
            if route.matches(inner)[0] == Match.FULL:
                assert isinstance(route, APIRoute)
                role: Role = (route.openapi_extra or {}).get(ROLE, "admin")
                return role, route.name
        return "read", ""

    def _asked(self, scope: Scope, key: Key) -> str:
        """The namespace that a request is about."""
        named = [v.decode("latin-1") for k, v in scope["headers"] if k.lower() == NAMESPACE]
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
        length = _header(scope["headers"], b"content-length") or b""
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
        app: what answers all that is not memedit's own.
        api: the edits API.
    """

    def __init__(self, app: ASGIApp, api: Guard) -> None:
        self._app = app
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection's scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if is_own(scope):
            await self.api(scope, receive, send)
            return
        secret = secret_of(scope["headers"])
        access = Access(self.api.keys, secret, self.api.namespace)
        named = _header(scope["headers"], NAMESPACE)
        try:
            if named is not None and not access.may_use(named.decode("latin-1")):
                raise ApiError(
                    "not_permitted",
                    "the namespace that X-Memedit-Namespace names needs a key of memedit's that "
                    "grants it, in X-Memedit-Key",
                    param="x-memedit-namespace",
                )
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except AccessFileError as error:
            await translated(error).response()(scope, receive, send)
            return
        scope = {**scope, ACCESS: access}
        if secret is not None:
            scope["headers"] = [pair for pair in scope["headers"] if _secret_in(*pair) is None]
        await self._app(scope, receive, send)


def is_own(scope: Scope) -> bool:
    """Whether a request is for the edits API."""
    path = _path(scope)
    return path == PATH or path.startswith(f"{PATH}/")


def secret_of(headers: Headers) -> str | None:
    """The memedit key that came with a request, of whatever worth; ``X-Memedit-Key`` goes first."""
    found = [
        (name, value) for k, value in headers if (name := k.lower()) in (KEY, b"authorization")
    ]
    found.sort(key=lambda pair: pair[0] != KEY)
    return next((s for name, value in found if (s := _secret_in(name, value)) is not None), None)


def _secret_in(name: bytes, value: bytes) -> str | None:
    """The memedit key in a header, or ``None``: a bearer token of another form is not memedit's."""
    name = name.lower()
    if name == KEY:
        return value.strip().decode("latin-1")
    if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
        token = value[len(_BEARER) :].strip().decode("latin-1")
        return token if token.startswith(f"{PREFIX}-") else None
    return None


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root)


def _header(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key.lower() == name), None)


def _answering(send: Send, request: str) -> Send:
    """A ``send`` that names the request, and lets no cache keep what it does not say itself."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", request.encode())]
            if _header(headers, b"cache-control") is None:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await send(message)

    return answer
