"""A plain LRU of whole pages, compiled like the product's cache, to hold it against: no entries, no counts, no proofs.

``with_lru`` puts one of so many bytes in the place of an open collection's cache; its tables aren't counted.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np

from annserve.collection import Collection
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import copy_bytes
from annserve.search.engine import Engine
from annserve.storage.cache import Absent

NONE = -1


@inline_kernel
def _unlink(links, slot):
    before, after = links[0, slot], links[1, slot]
    links[1, before] = after
    links[0, after] = before


@inline_kernel
def _to_front(links, slot):
    """Put a slot behind the last one, which stands for both ends of the list."""
    end = links.shape[1] - 1
    first = links[1, end]
    links[0, slot], links[1, slot] = end, first
    links[1, end] = links[0, first] = slot


@kernel
def fetch_pages(memory, slot_of, links, page_ids, offsets, frames, absent, places, absent_offsets):
    size, n_absent = memory.shape[1], 0
    absent_offsets[0] = 0
    for i in range(len(offsets) - 1):
        for j in range(offsets[i], offsets[i + 1]):
            slot = slot_of[page_ids[j]]
            if slot == NONE:
                absent[n_absent] = page_ids[j]
                places[n_absent] = j
                n_absent += 1
            else:
                copy_bytes(
                    np.int64(frames.ctypes.data) + j * size, np.int64(memory.ctypes.data) + np.int64(slot) * size, size
                )
                _unlink(links, slot)
                _to_front(links, slot)
        absent_offsets[i + 1] = n_absent
    return n_absent


@kernel
def keep_pages(memory, slot_of, page_of, links, page_ids, places, frames):
    size, end = memory.shape[1], links.shape[1] - 1
    for j in range(len(page_ids)):
        if slot_of[page_ids[j]] != NONE:
            continue
        slot = links[0, end]
        if page_of[slot] != NONE:
            slot_of[page_of[slot]] = NONE
        _unlink(links, slot)
        _to_front(links, slot)
        page_of[slot] = page_ids[j]
        slot_of[page_ids[j]] = slot
        copy_bytes(np.int64(memory.ctypes.data) + slot * size, np.int64(frames.ctypes.data) + places[j] * size, size)


class PlainLru:
    """Stands where an engine has its cache; for one thread."""

    whole = True

    def __init__(self, n_bytes: int, page_bytes: int, n_pages: int) -> None:
        n_slots = max(n_bytes // page_bytes, 1)
        self.pages = self
        self._memory = np.zeros((n_slots, page_bytes), np.uint8)
        self._slot_of = np.full(n_pages, NONE, np.int32)
        self._page_of = np.full(n_slots, NONE, np.int64)
        around = np.arange(n_slots + 1)
        self._links = np.stack((np.roll(around, 1), np.roll(around, -1)))

    def fetch(self, page_ids: np.ndarray, offsets: np.ndarray, frames: np.ndarray, session: int = 0) -> Absent:
        absent, places = np.empty(len(page_ids), np.uint32), np.empty(len(page_ids), np.int64)
        absent_offsets = np.empty(len(offsets), np.int64)
        n_absent = fetch_pages(
            self._memory, self._slot_of, self._links, page_ids, offsets, frames, absent, places, absent_offsets
        )
        return Absent(absent[:n_absent], absent_offsets, places[:n_absent])

    def keep(self, page_ids: np.ndarray, places: np.ndarray, frames: np.ndarray) -> None:
        keep_pages(self._memory, self._slot_of, self._page_of, self._links, page_ids, places, frames)

    def unpack(self, page_ids: np.ndarray, absent: Absent, frames: np.ndarray) -> None:
        """Pages come whole."""


def with_lru(index: Collection, n_bytes: int) -> Collection:
    """Give an open collection of one segment, whose pages go through an LRU of so many bytes from here on."""
    engine = index._engine
    assert isinstance(engine, Engine), "of several segments each has an engine"
    lru = PlainLru(n_bytes, engine.segment.spec.page_bytes, engine.segment.n_pages)
    engine.cache = lru  # type: ignore[assignment]
    return index
