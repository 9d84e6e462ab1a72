"""The other side of a connection: which processes of this machine serve an address, and what they use.

A server on another machine, or of a user whose /proc is closed to us, has no processes that could be seen; its
counters are unknown then, not 0.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from annserve.errors import InputError
from annserve.measure.counters import Memory, Usage, memory_of, usage_of

Number = TypeVar("Number", int, float)
_PROC = Path("/proc")


class ServerProcesses:
    """The processes that listen at an address, and their children.

    Parameters
    ----------
    pids : sequence of int
        None of them: nothing is known.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = tuple(pids)

    def usage(self) -> Usage:
        """Sum CPU time and bytes read from devices; a process that ended meanwhile makes both unknown."""
        return _sum([usage_of(_PROC / str(pid)) for pid in self.pids])

    def memory(self) -> Memory:
        """Sum resident and proportional memory."""
        parts = [memory_of(_PROC / str(pid)) for pid in self.pids]
        return Memory(_total([one.rss_bytes for one in parts]), _total([one.pss_bytes for one in parts]))


def find_server(address: str) -> ServerProcesses:
    """Find who listens at ``HOST:PORT``, if it is a process of this machine.

    Raises
    ------
    InputError
        If the address names no port.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InputError(f"address {address!r} names no port; give HOST:PORT", field="address")
    if not _is_here(host.strip("[]")):
        return ServerProcesses(())
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return ServerProcesses(())
    listening = {
        one.pid for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == int(port) and one.pid
    }
    family: set[int] = set()
    for pid in listening:
        family |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return ServerProcesses(sorted(family))


def _is_here(host: str) -> bool:
    """Whether a host is this machine: loopback, or an address of one of its interfaces."""
    try:
        wanted = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses}
    return bool(wanted & own) or any(address.startswith("127.") for address in wanted)


def _sum(parts: Sequence[Usage]) -> Usage:
    return Usage(_total([one.cpu_seconds for one in parts]), _total([one.device_bytes_read for one in parts]))


def _total(values: Sequence[Number | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
