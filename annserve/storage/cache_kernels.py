"""The page cache's tables, and its loops that look pages up and copy them out; `keep_kernels` takes pages in.

Memory is dealt in units, a sixteenth of a page each. A page that is held has a slot, and its bytes lie in a chain of
units: all sixteen, or fewer where somebody packs it.

Threads share the tables and none ever waits for another. Who takes pages in must hold the only key (`KEY`), and goes
without where somebody else has it: a page that isn't kept is read again. Who looks pages up holds nothing: a slot's
version is odd while it is written, and has changed where it was written meanwhile, so that a torn copy is found and
counts as absent. Counts that two threads raise at once may lose one: they only guess at the future.

Tables are handed over as one array of bytes, and taken apart by ``opened`` within a kernel: handing over ten of them
takes two microseconds a call.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel, view_kernel
from annserve.kernels.memory import copy_bytes, fence, load_acquire

#: A page that isn't held, and what a free slot holds.
ABSENT = -1
NO_PAGE = np.uint32(0xFFFFFFFF)
_COUNT_MAX = 255
#: Counts are halved when pages have been asked for so often on average, so that old fame fades.
_FADE_AFTER = 16
#: Pages asked for are dealt into turns of as many as a cache holds whole. Lately is in this turn or the last.
TURN_BITS = 15

# Words of `state`.
N_USED = 0  # slots that hold a page
N_WINDOW, WINDOW_HEAD = 1, 2  # slots in the window; where its oldest stands
N_MAIN, MAIN_HAND = 3, 4  # slots in the main part; where the next comparison begins
N_ASKED = 5  # pages asked for since counts were halved
TURN, TURN_ASKED = 6, 7  # number of the turn; pages asked for in it
EVICTIONS = 8  # pages that made room
WINDOW_WANTED, WINDOW_LEAST, WINDOW_MOST = 9, 10, 11  # slots that the window should have, and its bounds
N_SLOTS, N_PAGES = 12, 13  # slots in all; pages of the index
KEY = 14  # of those who write: 1 while it is held
FREE_SLOT, FREE_UNIT, N_FREE_UNITS = 15, 16, 17  # first of the chains of free slots and units; units in the latter
N_SETTLED = 18  # pages that left the window for the main part in this call
STATE_BYTES = 8 * 19
#: Bytes of tables for a slot, for a unit, and for a page of the index.
SLOT_BYTES, UNIT_BYTES, PAGE_BYTES = 22, 4, 7
#: Units of a whole page.
PAGE_UNITS = 16

#: Slots that the window gains by a miss that it would have held, and loses by a hit that only counts explain.
_WINDOW_STEP = 2
#: The turn that a cache begins with: a page that was never asked for was asked for in turn 0, which is long ago.
TURN_FIRST = 2


class Tables(NamedTuple):
    """What a cache knows.

    Attributes
    ----------
    memory : (u, page_bytes / PAGE_UNITS) uint8
        Units.
    page_of : (s,) uint32
        Page in a slot; `NO_PAGE` in one that was freed.
    versions : (s,) uint32
        Of each slot, odd while it is written.
    slot_of : (n_pages,) int32
        Slot of a page, or `ABSENT`.
    counts : (n_pages,) uint8
        How often each page was asked for lately, held or not.
    turns : (n_pages,) uint16
        In which turn it was asked for last.
    in_window : (s,) uint8
    window, main : (s,) int32
        Slots of the two parts, the first a ring.
    first_of : (s,) int32
        First unit of a slot's chain; of a free slot, the next free one. -1 ends any chain.
    units_of : (s,) uint8
        Units of a slot.
    next_of : (u,) int32
        The unit that follows.
    state : (STATE_BYTES / 8,) int64
    """

    memory: npt.NDArray[np.uint8]
    page_of: npt.NDArray[np.uint32]
    versions: npt.NDArray[np.uint32]
    slot_of: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    turns: npt.NDArray[np.uint16]
    in_window: npt.NDArray[np.uint8]
    window: npt.NDArray[np.int32]
    main: npt.NDArray[np.int32]
    first_of: npt.NDArray[np.int32]
    units_of: npt.NDArray[np.uint8]
    next_of: npt.NDArray[np.int32]
    state: npt.NDArray[np.int64]


@view_kernel
def opened(memory, tables):  # type: ignore[no-untyped-def]
    """Give the tables that lie end to end in bytes: the state, then four bytes an entry, then two, then one.

    Parameters
    ----------
    memory : (u, page_bytes / PAGE_UNITS) uint8
    tables : (STATE_BYTES + SLOT_BYTES · s + UNIT_BYTES · u + PAGE_BYTES · n_pages,) uint8
    """
    state = tables[:STATE_BYTES].view(np.int64)
    s, u, n_pages = state[N_SLOTS], len(memory), state[N_PAGES]
    versions = STATE_BYTES + 4 * s
    slot_of = versions + 4 * s
    window = slot_of + 4 * n_pages
    main = window + 4 * s
    first_of = main + 4 * s
    next_of = first_of + 4 * s
    turns = next_of + 4 * u
    counts = turns + 2 * n_pages
    in_window = counts + n_pages
    units_of = in_window + s
    return Tables(
        memory,
        tables[STATE_BYTES:versions].view(np.uint32),
        tables[versions:slot_of].view(np.uint32),
        tables[slot_of:window].view(np.int32),
        tables[counts:in_window],
        tables[turns:counts].view(np.uint16),
        tables[in_window:units_of],
        tables[window:main].view(np.int32),
        tables[main:first_of].view(np.int32),
        tables[first_of:next_of].view(np.int32),
        tables[units_of : units_of + s],
        tables[next_of:turns].view(np.int32),
        state,
    )


@inline_kernel
def version_at(tables, slot):  # type: ignore[no-untyped-def]
    """Give the address of a slot's version."""
    return np.int64(tables.versions.ctypes.data) + 4 * np.int64(slot)


@inline_kernel
def ask_for(tables, page):  # type: ignore[no-untyped-def]
    """Count a page as asked for; say whether it is held, as far as one can tell without copying it."""
    state = tables.state
    turn = np.uint16(state[TURN])
    if tables.counts[page] < _COUNT_MAX:
        tables.counts[page] += np.uint8(1)
    now = tables.turns[page] == turn
    tables.turns[page] = turn
    slot = tables.slot_of[page]
    if slot == ABSENT:
        if now:
            state[WINDOW_WANTED] = min(state[WINDOW_WANTED] + _WINDOW_STEP, state[WINDOW_MOST])
        return False
    if not now and tables.in_window[slot] == 0:
        state[WINDOW_WANTED] = max(state[WINDOW_WANTED] - _WINDOW_STEP, state[WINDOW_LEAST])
    return True


@inline_kernel
def asked_for(tables, n_pages):  # type: ignore[no-untyped-def]
    """Let time pass: so many pages were asked for."""
    state, counts = tables.state, tables.counts
    state[TURN_ASKED] += n_pages
    if state[TURN_ASKED] >= len(tables.memory) // PAGE_UNITS:
        state[TURN_ASKED] = 0
        state[TURN] = (state[TURN] + 1) & ((1 << TURN_BITS) - 1)
    state[N_ASKED] += n_pages
    if state[N_ASKED] >= _FADE_AFTER * len(counts):
        state[N_ASKED] = 0
        for page in range(len(counts)):
            counts[page] >>= np.uint8(1)


@inline_kernel
def copy_units(tables, slot, frame, inwards):  # type: ignore[no-untyped-def]
    """Copy a slot's units to a frame, or a frame to them; outwards, the chain may be changing meanwhile."""
    n_bytes = tables.memory.shape[1]
    unit = np.int64(tables.first_of[slot])
    at, there = np.int64(tables.memory.ctypes.data), np.int64(frame.ctypes.data)
    for _ in range(min(tables.units_of[slot], PAGE_UNITS)):
        if unit < 0:
            break
        if inwards:
            copy_bytes(at + unit * n_bytes, there, n_bytes)
        else:
            copy_bytes(there, at + unit * n_bytes, n_bytes)
        there += n_bytes
        unit = np.int64(tables.next_of[unit])


@inline_kernel
def copy_out(tables, page, frame):  # type: ignore[no-untyped-def]
    """Copy a page to a frame, and say whether it was held, and not torn; otherwise the frame may have changed too."""
    slot = tables.slot_of[page]
    if slot == ABSENT:
        return False
    before = load_acquire(version_at(tables, slot))
    if before & np.uint32(1) or tables.page_of[slot] != np.uint32(page):
        return False
    copy_units(tables, slot, frame, False)
    fence()
    return load_acquire(version_at(tables, slot)) == before


@kernel
def fetch_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    first: int,
    page_ids: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    frames: npt.NDArray[np.uint8],
    absent: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    absent_offsets: npt.NDArray[np.int64],
) -> int:
    """Count pages as asked for, copy those that are held, and give how many aren't.

    Parameters
    ----------
    memory, bytes_ : see ``opened``  # IN, OUT
    first : int
        Added to page ids.
    page_ids : (p,) uint32  # IN
    offsets : (nq + 1,) int64  # IN
        Pages of query i: ``offsets[i] … offsets[i + 1] - 1``.
    frames : (≥ p, page_bytes) uint8  # OUT
        Frame i where page i is held; others may have changed too.
    absent : (p,) uint32  # OUT
        Pages that aren't held, in their order,
    places : (p,) int64  # OUT
        the frame of each,
    absent_offsets : (nq + 1,) int64  # OUT
        and how they belong to queries.
    """
    tables = opened(memory, bytes_)
    n_absent = 0
    absent_offsets[0] = 0
    for query in range(len(offsets) - 1):
        for i in range(offsets[query], offsets[query + 1]):
            page = np.int64(page_ids[i]) + first
            if not (ask_for(tables, page) and copy_out(tables, page, frames[i])):
                absent[n_absent] = page_ids[i]
                places[n_absent] = i
                n_absent += 1
        absent_offsets[query + 1] = n_absent
    asked_for(tables, len(page_ids))
    return n_absent


@kernel
def copy_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    page_ids: npt.NDArray[np.uint32],
    frames: npt.NDArray[np.uint8],
) -> int:
    """Copy those pages of the index that are held to frames, and count nothing; give how many.

    Parameters
    ----------
    memory, bytes_ : see ``opened``  # IN
    page_ids : (p,) uint32  # IN, OUT
        Those that are held move up.
    frames : (p, page_bytes) uint8  # OUT
    """
    tables = opened(memory, bytes_)
    n_held = 0
    for i in range(len(page_ids)):
        if copy_out(tables, np.int64(page_ids[i]), frames[n_held]):
            page_ids[n_held] = page_ids[i]
            n_held += 1
    return n_held
