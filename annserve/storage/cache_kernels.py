"""The page cache's loops: look pages up and copy them out; take pages in, and decide which make room.

Threads share the tables and none ever waits for another. Who takes pages in must hold the only key (`LOCK`), and goes
without where somebody else has it: a page that isn't kept is read again. Who looks pages up holds nothing: a slot's
version is odd while it is written, and has changed where it was written meanwhile, so that a torn copy is found and
counts as absent. Counts that two threads raise at once may lose one: they only guess at the future.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import fence, load_acquire, store_release, try_lock

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
STATE_WORDS = 12

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
    versions : (s + 1,) uint32
        Of each slot, odd while it is written; the last is the key of those who write, 1 while it is held.
    slot_of : (n_pages,) int32
        Slot of a page, or `ABSENT`.
    counts : (n_pages,) uint8
        How often each page was asked for lately, held or not.
    turns : (n_pages,) uint16
        In which turn it was asked for last.
    in_window : (s,) uint8
    window, main : (s,) int32
        Slots of the two parts, the first a ring.
    state : (STATE_WORDS,) int64
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
def _version_at(tables, slot):  # type: ignore[no-untyped-def]
    return np.int64(tables.versions.ctypes.data) + 4 * np.int64(slot)


@kernel
def fetch_pages(
    tables: Tables,
    page_ids: npt.NDArray[np.uint32],
    frames: npt.NDArray[np.uint8],
    held: npt.NDArray[np.bool_],
) -> None:
    """Count pages as asked for, and copy those that are held.

    Parameters
    ----------
    tables : Tables  # IN, OUT
    page_ids : (p,) uint32  # IN
    frames : (≥ p, page_bytes) uint8  # OUT
        Frame i where page i is held; others may have changed too.
    held : (p,) bool  # OUT
    """
    counts, slot_of, state = tables.counts, tables.slot_of, tables.state
    turn = np.uint16(state[TURN])
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i])
        if counts[page] < _COUNT_MAX:
            counts[page] += np.uint8(1)
        now = tables.turns[page] == turn
        tables.turns[page] = turn
        held[i] = False
        slot = slot_of[page]
        if slot == ABSENT:
            if now:
                state[WINDOW_WANTED] = min(state[WINDOW_WANTED] + _WINDOW_STEP, state[WINDOW_MOST])
            continue
        if not now and tables.in_window[slot] == 0:
            state[WINDOW_WANTED] = max(state[WINDOW_WANTED] - _WINDOW_STEP, state[WINDOW_LEAST])
        before = load_acquire(_version_at(tables, slot))
        if before & np.uint32(1) == 0 and tables.page_of[slot] == page_ids[i]:
            frames[i, :] = tables.memory[slot]
            fence()
            held[i] = load_acquire(_version_at(tables, slot)) == before
    state[TURN_ASKED] += len(page_ids)
    if state[TURN_ASKED] >= len(tables.page_of):
        state[TURN_ASKED] = 0
        state[TURN] = (state[TURN] + 1) & ((1 << _TURN_BITS) - 1)
    state[N_ASKED] += len(page_ids)
    if state[N_ASKED] >= _FADE_AFTER * len(counts):
        state[N_ASKED] = 0
        for page in range(len(counts)):
            counts[page] >>= np.uint8(1)


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
    tables: Tables,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    frames: npt.NDArray[np.uint8],
) -> bool:
    """Take pages in, each into the window first; say whether nobody else was about to.

    Parameters
    ----------
    tables : Tables  # IN, OUT
    page_ids : (p,) uint32  # IN
        Repeats, and pages that another thread took in meanwhile, are passed over.
    places : (p,) int64  # IN
        Frame of each.
    frames : (f, page_bytes) uint8  # IN
    """
    key = _version_at(tables, len(tables.page_of))
    if not try_lock(key):
        return False
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i])
        if tables.slot_of[page] != ABSENT:
            continue
        slot = _make_room(tables)
        version = load_acquire(_version_at(tables, slot))
        store_release(_version_at(tables, slot), np.uint32(version + np.uint32(1)))
        fence()
        tables.memory[slot, :] = frames[places[i]]
        tables.page_of[slot] = np.uint32(page)
        store_release(_version_at(tables, slot), np.uint32(version + np.uint32(2)))
        tables.slot_of[page] = slot
    store_release(key, np.uint32(0))
    return True
