"""Pages that were read and proven, kept in RAM within a bound; threads share it, and none waits for another.

Which pages stay is decided by how often each was asked for, at all and lately, held or not: the pages of an index are
known and few, so bytes count each (TinyLFU [1] with exact counts). Where queries tell their session, what followed in
other sessions counts too (`follow_kernels`). Of several ways to weigh these, one of them LRU, the best of late is
followed (`promise_kernels`). A page that is read takes the place of the least promising of 32, if it promises more.
Whoever knows how may pack what came to stay, so that more of it does.

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

import os
from bisect import bisect_right
from copy import copy
from math import isqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.sizes import bytes_text
from annserve.storage import ask_kernels, cache_kernels, keep_kernels
from annserve.storage.pagefile import aligned_frames
from annserve.storage.promise_kernels import HALF_TICKS

#: Ticks in which as many pages are asked for as a cache holds whole, so that lately is half as many.
_TICKS = 2 * HALF_TICKS
#: A shadow holds no more pages; of a larger cache it simulates a sample.
_SHADOW_MAX = 256
#: Misses count half as much after about so many times the pages of a shadow, as a power of two.
_ERRORS_OVER = 3
#: What regions may take of a cache, and sessions, as a share; and how many there are at most, for they are bytes.
_REGIONS_SHARE, _SESSIONS_SHARE = 64, 256
_REGIONS_MAX, _SESSIONS_MIN, _SESSIONS_MAX = 256, 16, 4_096
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
        If not even a few pages fit, or this machine has less RAM.
    """

    def __init__(self, n_bytes: int, page_bytes: int, n_pages: int) -> None:
        _check_most(n_bytes)
        least = _Room.of(_PAGES_MIN, page_bytes, n_pages).n_bytes
        if n_bytes < least:
            raise InputError(
                f"a cache of {n_bytes} bytes is too small for {n_pages} pages of {page_bytes}; give at least "
                f"{least} bytes, or none",
                field="cache_bytes",
            )
        sizes = range(n_pages + 1)
        whole = bisect_right(sizes, n_bytes, key=lambda whole: _Room.of(whole, page_bytes, n_pages).n_bytes) - 1
        room = _Room.of(max(whole, _PAGES_MIN), page_bytes, n_pages)
        self._page_bytes = page_bytes
        self._memory = aligned_frames(room.whole, page_bytes).reshape(room.n_units, -1)
        self._bytes = np.zeros(room.table_bytes, np.uint8)
        self._state = state = self._bytes[: cache_kernels.STATE_BYTES].view(np.int64)
        state[cache_kernels.N_SLOTS], state[cache_kernels.N_PAGES] = room.n_slots, n_pages
        state[cache_kernels.TICK_ASKS] = max(room.whole // _TICKS, 1)
        state[cache_kernels.N_FREE_UNITS] = room.n_units
        state[cache_kernels.N_REGIONS] = room.n_regions
        state[cache_kernels.REGION_SCALE] = (room.n_regions << 32) // n_pages
        state[cache_kernels.N_SESSIONS] = room.n_sessions
        state[cache_kernels.N_SHADOWED], state[cache_kernels.SAMPLE_SHIFT] = room.n_shadowed, room.sample_shift
        state[cache_kernels.ERROR_SHIFT] = room.n_shadowed.bit_length() + _ERRORS_OVER - 1
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
        return cls(_Room.of(max(whole, _PAGES_MIN), page_bytes, n_pages).n_bytes, page_bytes, n_pages)

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
        self,
        page_ids: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        frames: npt.NDArray[np.uint8],
        session: int = 0,
    ) -> Absent:
        """Copy what is held of `page_ids`, and count all of them as asked for.

        Parameters
        ----------
        page_ids : (p,) uint32
        offsets : (nq + 1,) int64
            Query i asks for ``page_ids[offsets[i] : offsets[i + 1]]``.
        frames : (≥ p, page_bytes) uint8
            Frame i is filled where page i is held; others may have changed too.
        session : int
            Who asks, of 64 bits; 0 for nobody in particular.

        Returns
        -------
        Absent
            The others.
        """
        absent = np.empty(len(page_ids), np.uint32)
        places = np.empty(len(page_ids), np.int64)
        absent_offsets = np.empty(len(offsets), np.int64)
        n_absent = ask_kernels.fetch_pages(
            *self.views, page_ids, offsets, np.uint64(session), frames, absent, places, absent_offsets
        )
        return Absent(absent[:n_absent], absent_offsets, places[:n_absent])

    def keep(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint32]:
        """Take in pages that were proven and promise more than others, unless another thread is at it.

        Page i lies in frame ``places[i]``.

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


def _check_most(n_bytes: int) -> None:
    """Refuse what is a slip of the pen: memory is taken page by page, so that nobody else would say so in time."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > most:
        raise InputError(
            f"the cache is to be larger than this machine's RAM, {bytes_text(most)}; give less", field="cache_bytes"
        )


class _Room(NamedTuple):
    """Sizes of a cache's parts: of so many whole pages, of an index of so many."""

    whole: int
    page_bytes: int
    n_pages: int
    n_regions: int
    n_sessions: int
    sample_shift: int

    @classmethod
    def of(cls, whole: int, page_bytes: int, n_pages: int) -> _Room:
        memory = whole * page_bytes
        n_regions = max(min(isqrt(memory // _REGIONS_SHARE), n_pages, _REGIONS_MAX), 1)
        n_sessions = memory // (_SESSIONS_SHARE * cache_kernels.SESSION_BYTES)
        n_sessions = max(min(n_sessions, _SESSIONS_MAX), _SESSIONS_MIN)
        return cls(whole, page_bytes, n_pages, n_regions, n_sessions, (whole // _SHADOW_MAX).bit_length())

    @property
    def n_slots(self) -> int:
        return self.whole * _SLOTS_OF_WHOLE

    @property
    def n_units(self) -> int:
        return self.whole * cache_kernels.PAGE_UNITS

    @property
    def n_shadowed(self) -> int:
        return max(self.whole >> self.sample_shift, 1)

    @property
    def table_bytes(self) -> int:
        return (
            cache_kernels.STATE_BYTES
            + cache_kernels.SLOT_BYTES * self.n_slots
            + cache_kernels.UNIT_BYTES * self.n_units
            + cache_kernels.PAGE_BYTES * self.n_pages
            + (cache_kernels.REGION_BYTES + self.n_regions) * self.n_regions
            + cache_kernels.SESSION_BYTES * self.n_sessions
            + 4 * cache_kernels.N_POLICIES * self.n_shadowed
        )

    @property
    def n_bytes(self) -> int:
        return self.whole * self.page_bytes + self.table_bytes
