"""What the kernel says that this process used: bytes read from devices, CPU time, memory.

The engine counts its own reads; these counters are the witness that doesn't take its word. They cover the
whole process, all threads, those that ended included. Where /proc isn't there or is closed, a count is None.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

_PROC_SELF = Path("/proc/self")


@dataclass(frozen=True)
class Usage:
    """Counts since the process began; subtract two to get what lies between.

    Attributes
    ----------
    cpu_seconds : float
        User and system time.
    device_bytes_read : int or None
        Bytes fetched from block devices. Direct reads are all in it, hits of the page cache aren't.
    """

    cpu_seconds: float
    device_bytes_read: int | None


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
    """Read the process's CPU and device counters."""
    fields = _read_fields(_PROC_SELF / "io")
    return Usage(time.process_time(), fields.get("read_bytes"))


def memory_now() -> Memory:
    """Read the process's resident and proportional memory; walks the page tables, a millisecond or more."""
    fields = _read_fields(_PROC_SELF / "smaps_rollup")
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
