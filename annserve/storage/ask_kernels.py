"""The page cache's loops that count what is asked for, and look it up."""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel
from annserve.storage.cache_kernels import (
    ABSENT,
    ASKED_IN_TICK,
    N_ASKED,
    TICK,
    TICK_ASKS,
    copy_out,
    give_key_back,
    opened,
    take_key,
)
from annserve.storage.follow_kernels import expect
from annserve.storage.promise_kernels import faded, follow_best, judge

_COUNT_MAX = 255
#: Counts are halved when pages have been asked for so often on average, so that old fame fades.
_FADE_AFTER = 16
#: What one question adds to what was asked for lately.
_LATELY = 4


@inline_kernel
def ask_for(tables, page):  # type: ignore[no-untyped-def]
    """Count a page as asked for; say whether it is held, as far as one can tell without copying it."""
    if tables.counts[page] < _COUNT_MAX:
        tables.counts[page] += np.uint8(1)
    tables.lately[page] = np.uint8(min((faded(tables, page) >> 8) + _LATELY, _COUNT_MAX))
    tables.ticks[page] = tables.state[TICK]
    return tables.slot_of[page] != ABSENT


@inline_kernel
def asked_for(tables, page_ids, first, offsets, session):  # type: ignore[no-untyped-def]
    """Let time pass by pages that were asked for, by a session or by 0; learn of it, unless somebody else writes."""
    state, counts = tables.state, tables.counts
    state[ASKED_IN_TICK] += len(page_ids)
    while state[ASKED_IN_TICK] >= state[TICK_ASKS]:
        state[ASKED_IN_TICK] -= state[TICK_ASKS]
        state[TICK] += 1
    state[N_ASKED] += len(page_ids)
    if state[N_ASKED] >= _FADE_AFTER * len(counts):
        state[N_ASKED] = 0
        for page in range(len(counts)):
            counts[page] >>= np.uint8(1)
        for region in range(len(tables.asked_in)):
            tables.asked_in[region] *= np.float32(0.5)
    if not take_key(tables):
        return
    if session != 0:
        for query in range(len(offsets) - 1):
            expect(tables, session, page_ids[offsets[query] : offsets[query + 1]], first)
    for i in range(len(page_ids)):
        judge(tables, np.int64(page_ids[i]) + first)
    follow_best(tables)
    give_key_back(tables)


@kernel
def fetch_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    first: int,
    page_ids: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    session: np.uint64,
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
    session : uint64
        Who asks, or 0.
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
    asked_for(tables, page_ids, first, offsets, session)
    return n_absent
