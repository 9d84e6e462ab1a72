"""Pages that were read and proven, kept in RAM within a bound; threads share it, and none waits for another.

Which pages stay is decided by how often each was asked for lately, held or not: the pages of an index are known and
few, so a byte counts each, and two say when it was asked for last. A page that is read goes through a window, oldest
out; then it stays in the main part if it promises more than the least promising of eight pages there, which goes
instead (TinyLFU [1] with exact counts, and a sample in place of an order). The window has a tenth of the cache at
least; it grows where pages are missed that were asked for a moment ago, and shrinks where others are found. Whoever
knows how may pack what came to stay, so that more of it does.

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

from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.storage import cache_kernels, keep_kernels
from annserve.storage.pagefile import aligned_frames

#: Slots of the window, as a share of all: at first and at least, and at most. Of dialogues, 0.05 to 0.2 find as much,
#: and none at all loses a tenth. Questions that hop miss 47 % of a small cache with 0.1, 32 % where it may grow.
_WINDOW_LEAST, _WINDOW_MOST = 0.1, 0.9
_PAGES_MIN = 2
#: Slots for the room of a whole page: packed, no more of them fit.
_SLOTS_OF_WHOLE = 2


class Absent(NamedTuple):
    """Pages that a cache doesn't hold, of those that some queries asked for.

    Attributes
    ----------
    page_ids : (p,) uint32
        In the order in which they were asked for.
    offsets : (nq + 1,) int64
        Query i lacks ``page_ids[offsets[i] : offsets[i + 1]]``.
    places : (p,) int64
        Frame of each.
    """

    page_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


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
        least = _bytes_of(_PAGES_MIN, page_bytes, n_pages)
        if n_bytes < least:
            raise InputError(
                f"a cache of {n_bytes} bytes is too small for {n_pages} pages of {page_bytes}; give at least "
                f"{least} bytes, or none",
                field="cache_bytes",
            )
        whole = (n_bytes - _bytes_of(0, 0, n_pages)) // _bytes_of_whole(page_bytes)
        whole = max(min(whole, n_pages), _PAGES_MIN)
        n_slots, n_units = whole * _SLOTS_OF_WHOLE, whole * cache_kernels.PAGE_UNITS
        self._page_bytes = page_bytes
        self._memory = aligned_frames(whole, page_bytes).reshape(n_units, -1)
        self._bytes = np.zeros(_bytes_of(whole, 0, n_pages), np.uint8)
        self._state = state = self._bytes[: cache_kernels.STATE_BYTES].view(np.int64)
        state[cache_kernels.N_SLOTS], state[cache_kernels.N_PAGES] = n_slots, n_pages
        state[cache_kernels.TURN] = cache_kernels.TURN_FIRST
        least, most = (max(int(share * whole), 1) for share in (_WINDOW_LEAST, _WINDOW_MOST))
        state[cache_kernels.WINDOW_WANTED] = state[cache_kernels.WINDOW_LEAST] = least
        state[cache_kernels.WINDOW_MOST] = most
        state[cache_kernels.N_FREE_UNITS] = n_units
        tables = cache_kernels.opened.py_func(self._memory, self._bytes)
        tables.slot_of[:] = cache_kernels.ABSENT
        for chain in (tables.first_of, tables.next_of):
            chain[:-1] = np.arange(1, len(chain))
            chain[-1] = -1
        #: Number of a segment's page 0 among the pages of the index.
        self._first = 0

    @classmethod
    def of_pages(cls, whole: int, page_bytes: int, n_pages: int) -> PageCache:
        """Make one that holds so many whole pages, two at least."""
        return cls(_bytes_of(max(whole, _PAGES_MIN), page_bytes, n_pages), page_bytes, n_pages)

    def part(self, first: int) -> PageCache:
        """Give the same cache as a segment sees it whose page 0 is page `first` of the index."""
        part = copy(self)
        part._first = first
        return part

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM once it is full, tables included."""
        return self._memory.nbytes + self._bytes.nbytes

    @property
    def n_held(self) -> int:
        """Pages that it holds now."""
        return int(self._state[cache_kernels.N_USED])

    @property
    def evictions(self) -> int:
        """Pages that made room so far."""
        return int(self._state[cache_kernels.EVICTIONS])

    @property
    def views(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int]:
        """The cache as kernels take it: what ``cache_kernels.opened`` opens, and what to add to a page's number."""
        return self._memory, self._bytes, self._first

    def fetch(
        self, page_ids: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> Absent:
        """Copy what is held of `page_ids`, and count all of them as asked for.

        Parameters
        ----------
        page_ids : (p,) uint32
        offsets : (nq + 1,) int64
            Query i asks for ``page_ids[offsets[i] : offsets[i + 1]]``.
        frames : (≥ p, page_bytes) uint8
            Frame i is filled where page i is held; others may have changed too.

        Returns
        -------
        Absent
            The others.
        """
        absent = np.empty(len(page_ids), np.uint32)
        places = np.empty(len(page_ids), np.int64)
        absent_offsets = np.empty(len(offsets), np.int64)
        n_absent = cache_kernels.fetch_pages(*self.views, page_ids, offsets, frames, absent, places, absent_offsets)
        return Absent(absent[:n_absent], absent_offsets, places[:n_absent])

    def keep(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint32]:
        """Take in pages that were proven, unless another thread is at it; page i lies in frame ``places[i]``.

        Returns
        -------
        (m,) uint32
            Pages of the index that came to stay: `copied`, packed and `shrunk`, they leave room for others.
        """
        settled = np.empty(2 * len(page_ids), np.uint32)
        n_settled = keep_kernels.keep_pages(*self.views, page_ids, places, frames, settled)
        return settled[:n_settled]

    def copied(self, page_ids: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Give those of some pages of the index that are held, and a frame for each; nothing is counted."""
        page_ids = page_ids.copy()
        frames = np.empty((len(page_ids), self._page_bytes), np.uint8)
        n_held = cache_kernels.copy_pages(self._memory, self._bytes, page_ids, frames)
        return page_ids[:n_held], frames[:n_held]

    def shrink(
        self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]
    ) -> None:
        """Put packed pages of the index in place of whole ones, unless another thread is at it.

        Parameters
        ----------
        page_ids : (p,) uint32
        frames : (p, page_bytes) uint8
        sizes : (p,) int64
            Bytes that count of each frame.
        """
        keep_kernels.shrink_pages(self._memory, self._bytes, page_ids, frames, sizes)


def _bytes_of(whole: int, page_bytes: int, n_pages: int) -> int:
    """Give the bytes of a cache of so many whole pages of an index of so many."""
    return cache_kernels.STATE_BYTES + whole * _bytes_of_whole(page_bytes) + cache_kernels.PAGE_BYTES * n_pages


def _bytes_of_whole(page_bytes: int) -> int:
    """Give the bytes of a whole page with its tables."""
    units = cache_kernels.PAGE_UNITS * cache_kernels.UNIT_BYTES
    return page_bytes + units + _SLOTS_OF_WHOLE * cache_kernels.SLOT_BYTES
