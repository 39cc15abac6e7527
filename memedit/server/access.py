"""Who may do what with a server's edits: the one place that decides.

:class:`~memedit.server.door.Door` puts an :class:`Access` into the scope of every request that is
not the edits API's; whoever tells something about edits, or lets those of a namespace answer, asks
it. For the edits API :class:`~memedit.server.door.Guard` asks it itself.

A key comes in ``X-Memedit-Key``, or as ``Authorization: Bearer``. The first is for servers whose
own key check takes the second, vLLM's among them. Neither ever goes on to an upstream.
"""

from __future__ import annotations

from ipaddress import ip_address

from memedit.server.asgi import Headers, Scope, header
from memedit.server.keys import PREFIX, Key, Keys

ACCESS = "memedit.access"
"""The member of an ASGI scope that holds an :class:`Access`."""

_KEY = b"x-memedit-key"
_BEARER = b"bearer "
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
        self._secret = _secret(scope["headers"])

    @property
    def has_secret(self) -> bool:
        """Whether a memedit key came along, of whatever worth."""
        return self._secret is not None

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
    """The headers that an upstream may see."""
    return [pair for pair in headers if _secret_in(*pair) is None]


def _secret(headers: Headers) -> str | None:
    """The memedit key that came with a request; ``X-Memedit-Key`` goes first."""
    found = sorted(headers, key=lambda pair: pair[0].lower() != _KEY)
    return next((s for pair in found if (s := _secret_in(*pair)) is not None), None)


def _secret_in(name: bytes, value: bytes) -> str | None:
    """The memedit key in a header, or ``None``: a bearer token of another form is not memedit's."""
    name = name.lower()
    if name == _KEY:
        return value.strip().decode("latin-1")
    if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
        token = value[len(_BEARER) :].strip().decode("latin-1")
        return token if token.startswith(f"{PREFIX}-") else None
    return None


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
