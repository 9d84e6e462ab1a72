"""The page cache's other loops: take pages in, decide which make room, and deal units; `cache_kernels` has the tables.

One thread writes at a time, and whoever finds another at it goes without.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import fence, load_acquire, store_release, try_lock
from annserve.storage.cache_kernels import (
    ABSENT,
    EVICTIONS,
    FREE_SLOT,
    FREE_UNIT,
    KEY,
    MAIN_HAND,
    N_FREE_UNITS,
    N_MAIN,
    N_SETTLED,
    N_USED,
    N_WINDOW,
    NO_PAGE,
    PAGE_UNITS,
    TURN,
    TURN_BITS,
    WINDOW_HEAD,
    WINDOW_WANTED,
    copy_units,
    opened,
    version_at,
)

#: What a page must promise beside what another does to take its place: packing it costs time. 3 rather than nothing
#: saves three in five, and no stream misses a 100th more.
MARGIN = 3
#: What a page that was asked for lately is worth beside its count: 3 rather than nothing takes a 20th of the misses
#: off a stream of 32 dialogues at once; 10 costs others as much.
RECENT = 3
#: Pages of the main part that are compared when one must go.
_CANDIDATES = 8


@inline_kernel
def _promise(tables, slot):  # type: ignore[no-untyped-def]
    """Say how much the page in a slot is to be expected back."""
    page = tables.page_of[slot]
    age = (tables.state[TURN] - np.int64(tables.turns[page])) & ((1 << TURN_BITS) - 1)
    return np.int64(tables.counts[page]) + (RECENT if age <= 1 else 0)


@inline_kernel
def _least_promising(tables):  # type: ignore[no-untyped-def]
    """Give the place of the least promising of a few pages of the main part, and its promise; -1 if it is empty."""
    main, state = tables.main, tables.state
    n_main = state[N_MAIN]
    chosen, least = np.int64(-1), np.int64(0)
    for step in range(min(_CANDIDATES, n_main)):
        place = (state[MAIN_HAND] + step) % n_main
        promise = _promise(tables, main[place])
        if chosen < 0 or promise < least:
            chosen, least = place, promise
    if n_main > 0:
        state[MAIN_HAND] = (state[MAIN_HAND] + _CANDIDATES) % n_main
    return chosen, least


@inline_kernel
def _leave_window(tables):  # type: ignore[no-untyped-def]
    """Take the window's oldest slot out of it."""
    state, window = tables.state, tables.window
    slot = window[state[WINDOW_HEAD]]
    state[WINDOW_HEAD] = (state[WINDOW_HEAD] + 1) % len(window)
    state[N_WINDOW] -= 1
    tables.in_window[slot] = np.uint8(0)
    return slot


@inline_kernel
def _to_main(tables, slot, settled):  # type: ignore[no-untyped-def]
    """Let a page stay that has left the window."""
    state = tables.state
    tables.main[state[N_MAIN]] = slot
    state[N_MAIN] += 1
    if state[N_SETTLED] < len(settled):
        settled[state[N_SETTLED]] = tables.page_of[slot]
        state[N_SETTLED] += 1


@inline_kernel
def _give_units(tables, slot, n_kept):  # type: ignore[no-untyped-def]
    """Free what a slot has beyond so many units."""
    state, next_of = tables.state, tables.next_of
    unit = before = np.int64(-1)
    unit = np.int64(tables.first_of[slot])
    for _ in range(n_kept):
        before, unit = unit, np.int64(next_of[unit])
    first = unit
    while unit >= 0:
        last, unit = unit, np.int64(next_of[unit])
        if unit < 0:
            next_of[last] = state[FREE_UNIT]
    state[FREE_UNIT] = first
    state[N_FREE_UNITS] += tables.units_of[slot] - n_kept
    tables.units_of[slot] = n_kept
    if before >= 0:
        next_of[before] = -1


@inline_kernel
def _take_units(tables, slot):  # type: ignore[no-untyped-def]
    """Give a slot the units of a whole page."""
    state, next_of = tables.state, tables.next_of
    first = last = state[FREE_UNIT]
    for _ in range(PAGE_UNITS - 1):
        last = np.int64(next_of[last])
    state[FREE_UNIT] = next_of[last]
    state[N_FREE_UNITS] -= PAGE_UNITS
    next_of[last] = -1
    tables.first_of[slot] = first
    tables.units_of[slot] = PAGE_UNITS


@inline_kernel
def _write_begins(tables, slot):  # type: ignore[no-untyped-def]
    version = load_acquire(version_at(tables, slot))
    store_release(version_at(tables, slot), np.uint32(version + np.uint32(1)))
    fence()


@inline_kernel
def _write_ends(tables, slot):  # type: ignore[no-untyped-def]
    version = load_acquire(version_at(tables, slot))
    store_release(version_at(tables, slot), np.uint32(version + np.uint32(1)))


@inline_kernel
def _evict(tables, settled):  # type: ignore[no-untyped-def]
    """Forget a page: of the main part while the window is short, else what leaves the window, or less promising."""
    main, state = tables.main, tables.state
    if state[N_WINDOW] < state[WINDOW_WANTED] and state[N_MAIN] > 1:
        place, _ = _least_promising(tables)
        slot = main[place]
        state[N_MAIN] -= 1
        main[place] = main[state[N_MAIN]]
    else:
        while state[N_WINDOW] > state[WINDOW_WANTED] + 1:
            _to_main(tables, _leave_window(tables), settled)
        slot = _leave_window(tables)
        place, least = _least_promising(tables)
        if place >= 0 and least + MARGIN < _promise(tables, slot):
            stays, slot = slot, main[place]
            state[N_MAIN] -= 1
            main[place] = main[state[N_MAIN]]
            _to_main(tables, stays, settled)
    tables.slot_of[tables.page_of[slot]] = ABSENT
    _write_begins(tables, slot)
    _give_units(tables, slot, 0)
    # Who found the slot before shall not take what it is used for next for the page that has gone.
    tables.page_of[slot] = NO_PAGE
    _write_ends(tables, slot)
    tables.first_of[slot] = state[FREE_SLOT]
    state[FREE_SLOT] = slot
    state[N_USED] -= 1
    state[EVICTIONS] += 1


@inline_kernel
def _make_room(tables, settled):  # type: ignore[no-untyped-def]
    """Give a slot with the units of a whole page, as the window's newest."""
    state = tables.state
    if state[FREE_SLOT] >= 0 and state[N_FREE_UNITS] >= PAGE_UNITS and state[N_WINDOW] >= state[WINDOW_WANTED]:
        _to_main(tables, _leave_window(tables), settled)
    while state[FREE_SLOT] < 0 or state[N_FREE_UNITS] < PAGE_UNITS:
        _evict(tables, settled)
    slot = np.int32(state[FREE_SLOT])
    state[FREE_SLOT] = tables.first_of[slot]
    _take_units(tables, slot)
    tables.window[(state[WINDOW_HEAD] + state[N_WINDOW]) % len(tables.window)] = slot
    state[N_WINDOW] += 1
    state[N_USED] += 1
    tables.in_window[slot] = np.uint8(1)
    return slot


@kernel
def keep_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    first: int,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    frames: npt.NDArray[np.uint8],
    settled: npt.NDArray[np.uint32],
) -> int:
    """Take pages in, each into the window first, unless somebody else is about to; give how many came to stay.

    Parameters
    ----------
    memory, bytes_ : see ``opened``  # IN, OUT
    first : int
        Added to page ids.
    page_ids : (p,) uint32  # IN
        Repeats, and pages that another thread took in meanwhile, are passed over.
    places : (p,) int64  # IN
        Frame of each.
    frames : (f, page_bytes) uint8  # IN
    settled : (m,) uint32  # OUT
        Pages of the index that left the window for the main part, which packing pays for; no more than there is room.
    """
    tables = opened(memory, bytes_)
    key = np.int64(tables.state.ctypes.data) + 8 * KEY
    if not try_lock(key):
        return 0
    tables.state[N_SETTLED] = 0
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i]) + first
        if tables.slot_of[page] != ABSENT:
            continue
        slot = _make_room(tables, settled)
        _write_begins(tables, slot)
        copy_units(tables, slot, frames[places[i]], True)
        tables.page_of[slot] = np.uint32(page)
        _write_ends(tables, slot)
        tables.slot_of[page] = slot
    n_settled = tables.state[N_SETTLED]
    store_release(key, np.uint32(0))
    return n_settled


@kernel
def shrink_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    page_ids: npt.NDArray[np.uint32],
    frames: npt.NDArray[np.uint8],
    sizes: npt.NDArray[np.int64],
) -> None:
    """Put packed pages of the index in place of whole ones, unless somebody else writes.

    Parameters
    ----------
    memory, bytes_ : see ``opened``  # IN, OUT
    page_ids : (p,) uint32  # IN
        Pages that went, or came anew, meanwhile are passed over.
    frames : (p, page_bytes) uint8  # IN
    sizes : (p,) int64  # IN
        Bytes that count of each frame.
    """
    tables = opened(memory, bytes_)
    key = np.int64(tables.state.ctypes.data) + 8 * KEY
    if not try_lock(key):
        return
    unit_bytes = memory.shape[1]
    for i in range(len(page_ids)):
        slot, n_units = tables.slot_of[page_ids[i]], (sizes[i] + unit_bytes - 1) // unit_bytes
        if slot == ABSENT or tables.in_window[slot] != 0 or n_units >= tables.units_of[slot]:
            continue
        _write_begins(tables, slot)
        _give_units(tables, slot, n_units)
        copy_units(tables, slot, frames[i], True)
        _write_ends(tables, slot)
    store_release(key, np.uint32(0))
