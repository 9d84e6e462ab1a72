"""Pages that were read and proven, kept in RAM within a bound; threads share it, and none waits for another.

Which pages stay is decided by how often each was asked for lately, held or not: the pages of an index are known and
few, so a byte counts each, and two say when it was asked for last. A page that is read goes through a window, oldest
out; then it stays in the main part if it promises more than the least promising of eight pages there, which goes
instead (TinyLFU [1] with exact counts, and a sample in place of an order). The window has a tenth of the cache at
least; it grows where pages are missed that were asked for a moment ago, and shrinks where others are found.

Invariants
----------
- A page is kept only once it was proven, and is proven again whenever it is used.
- Memory never exceeds the bound that was given, tables included.
- Looking pages up changes nothing that a search relies on, and takes no lock.

References
----------
[1] Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM TOS 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.storage import cache_kernels
from annserve.storage.pagefile import aligned_frames

#: Slots of the window, as a share of all: at first and at least, and at most. Of dialogues, 0.05 to 0.2 find as much,
#: and none at all loses a tenth. Questions that hop miss 47 % of a small cache with 0.1, 32 % where it may grow.
_WINDOW_LEAST, _WINDOW_MOST = 0.1, 0.9
_SLOTS_MIN = 2
#: Tables: a slot, a count and a turn for each page of the index; a page, a version, its part and two places for each
#: slot.
_BYTES_PER_PAGE, _BYTES_PER_SLOT = 7, 17
_BYTES_AT_LEAST = 4 + 8 * cache_kernels.STATE_WORDS


class PageCache:
    """Keeps the pages that are asked for most, up to a number of bytes.

    Parameters
    ----------
    n_bytes : int
        Bound of all memory.
    page_bytes : int
    n_pages : int
        Pages of the index.

    Raises
    ------
    InputError
        If not even a few pages fit.
    """

    def __init__(self, n_bytes: int, page_bytes: int, n_pages: int) -> None:
        tables = _BYTES_PER_PAGE * n_pages + _BYTES_AT_LEAST
        n_slots = (n_bytes - tables) // (page_bytes + _BYTES_PER_SLOT)
        if n_slots < _SLOTS_MIN:
            least = tables + _SLOTS_MIN * (page_bytes + _BYTES_PER_SLOT)
            raise InputError(
                f"a cache of {n_bytes} bytes is too small for {n_pages} pages of {page_bytes}; give at least "
                f"{least} bytes, or none",
                field="cache_bytes",
            )
        n_slots = max(min(n_slots, n_pages), _SLOTS_MIN)
        state = np.zeros(cache_kernels.STATE_WORDS, np.int64)
        state[cache_kernels.TURN] = cache_kernels.TURN_FIRST
        least = max(int(_WINDOW_LEAST * n_slots), 1)
        state[cache_kernels.WINDOW_WANTED] = state[cache_kernels.WINDOW_LEAST] = least
        state[cache_kernels.WINDOW_MOST] = max(int(_WINDOW_MOST * n_slots), 1)
        self._tables = cache_kernels.Tables(
            memory=aligned_frames(n_slots, page_bytes),
            page_of=np.zeros(n_slots, np.uint32),
            versions=np.zeros(n_slots + 1, np.uint32),
            slot_of=np.full(n_pages, cache_kernels.ABSENT, np.int32),
            counts=np.zeros(n_pages, np.uint8),
            turns=np.zeros(n_pages, np.uint16),
            in_window=np.zeros(n_slots, np.uint8),
            window=np.zeros(n_slots, np.int32),
            main=np.zeros(n_slots, np.int32),
            state=state,
        )

    @classmethod
    def of_slots(cls, n_slots: int, page_bytes: int, n_pages: int) -> PageCache:
        """Make one that holds so many pages, two at least."""
        tables = _BYTES_PER_PAGE * n_pages + _BYTES_AT_LEAST
        return cls(tables + max(n_slots, _SLOTS_MIN) * (page_bytes + _BYTES_PER_SLOT), page_bytes, n_pages)

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM once it is full, tables included."""
        return sum(table.nbytes for table in self._tables)

    @property
    def n_held(self) -> int:
        """Pages that it holds now."""
        return int(self._tables.state[cache_kernels.N_USED])

    @property
    def evictions(self) -> int:
        """Pages that made room so far."""
        return int(self._tables.state[cache_kernels.EVICTIONS])

    def part(self, first: int) -> CachePart:
        """Give the cache to a segment whose page 0 is page `first` of the index."""
        return CachePart(self, first)

    def fetch(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Copy what is held of `page_ids`, and count all of them as asked for.

        Parameters
        ----------
        page_ids : (p,) uint32
            Pages of the index.
        frames : (≥ p, page_bytes) uint8
            Frame i is filled where page i is held; others may have changed too.

        Returns
        -------
        (p,) bool
            Where it is.
        """
        held = np.empty(len(page_ids), np.bool_)
        page_ids = np.require(page_ids, requirements=("C", "W"))
        cache_kernels.fetch_pages(self._tables, page_ids, frames, held)
        return held

    def keep(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> None:
        """Take in pages that were proven, unless another thread is at it; page i lies in frame ``places[i]``."""
        page_ids = np.require(page_ids, requirements=("C", "W"))
        cache_kernels.keep_pages(self._tables, page_ids, places, frames)


@dataclass(frozen=True)
class CachePart:
    """A page cache as one segment of several sees it: its pages are numbered from 0, the bound is that of all."""

    whole: PageCache
    first: int

    def fetch(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """As ``PageCache.fetch``."""
        return self.whole.fetch(page_ids + np.uint32(self.first), frames)

    def keep(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> None:
        """As ``PageCache.keep``."""
        self.whole.keep(page_ids + np.uint32(self.first), places, frames)
