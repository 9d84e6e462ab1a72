"""Who may call what: the key in a call's metadata is held against the role that the method takes.

A method that isn't listed takes the highest role, so that one added later is closed until someone decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from annserve.errors import AccessError, RoleError
from annserve.guard.keys import ROLES, KeyRing

_SEARCH, _ADMIN = "/annserve.v1.SearchService/", "/annserve.v1.AdminService/"
#: Probes of balancers and of orchestrators carry no key, and learn no more than whether we serve.
OPEN = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
#: Method → role that it takes.
ROLE_OF = {
    **dict.fromkeys((_SEARCH + name for name in ("Search", "SearchStream", "MeasureRecall")), "read"),
    **dict.fromkeys((_ADMIN + name for name in ("GetServerInfo", "GetIndex", "ListIndexes")), "read"),
    **dict.fromkeys((_ADMIN + name for name in ("GetCollection", "ListCollections")), "read"),
    **dict.fromkeys((_ADMIN + name for name in ("GetJob", "WatchJob", "ListJobs")), "read"),
    **dict.fromkeys((_ADMIN + name for name in ("PublishVersion", "StartJob", "CancelJob")), "write"),
    **dict.fromkeys((_ADMIN + name for name in ("CreateCollection", "DeleteCollection")), "admin"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "read",
}
#: Roles whose methods change something.
CHANGING = ROLES[1:]
_HIGHEST = ROLES[-1]
_SCHEME = "bearer "


class Caller(NamedTuple):
    """Who calls, for logs: the id and the name of a key, both empty where none is asked for."""

    key_id: str = ""
    name: str = ""


class Admission:
    """Decides over calls; threads may share it.

    Parameters
    ----------
    keys : Path or None
        File of keys.
    keyless_role : str
        What everybody may do where there is none.
    """

    def __init__(self, keys: Path | None = None, keyless_role: str = _HIGHEST) -> None:
        self._ring = KeyRing(keys) if keys else None
        self._keyless_role = keyless_role

    def admit(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Let a call in, before a byte of its request is read.

        Parameters
        ----------
        method : str
            As ``/annserve.v1.SearchService/Search``.
        metadata : pairs
            Of the call; the key comes as ``authorization: Bearer KEY``.

        Raises
        ------
        AccessError
            If there is no key, or it is none of ours.
        RoleError
            If it doesn't allow the method.
        """
        if method in OPEN:
            return Caller()
        return self.admit_role(ROLE_OF.get(method, _HIGHEST), [v for name, v in metadata if name == "authorization"])

    def admit_role(self, role: str, authorization: list[str | bytes]) -> Caller:
        """Let in who shows one key that has `role`, or a higher one; see `admit`."""
        if self._ring is None:
            if ROLES.index(self._keyless_role) < ROLES.index(role):
                raise RoleError(f"this takes role {role}; callers of this server have role {self._keyless_role}")
            return Caller()
        (value, *more) = authorization or [""]
        if more or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
            raise AccessError("this server asks for a key: send it as metadata 'authorization: Bearer KEY'")
        key = self._ring.find(value[len(_SCHEME) :].strip())
        if ROLES.index(key.role) < ROLES.index(role):
            raise RoleError(f"this takes a key of role {role}; key {key.id} ({key.name}) has role {key.role}")
        return Caller(key.id, key.name)
