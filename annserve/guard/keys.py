"""API keys: random secrets of which a file keeps only SHA-256 hashes, each with a name and a role.

A key reads ``annserve_<id>_<secret>``; the id is for people, who revoke by it, and the secret has 256 random bits,
so that a fast hash is as good as a slow one and who reads the file learns no key; who may write it lets people in. A
server notices within a second that it changed, so a key is revoked without a restart.

Deliberately absent: any way to print a key again, and keys in log lines or error messages.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from annserve.errors import AccessError, InputError, NotFoundError
from annserve.storage.atomic import write_atomically

LOG = logging.getLogger("annserve.guard")

#: Each role may do what those before it may.
ROLES = ("read", "write", "admin")
#: How often a server looks whether the file changed.
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Key:
    """What is kept of a key.

    Attributes
    ----------
    id : str
        Eight hexadecimal digits.
    name : str
        Whose it is; it stands in logs.
    role : str
        One of `ROLES`.
    sha256 : str
        Hash of the whole key, in hexadecimal digits.
    created : str
        When, as ISO 8601.
    """

    id: str
    name: str
    role: str
    sha256: str
    created: str


class KeyRing:
    """The keys of a file, as a server asks for them; threads may share it.

    Raises
    ------
    NotFoundError, InputError
        If there is no such file, it isn't one of keys, or it holds none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = _to_compare(read_keys(path))
        self._looked = time.monotonic()
        if not self._keys:
            raise InputError(f"{path} holds no keys, so nobody could call; make one with 'annserve keys new'")

    def find(self, presented: str) -> Key:
        """Give the key that `presented` is, in a time that doesn't tell which, or how nearly.

        Raises
        ------
        AccessError
            If it is none of them.
        """
        self._look()
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found = None
        for stored, key in self._keys:
            if hmac.compare_digest(stored, digest):
                found = key
        if found is None:
            raise AccessError("the key that was sent isn't one of this server's; it may have been revoked")
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            keys = _to_compare(read_keys(self._path))
        except (InputError, NotFoundError) as error:
            # Shutting everyone out for a slip of the pen would be worse than a late change, if it is told.
            LOG.error("keys not read anew, the former ones stay", extra={"error": str(error)})
            return
        self._stamp, self._keys = stamp, keys
        LOG.info("keys read anew", extra={"keys": len(keys)})


def new_key(path: Path, name: str, role: str) -> tuple[Key, str]:
    """Make a key and add it to a file, which is made if it isn't there.

    Returns
    -------
    key : Key
    secret : str
        The key itself. Nobody can tell it again.

    Raises
    ------
    InputError
        If the file isn't one of keys, the role is unknown, or the name is empty or no single line.
    OutputError
        If the file can't be written.
    """
    if role not in ROLES:
        raise InputError(f"there is no role {role!r}; give one of {', '.join(ROLES)}", field="role")
    if not name or not name.isprintable() or len(name) > 63:
        raise InputError("a key's name is one line of 1 to 63 characters", field="name")
    keys = read_keys(path) if path.exists() else []
    taken = {key.id for key in keys}
    # An id names a tenant: no two keys may share one.
    while (key_id := secrets.token_hex(4)) in taken:
        pass
    secret = f"annserve_{key_id}_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    key = Key(key_id, name, role, digest, datetime.now(UTC).isoformat(timespec="seconds"))
    _write(path, [*keys, key])
    return key, secret


def revoke_key(path: Path, key_id: str) -> Key:
    """Take a key out of a file.

    Raises
    ------
    NotFoundError
        If none has this id.
    """
    keys = read_keys(path)
    gone = next((key for key in keys if key.id == key_id), None)
    if gone is None:
        raise NotFoundError(f"{path} has no key {key_id[:20]!r}; 'annserve keys list' tells the ids")
    _write(path, [key for key in keys if key is not gone])
    return gone


def read_keys(path: Path) -> list[Key]:
    """Read the keys of a file, oldest first.

    Raises
    ------
    NotFoundError
        If there is none.
    InputError
        If it isn't one of keys.
    """
    try:
        keys = [Key(**one) for one in json.loads(path.read_text(encoding="utf-8"))["keys"]]
        whole = all(key.role in ROLES and len(bytes.fromhex(key.sha256)) == 32 for key in keys)
    except FileNotFoundError:
        raise NotFoundError(f"there is no {path}; make a key with 'annserve keys new --file {path}'") from None
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{path} isn't a file of keys as 'annserve keys' writes it", field="keys")
    return keys


def _write(path: Path, keys: Sequence[Key]) -> None:
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=1)
    write_atomically(path, text.encode() + b"\n")


def _to_compare(keys: Sequence[Key]) -> list[tuple[bytes, Key]]:
    return [(bytes.fromhex(key.sha256), key) for key in keys]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
