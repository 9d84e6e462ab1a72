"""Memory of the processes of a server: of each one, and of all together, where what they share is counted once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import psutil

#: Fields of /proc/PID/smaps_rollup, by what they are called here.
_SIZES = {"rss_bytes": "Rss", "pss_bytes": "Pss", "anonymous_bytes": "Anonymous"}
_PAGE_BYTES, _USER_PAGES = 4_096, 1 << 35
_PRESENT, _FRAME = np.uint64(1 << 63), np.uint64((1 << 55) - 1)


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Give supervisor, nursery and workers, in this order."""
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def memory_of(process: subprocess.Popen[str]) -> list[dict[str, int]]:
    """Give the memory of each process of a server."""
    return [sizes_of(one.pid) for one in family_of(process)]


def sizes_of(pid: int) -> dict[str, int]:
    """Give the sizes of one process."""
    told: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        told[name.rstrip(":")] = int(value) << 10
    sizes = {ours: told[theirs] for ours, theirs in _SIZES.items()}
    return {**sizes, "uss_bytes": told["Private_Clean"] + told["Private_Dirty"]}


def ram_of(process: subprocess.Popen[str]) -> int:
    """Give the bytes that a server has in RAM, each page once, whoever else may have it too; for root alone."""
    frames = np.concatenate([frames_of(one.pid) for one in family_of(process)])
    return len(np.unique(frames)) * _PAGE_BYTES


def frames_of(pid: int) -> np.ndarray:
    """Give the numbers of a process's page frames."""
    found = []
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, end = (int(address, 16) // _PAGE_BYTES for address in line.split()[0].split("-"))
            if first >= _USER_PAGES:  # Linux's own, the same for all
                continue
            pagemap.seek(8 * first)
            entries = np.frombuffer(pagemap.read(8 * (end - first)), np.uint64)
            found.append(entries[entries & _PRESENT != 0] & _FRAME)
    return np.concatenate(found)
