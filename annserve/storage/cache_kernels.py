"""The page cache's loops: look pages up and copy them out; take pages in, and decide which make room.

Threads share the tables and none ever waits for another. Who takes pages in must hold the only key (`LOCK`), and goes
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

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import copy_bytes, fence, load_acquire, store_release, try_lock

#: A page that isn't held.
ABSENT = -1
#: Pages of the main part that are compared when one must go.
_CANDIDATES = 8
_COUNT_MAX = 255
#: Counts are halved when pages have been asked for so often on average, so that old fame fades.
_FADE_AFTER = 16
#: What a page that was asked for lately is worth beside its count: 3 rather than nothing takes a 20th of the misses
#: off a stream of 32 dialogues at once; 10 costs others as much.
RECENT = 3
#: Pages asked for are dealt into turns of as many as a cache has slots. Lately is in this turn or the last.
_TURN_BITS = 15

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
STATE_BYTES = 8 * 15
#: Bytes of tables for a slot, and for a page of the index.
SLOT_BYTES, PAGE_BYTES = 17, 7

#: Slots that the window gains by a miss that it would have held, and loses by a hit that only counts explain.
_WINDOW_STEP = 2
#: The turn that a cache begins with: a page that was never asked for was asked for in turn 0, which is long ago.
TURN_FIRST = 2


class Tables(NamedTuple):
    """What a cache knows.

    Attributes
    ----------
    memory : (s, page_bytes) uint8
        A page in each slot.
    page_of : (s,) uint32
        Page in a slot.
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
    state: npt.NDArray[np.int64]


@inline_kernel
def opened(memory, tables):  # type: ignore[no-untyped-def]
    """Give the tables that lie end to end in bytes: the state, then four bytes an entry, then two, then one.

    Parameters
    ----------
    memory : (s, page_bytes) uint8
    tables : (STATE_BYTES + SLOT_BYTES · s + PAGE_BYTES · n_pages,) uint8
    """
    state = tables[:STATE_BYTES].view(np.int64)
    s, n_pages = state[N_SLOTS], state[N_PAGES]
    versions = STATE_BYTES + 4 * s
    slot_of = versions + 4 * s
    window = slot_of + 4 * n_pages
    main = window + 4 * s
    turns = main + 4 * s
    counts = turns + 2 * n_pages
    in_window = counts + n_pages
    return Tables(
        memory,
        tables[STATE_BYTES:versions].view(np.uint32),
        tables[versions:slot_of].view(np.uint32),
        tables[slot_of:window].view(np.int32),
        tables[counts:in_window],
        tables[turns:counts].view(np.uint16),
        tables[in_window : in_window + s],
        tables[window:main].view(np.int32),
        tables[main:turns].view(np.int32),
        state,
    )


@inline_kernel
def _version_at(tables, slot):  # type: ignore[no-untyped-def]
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
    if state[TURN_ASKED] >= len(tables.page_of):
        state[TURN_ASKED] = 0
        state[TURN] = (state[TURN] + 1) & ((1 << _TURN_BITS) - 1)
    state[N_ASKED] += n_pages
    if state[N_ASKED] >= _FADE_AFTER * len(counts):
        state[N_ASKED] = 0
        for page in range(len(counts)):
            counts[page] >>= np.uint8(1)


@inline_kernel
def _copy_page(target, source):  # type: ignore[no-untyped-def]
    copy_bytes(np.int64(target.ctypes.data), np.int64(source.ctypes.data), len(source))


@inline_kernel
def copy_out(tables, page, frame):  # type: ignore[no-untyped-def]
    """Copy a page to a frame, and say whether it was held, and whole; otherwise the frame may have changed too."""
    slot = tables.slot_of[page]
    if slot == ABSENT:
        return False
    before = load_acquire(_version_at(tables, slot))
    if before & np.uint32(1) or tables.page_of[slot] != np.uint32(page):
        return False
    _copy_page(frame, tables.memory[slot])
    fence()
    return load_acquire(_version_at(tables, slot)) == before


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


@inline_kernel
def _promise(tables, slot):  # type: ignore[no-untyped-def]
    """Say how much the page in a slot is to be expected back."""
    page = tables.page_of[slot]
    age = (tables.state[TURN] - np.int64(tables.turns[page])) & ((1 << _TURN_BITS) - 1)
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
def _to_main(tables):  # type: ignore[no-untyped-def]
    """Let the window's oldest page stay."""
    tables.main[tables.state[N_MAIN]] = _leave_window(tables)
    tables.state[N_MAIN] += 1


@inline_kernel
def _make_room(tables):  # type: ignore[no-untyped-def]
    """Give the slot for a page that comes in, as the window's newest; whatever was in it is forgotten."""
    window, main, state = tables.window, tables.main, tables.state
    slot = np.int32(0)
    if state[N_USED] < len(window):
        if state[N_WINDOW] >= state[WINDOW_WANTED]:
            _to_main(tables)
        slot = np.int32(state[N_USED])
        state[N_USED] += 1
    else:
        if state[N_WINDOW] < state[WINDOW_WANTED] and state[N_MAIN] > 1:
            place, _ = _least_promising(tables)
            slot = main[place]
            state[N_MAIN] -= 1
            main[place] = main[state[N_MAIN]]
        else:
            while state[N_WINDOW] > state[WINDOW_WANTED] + 1:
                _to_main(tables)
            # The least promising of a few goes, if what leaves the window promises more; else that goes.
            slot = _leave_window(tables)
            place, least = _least_promising(tables)
            if place >= 0 and least < _promise(tables, slot):
                slot, main[place] = main[place], slot
        tables.slot_of[tables.page_of[slot]] = ABSENT
        state[EVICTIONS] += 1
    window[(state[WINDOW_HEAD] + state[N_WINDOW]) % len(window)] = slot
    state[N_WINDOW] += 1
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
) -> bool:
    """Take pages in, each into the window first; say whether nobody else was about to.

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
    """
    tables = opened(memory, bytes_)
    key = np.int64(tables.state.ctypes.data) + 8 * KEY
    if not try_lock(key):
        return False
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i]) + first
        if tables.slot_of[page] != ABSENT:
            continue
        slot = _make_room(tables)
        version = load_acquire(_version_at(tables, slot))
        store_release(_version_at(tables, slot), np.uint32(version + np.uint32(1)))
        fence()
        _copy_page(tables.memory[slot], frames[places[i]])
        tables.page_of[slot] = np.uint32(page)
        store_release(_version_at(tables, slot), np.uint32(version + np.uint32(2)))
        tables.slot_of[page] = slot
    store_release(key, np.uint32(0))
    return True
