"""The page cache's loops: look pages up and copy them out; take pages in, and decide which make room.

All arrays belong to one ``cache.PageCache``, which lets in one thread at a time.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import kernel

#: A page that isn't held.
ABSENT = -1
#: Pages of the main part that are compared when one must go.
_CANDIDATES = 8
_COUNT_MAX = 255
#: Counts are halved when pages have been asked for so often on average, so that old fame fades.
_FADE_AFTER = 16

# Words of `state`.
N_USED = 0  # slots that hold a page
N_WINDOW, WINDOW_HAND = 1, 2  # slots in the window; its oldest once it is full
N_MAIN, MAIN_HAND = 3, 4  # slots in the main part; where the next comparison begins
N_ASKED = 5  # pages asked for since counts were halved
STATE_WORDS = 6


class Tables(NamedTuple):
    """What a cache knows.

    Attributes
    ----------
    memory : (s, page_bytes) uint8
        A page in each slot.
    page_of : (s,) uint32
        Page in a slot.
    slot_of : (n_pages,) int32
        Slot of a page, or `ABSENT`.
    counts : (n_pages,) uint8
        How often each page was asked for lately, held or not.
    window, main : (w,), (m,) int32
        Slots of the two parts; w + m = s.
    state : (STATE_WORDS,) int64
    """

    memory: npt.NDArray[np.uint8]
    page_of: npt.NDArray[np.uint32]
    slot_of: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    window: npt.NDArray[np.int32]
    main: npt.NDArray[np.int32]
    state: npt.NDArray[np.int64]


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
        Frame i where page i is held; the others stay as they are.
    held : (p,) bool  # OUT
    """
    counts, slot_of, state = tables.counts, tables.slot_of, tables.state
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i])
        if counts[page] < _COUNT_MAX:
            counts[page] += np.uint8(1)
        slot = slot_of[page]
        held[i] = slot != ABSENT
        if slot != ABSENT:
            frames[i, :] = tables.memory[slot]
    state[N_ASKED] += len(page_ids)
    if state[N_ASKED] >= _FADE_AFTER * len(counts):
        state[N_ASKED] = 0
        for page in range(len(counts)):
            counts[page] >>= np.uint8(1)


@kernel
def _make_room(tables: Tables) -> int:
    """Give a slot that no page is in, of the window's: it is the window's newest."""
    window, main, state = tables.window, tables.main, tables.state
    if state[N_WINDOW] < len(window):
        slot = np.int32(state[N_USED])
        state[N_USED] += 1
        window[state[N_WINDOW]] = slot
        state[N_WINDOW] += 1
        return slot
    hand = state[WINDOW_HAND]
    state[WINDOW_HAND] = (hand + 1) % len(window)
    oldest = window[hand]
    if state[N_MAIN] < len(main):
        main[state[N_MAIN]] = oldest
        state[N_MAIN] += 1
        slot = np.int32(state[N_USED])
        state[N_USED] += 1
        window[hand] = slot
        return slot
    # The rarest of a few goes, if what leaves the window was asked for more often; else that goes.
    rarest, least = np.int64(-1), np.int64(tables.counts[tables.page_of[oldest]])
    for step in range(min(_CANDIDATES, len(main))):
        place = (state[MAIN_HAND] + step) % len(main)
        count = np.int64(tables.counts[tables.page_of[main[place]]])
        if count < least:
            rarest, least = place, count
    state[MAIN_HAND] = (state[MAIN_HAND] + _CANDIDATES) % len(main)
    slot = oldest
    if rarest >= 0:
        slot = main[rarest]
        main[rarest] = oldest
        window[hand] = slot
    tables.slot_of[tables.page_of[slot]] = ABSENT
    return slot


@kernel
def keep_pages(
    tables: Tables,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    frames: npt.NDArray[np.uint8],
) -> None:
    """Take pages in, each into the window first.

    Parameters
    ----------
    tables : Tables  # IN, OUT
    page_ids : (p,) uint32  # IN
        Repeats, and pages that another thread took in meanwhile, are passed over.
    places : (p,) int64  # IN
        Frame of each.
    frames : (f, page_bytes) uint8  # IN
    """
    for i in range(len(page_ids)):
        page = np.int64(page_ids[i])
        if tables.slot_of[page] != ABSENT:
            continue
        slot = _make_room(tables)
        tables.memory[slot, :] = frames[places[i]]
        tables.page_of[slot] = np.uint32(page)
        tables.slot_of[page] = slot
