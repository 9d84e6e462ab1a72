"""The page cache's other loops: take pages in, decide which make room, and deal units; `cache_kernels` has the tables.

One thread writes at a time, and whoever finds another at it goes without.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import fence, load_acquire, store_release
from annserve.storage.cache_kernels import (
    ABSENT,
    EVICTIONS,
    FREE_SLOT,
    FREE_UNIT,
    HAND,
    LEADER,
    N_FREE_UNITS,
    N_SETTLED,
    N_USED,
    NO_PAGE,
    PAGE_UNITS,
    copy_units,
    give_key_back,
    opened,
    take_key,
    version_at,
)
from annserve.storage.promise_kernels import HALF_TICKS, age_of, promise

#: Pages that are compared when one must go.
_CANDIDATES = 32
#: Ticks after which a page that wasn't asked for again, and was kept before others, has come to stay.
_SETTLED_AFTER = HALF_TICKS // 4


@inline_kernel
def _promise(tables, slot):  # type: ignore[no-untyped-def]
    return promise(tables, np.int64(tables.page_of[slot]), tables.state[LEADER])


@inline_kernel
def _least_promising(tables, settled):  # type: ignore[no-untyped-def]
    """Give the place of the least promising of a few pages, and its promise; of the others, tell which came to stay."""
    state, slots = tables.state, tables.slots
    n_used, hand = state[N_USED], state[HAND]
    chosen, least = hand % n_used, np.int64(0)
    for step in range(min(_CANDIDATES, n_used)):
        place = (hand + step) % n_used
        its = _promise(tables, slots[place])
        if step == 0 or its < least:
            chosen, least = place, its
    for step in range(min(_CANDIDATES, n_used)):
        place = (hand + step) % n_used
        slot = slots[place]
        if (
            place != chosen
            and tables.settled[slot] == 0
            and state[N_SETTLED] < len(settled)
            and age_of(tables, tables.page_of[slot]) >= _SETTLED_AFTER
        ):
            tables.settled[slot] = np.uint8(1)
            settled[state[N_SETTLED]] = tables.page_of[slot]
            state[N_SETTLED] += 1
    state[HAND] = (hand + _CANDIDATES) % n_used
    return chosen, least


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
def _evict(tables, place):  # type: ignore[no-untyped-def]
    """Forget the page in the slot at a place of `slots`."""
    slots, state = tables.slots, tables.state
    slot = slots[place]
    state[N_USED] -= 1
    slots[place] = slots[state[N_USED]]
    tables.slot_of[tables.page_of[slot]] = ABSENT
    _write_begins(tables, slot)
    _give_units(tables, slot, 0)
    # Who found the slot before shall not take what it is used for next for the page that has gone.
    tables.page_of[slot] = NO_PAGE
    _write_ends(tables, slot)
    tables.first_of[slot] = state[FREE_SLOT]
    state[FREE_SLOT] = slot
    state[EVICTIONS] += 1


@inline_kernel
def _make_room(tables, page, settled):  # type: ignore[no-untyped-def]
    """Give a slot with the units of a whole page; -1 where what would have to go promises no less than the page."""
    state = tables.state
    worth = False
    while state[FREE_SLOT] < 0 or state[N_FREE_UNITS] < PAGE_UNITS:
        place, least = _least_promising(tables, settled)
        worth = worth or least < promise(tables, page, state[LEADER])
        if not worth:
            return np.int32(-1)
        _evict(tables, place)
    slot = np.int32(state[FREE_SLOT])
    state[FREE_SLOT] = tables.first_of[slot]
    _take_units(tables, slot)
    tables.settled[slot] = np.uint8(0)
    tables.slots[state[N_USED]] = slot
    state[N_USED] += 1
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
    """Take in pages that promise more than others, unless somebody else is about to; give how many came to stay.

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
        Pages of the index that came to stay, which packing pays for; no more than there is room.
    """
    tables = opened(memory, bytes_)
    if not take_key(tables):
        return 0
    tables.state[N_SETTLED] = 0
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i]) + first
        if tables.slot_of[page] != ABSENT:
            continue
        slot = _make_room(tables, page, settled)
        if slot < 0:
            continue
        _write_begins(tables, slot)
        copy_units(tables, slot, frames[places[i]], True)
        tables.page_of[slot] = np.uint32(page)
        _write_ends(tables, slot)
        tables.slot_of[page] = slot
    n_settled = tables.state[N_SETTLED]
    give_key_back(tables)
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
    if not take_key(tables):
        return
    unit_bytes = memory.shape[1]
    for i in range(len(page_ids)):
        slot, n_units = tables.slot_of[page_ids[i]], (sizes[i] + unit_bytes - 1) // unit_bytes
        if slot == ABSENT or n_units >= tables.units_of[slot]:
            continue
        _write_begins(tables, slot)
        _give_units(tables, slot, n_units)
        copy_units(tables, slot, frames[i], True)
        _write_ends(tables, slot)
    give_key_back(tables)
