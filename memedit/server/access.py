"""Who may do what with a server's edits: the one place that decides.

:class:`~memedit.server.door.Door` puts an :class:`Access` into the scope of every request that is
not the edits API's; whoever tells something about edits, or lets those of a namespace answer, asks
it. For the edits API :class:`~memedit.server.door.Guard` asks it itself.

A key comes in ``X-Memedit-Key``, as ``Authorization: Bearer``, or in ``X-Api-Key``, where clients
of Anthropic's API put theirs. The first is for servers whose own key check takes one of the
others, vLLM's among them. No header that holds a memedit key goes on to an upstream, whatever its
name.
"""

from __future__ import annotations

import binascii
import re
from ipaddress import ip_address

from memedit.server.asgi import Headers, Scope, header
from memedit.server.keys import FORM, PREFIX, Key, Keys

ACCESS = "memedit.access"
"""The member of an ASGI scope that holds an :class:`Access`."""

_KEY = b"x-memedit-key"
_API_KEY = b"x-api-key"
_BEARER = b"bearer "
_BASIC = b"basic "
_BEGINNING = f"{PREFIX}-".encode()
_HINT = re.compile(_BEGINNING + b"|^" + _BASIC, re.IGNORECASE)
"""What a header has that holds a key, plain or in Basic's form, and few others have."""

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")


class Access:
    """How far one request may go in memedit; most requests never ask.

    Nothing is kept from one question to the next: a key that is revoked while a body is being read
    counts no more.

    Args:
        keys: the keys of this memory.
        scope: of the request, as it came.
        own: the server's own namespace, which serves everybody.
    """

    def __init__(self, keys: Keys, scope: Scope, own: str) -> None:
        self._keys = keys
        self._scope = scope
        self._own = own
        self._suspects = _suspects(scope["headers"])
        self._secret = _secret(self._suspects)

    @property
    def headers(self) -> Headers:
        """The headers that an upstream may see: those without a memedit key, of whatever worth."""
        return _without(self._suspects, self._scope["headers"])

    def key(self) -> Key | None:
        """The good key that came along, if any did.

        Raises:
            AccessFileError: the keys cannot be read.
        """
        return None if self._secret is None else self._keys.find(self._secret)

    def may_use(self, namespace: str) -> bool:
        """Whether the edits of a namespace may answer: the server's own, or one that a key grants.

        Where no key was ever made nobody is told apart from anybody, and every namespace answers.

        Raises:
            AccessFileError: the keys cannot be read.
        """
        if namespace == self._own or not self._keys.exist():
            return True
        key = self.key()
        return key is not None and key.grants(namespace)

    def may_read(self, namespace: str | None) -> bool:
        """Whether the caller may be told about the edits of a namespace: needs the role read.

        Where no key was ever made, that is whoever is on this machine and has not come through
        another proxy.

        Args:
            namespace: whose edits; ``None`` for those of every namespace.

        Raises:
            AccessFileError: the keys cannot be read.
        """
        if not self._keys.exist():
            return _from_this_machine(self._scope)
        key = self.key()
        return key is not None and key.may("read") and key.grants(namespace)


def access_of(scope: Scope) -> Access:
    """What the door has found out about a request."""
    access: Access = scope[ACCESS]
    return access


def without_secrets(headers: Headers) -> Headers:
    """As :attr:`Access.headers`."""
    return _without(_suspects(headers), headers)


def _suspects(headers: Headers) -> Headers:
    """The headers that need a closer look: most requests have none."""
    return [pair for pair in headers if pair[0] == _KEY or _HINT.search(pair[1])]


def _without(suspects: Headers, headers: Headers) -> Headers:
    guilty = [pair for pair in suspects if _holds_secret(*pair)]
    return [pair for pair in headers if pair not in guilty] if guilty else headers


def _secret(suspects: Headers) -> str | None:
    """The memedit key that came with a request; ``X-Memedit-Key`` goes first."""
    found = sorted(suspects, key=lambda pair: pair[0] != _KEY)
    return next((s for pair in found if (s := _secret_in(*pair)) is not None), None)


def _secret_in(name: bytes, value: bytes) -> str | None:
    """The memedit key that a header sends; a token of another form is none of memedit's."""
    if name == _KEY:
        return value.strip().decode("latin-1")
    if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
        token = value[len(_BEARER) :]
    elif name == _API_KEY:
        token = value
    else:
        return None
    token = token.strip()
    return token.decode("latin-1") if token.startswith(_BEGINNING) else None


def _holds_secret(name: bytes, value: bytes) -> bool:
    """Whether a memedit key stands in a header, be it one where nobody looks for any."""
    if FORM.search(value) or _secret_in(name, value) is not None:
        return True
    if value[: len(_BASIC)].lower() != _BASIC:
        return False
    try:
        return FORM.search(binascii.a2b_base64(value[len(_BASIC) :] + b"==")) is not None
    except binascii.Error:
        return False


def _from_this_machine(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None or any(header(scope["headers"], name) for name in _FORWARDED):
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
