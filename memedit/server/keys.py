"""Admin keys: who may look at edits and who may change them.

They stand in a file of their own beside the memory, ``MEMORY.keys.json``, and not in the memory:
a copy of a memory (``memedit memory backup``, a file handed to a colleague) then gives no access
to a server. The file is made with permissions 0600, replaced as a whole, and read again at every
request, which takes some microseconds: a key that was revoked is refused from the next request on,
in every process.

A key is 256 random bits, so SHA-256 is enough to keep it by: nobody can try all of them, and there
is no weak password to slow an attacker down at. A slow hash such as scrypt would only let callers
without a key keep the server busy. Hashes are compared in constant time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from memedit.errors import AccessFileError, InvalidInput

Role = Literal["read", "write", "admin"]
"""What a key may do; each role includes those before it."""

ROLES: tuple[Role, ...] = get_args(Role)

PREFIX = "mek"
"""How every key begins, so that a scanner for leaked secrets finds it."""

FORM = re.compile(rb"%b-[0-9a-f]{8}-[A-Za-z0-9_-]{43}" % PREFIX.encode())
"""What a whole key looks like."""

_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Key:
    """An admin key, without the secret.

    Attributes:
        id: names it in lists and in the audit log.
        name: what its maker called it.
        role: what it may do.
        namespaces: where it may do that; empty for everywhere.
        hash: SHA-256 of the whole key, in hexadecimal.
        created_at: seconds since the epoch.
        revoked_at: likewise, or ``None`` while it is good.
    """

    id: str
    name: str
    role: Role
    namespaces: tuple[str, ...]
    hash: str
    created_at: float
    revoked_at: float | None = None

    def may(self, role: Role) -> bool:
        """Whether it has this role or one that includes it."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def grants(self, namespace: str | None) -> bool:
        """Whether it is good for this namespace; ``None`` for all namespaces there may be."""
        return not self.namespaces or namespace in self.namespaces


_KEYS = TypeAdapter(list[Key])


class Keys:
    """The keys of one memory file.

    Args:
        memory: the memory's file.
    """

    def __init__(self, memory: str | os.PathLike[str]) -> None:
        memory = Path(memory).absolute()
        self.path = memory.with_name(f"{memory.name}.keys.json")
        self._read: tuple[bytes | None, dict[str, Key]] = (None, {})

    def all(self) -> list[Key]:
        """Every key that was ever made, the oldest first.

        Raises:
            AccessFileError: the file cannot be read, is damaged, or others may write to it.
        """
        return list(self._load().values())

    def exist(self) -> bool:
        """Whether any was ever made.

        Raises:
            AccessFileError: as for :meth:`all`.
        """
        return bool(self._load())

    def find(self, secret: str) -> Key | None:
        """The key of this secret; ``None`` where there is none, or it was revoked.

        Raises:
            AccessFileError: as for :meth:`all`.
        """
        parts = secret.split("-", 2)
        key = self._load().get(parts[1]) if len(parts) == 3 and parts[0] == PREFIX else None
        if key is None or key.revoked_at is not None:
            return None
        return key if hmac.compare_digest(key.hash, _hash(secret)) else None

    def add(self, name: str, role: Role, namespaces: tuple[str, ...] = ()) -> tuple[Key, str]:
        """Makes a key; its secret is returned here and kept nowhere.

        Args:
            name: for people to know it by.
            role: what it may do.
            namespaces: where; everywhere where empty.

        Raises:
            InvalidInput: the name is empty or too long.
            AccessFileError: the file cannot be written.
        """
        if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidInput(
                f"a key's name is 1 to {_LONGEST_NAME} printable characters, not {name!r}"
            )
        with self._changing() as keys:
            # Without "-", which divides the parts of a key.
            key_id = next(i for i in iter(lambda: secrets.token_hex(4), "") if i not in keys)
            secret = f"{PREFIX}-{key_id}-{secrets.token_urlsafe(32)}"
            key = Key(key_id, name.strip(), role, namespaces, _hash(secret), time.time())
            keys[key_id] = key
        return key, secret

    def revoke(self, key_id: str) -> Key:
        """Makes a key useless, for good.

        Raises:
            InvalidInput: there is no such key, or it was revoked already.
            AccessFileError: the file cannot be written.
        """
        with self._changing() as keys:
            key = keys.get(key_id)
            if key is None or key.revoked_at is not None:
                what = "was revoked already" if key else "is not there"
                raise InvalidInput(f"the key {key_id!r} {what}; `memedit keys list` shows all keys")
            keys[key_id] = key = replace(key, revoked_at=time.time())
        return key

    def _load(self) -> dict[str, Key]:
        try:
            with self.path.open("rb") as file:
                mode, data = os.fstat(file.fileno()).st_mode, file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise AccessFileError(f"{self.path} cannot be read: {error.strerror}") from error
        if mode & 0o022:
            raise AccessFileError(
                f"others may write to {self.path}, and so give themselves access: chmod 600 it, "
                "and look through `memedit keys list`"
            )
        before, keys = self._read
        if data != before:
            try:
                keys = {key.id: key for key in _KEYS.validate_json(data)}
            except ValidationError as error:
                raise AccessFileError(
                    f"{self.path} is damaged; put it back from a backup, or remove it and make "
                    "new keys"
                ) from error
            self._read = data, keys
        return keys

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys, to be changed; written as one when the block ends, one process at a time."""
        try:
            lock = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = dict(self._load())
                yield keys
                self._write(json.dumps([asdict(key) for key in keys.values()], indent=1))
            finally:
                os.close(lock)
        except OSError as error:
            raise AccessFileError(
                f"{self.path} cannot be written: {error.strerror}; its folder must be there, and "
                "writable for this user"
            ) from error

    def _write(self, text: str) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.path)


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
