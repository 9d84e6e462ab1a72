"""What the kernel says that a process used: bytes read from devices, CPU time, memory.

The engine counts its own reads; these counters are the witness that doesn't take its word. They cover the
whole process, all threads, those that ended included. Where /proc isn't there or is closed, a count is None.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

_PROC_SELF = Path("/proc/self")


@dataclass(frozen=True)
class Usage:
    """Counts since the process began.

    Attributes
    ----------
    cpu_seconds : float or None
        User and system time.
    device_bytes_read : int or None
        Bytes fetched from block devices. Direct reads are all in it, hits of the page cache aren't.
    """

    cpu_seconds: float | None
    device_bytes_read: int | None

    def since(self, before: Usage) -> Usage:
        """Give what was used between two moments; what wasn't known at one of them is None."""
        cpu = None if self.cpu_seconds is None or before.cpu_seconds is None else self.cpu_seconds - before.cpu_seconds
        read, read_before = self.device_bytes_read, before.device_bytes_read
        return Usage(cpu, None if read is None or read_before is None else read - read_before)


#: Reads the counters before and after a pass.
Witness = Callable[[], Usage]


@dataclass(frozen=True)
class Memory:
    """Memory at one moment.

    Attributes
    ----------
    rss_bytes : int or None
        Resident set: every resident page, shared or not.
    pss_bytes : int or None
        Proportional set: a page that n processes share counts 1/n.
    """

    rss_bytes: int | None
    pss_bytes: int | None

    def as_dict(self) -> dict[str, int | None]:
        """Give the fields as plain values, for JSON."""
        return asdict(self)


def usage_now() -> Usage:
    """Read this process's CPU and device counters."""
    return Usage(time.process_time(), _read_fields(_PROC_SELF / "io").get("read_bytes"))


def usage_of(process: Path) -> Usage:
    """Read the counters of another process from its folder in /proc; CPU time comes in steps of 10 ms."""
    try:
        # The name in brackets may hold anything; what follows is state, then numbers: utime and stime are 14 and 15.
        times = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return Usage(None, None)
    cpu_seconds = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return Usage(cpu_seconds, _read_fields(process / "io").get("read_bytes"))


def memory_now() -> Memory:
    """Read this process's resident and proportional memory; walks the page tables, a millisecond or more."""
    return memory_of(_PROC_SELF)


def memory_of(process: Path) -> Memory:
    """Read the memory of a process from its folder in /proc."""
    fields = _read_fields(process / "smaps_rollup")
    rss, pss = fields.get("Rss"), fields.get("Pss")
    return Memory(None if rss is None else rss * 1024, None if pss is None else pss * 1024)


def _read_fields(path: Path) -> dict[str, int]:
    """Parse ``name: number [unit]`` lines; empty if the file can't be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    words = ((name.strip(), rest.split()) for name, rest in pairs)
    return {name: int(rest[0]) for name, rest in words if rest and rest[0].isdigit()}
