"""Who may see what memedit itself has to tell: explanations, metrics."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

from memedit.server.asgi import Scope, header

Role = Literal["read", "write", "admin"]

Allows = Callable[[Scope, Role], bool]
"""Whether the caller of this request holds a role. The one place where keys are asked for."""


def from_this_machine(scope: Scope, role: Role) -> bool:
    """Whoever is on this machine may; what another proxy has passed on is from elsewhere.

    What counts where no keys are set.
    """
    client = scope.get("client")
    if client is None or any(header(scope["headers"], name) for name in _FORWARDED):
        return False
    try:
        address = ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
