"""What a request says to memedit itself: in headers, or in a member of its body."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from memedit.config import NAMESPACE
from memedit.errors import InvalidInput
from memedit.router import PASSTHROUGH
from memedit.server.asgi import Headers, header

BYPASS = b"x-memedit-bypass"
NAMESPACE_HEADER = b"x-memedit-namespace"
MEMBER = "memedit"
"""The member of a request body that is memedit's own and never reaches the upstream."""

AUTO = "auto"
_NAMESPACE = re.compile(NAMESPACE)
_MEMBERS = ("route", "namespace", "explain")


@dataclass(frozen=True, slots=True)
class Options:
    """How a request wants to be treated.

    Attributes:
        namespace: whose edits answer it.
        route: the route for what an edit is about; ``auto`` leaves that to memedit, and
            ``passthrough`` lets no edit answer.
        explain: whether the response is to say why.
    """

    namespace: str
    route: str = AUTO
    explain: bool = False


def read_options(
    headers: Headers,
    member: Any,
    *,
    namespace: str,
    routes: Collection[str],
) -> Options:
    """The options of a request; the body's member wins over the headers.

    Args:
        headers: of the request.
        member: the value of :data:`MEMBER`, ``None`` where there is none.
        namespace: the one of requests that name none.
        routes: the names of routes there are.

    Raises:
        InvalidInput: the member is malformed, or the namespace is.
    """
    named = header(headers, NAMESPACE_HEADER)
    if named is not None:
        namespace = named.decode("latin-1")
    bypass = (header(headers, BYPASS) or b"0").strip().lower() not in (b"0", b"false", b"")
    route = PASSTHROUGH if bypass else AUTO
    if member is None:
        return Options(_checked(namespace), route)
    if not isinstance(member, dict):
        raise InvalidInput(f"memedit is {_kind(member)}; it must be an object with {_named()}")
    for name in member:
        if name not in _MEMBERS:
            raise InvalidInput(f"memedit has no member {name[:64]!r}; there are {_named()}")
    allowed = (AUTO, PASSTHROUGH, *routes)
    asked = member.get("route", AUTO)
    if asked not in allowed:
        shown = repr(asked)[:64]
        raise InvalidInput(f"memedit.route is {shown}; it must be one of {', '.join(allowed)}")
    if not isinstance(namespace := member.get("namespace", namespace), str):
        raise InvalidInput(f"memedit.namespace is {_kind(namespace)}; it must be a string")
    if not isinstance(explain := member.get("explain", False), bool):
        raise InvalidInput(f"memedit.explain is {_kind(explain)}; it must be true or false")
    return Options(_checked(namespace), route if asked == AUTO else asked, explain)


def _checked(namespace: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"the namespace {namespace[:80]!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -"
        )
    return namespace


def _named() -> str:
    return f"{', '.join(_MEMBERS[:-1])} and {_MEMBERS[-1]}"


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return "null" if value is None else kinds.get(type(value), "a list or an object")
