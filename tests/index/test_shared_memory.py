"""Processes that open one index share what it keeps in RAM."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import annserve
from annserve.index import names
from annserve.index.snapshot import open_snapshot


def private_bytes(file: Path) -> int:
    """Bytes of a mapped file that are this process's own, by the kernel's count."""
    private, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counting = line.endswith(str(file))
        elif counting and line.startswith(("Private_Dirty:", "Anonymous:")):
            private += int(line.split()[1])
    return private


def test_what_an_index_keeps_in_ram_stays_memory_of_its_files(whole_index):
    """A search changes nothing of it; and a write by mistake would be seen by this test, not by the file."""
    with annserve.open(whole_index) as index:
        index.search(np.ones((5, 400), np.float32), 3)
        folder = whole_index / names.segment_name(1)
        assert private_bytes(folder / names.HEADS) == private_bytes(folder / names.CODES) == 0
        segment = open_snapshot(whole_index).segments[0]
        before = (folder / names.HEADS).read_bytes()
        segment.radii[0] = 7
        assert private_bytes(folder / names.HEADS) > 0
        assert (folder / names.HEADS).read_bytes() == before
