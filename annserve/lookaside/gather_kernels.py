"""A block's pages in one call: those in RAM copied out, those that recent queries prove needless left out.

Where that leaves nothing to read, the rows are scored and the answers kept in the same call: no stage, and none of its
Python, stands between a query's plan and its answer.
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import copy_bytes
from annserve.kernels.topk import sort_nearest
from annserve.lookaside import near_kernels, store_kernels
from annserve.pages.kernels import GOOD, NO_ID, score_query
from annserve.results import CERTIFIED, DELTA, SearchStats
from annserve.storage import ask_kernels, cache_kernels

#: What became of a block: pages must be read, or not all of its queries found k rows; or all are answered. Or else a
#: page is damaged, see `score_query`.
OPEN, ANSWERED = -1, -2
_READ, _HEADS, _ROWS, _CODES, _CACHED = (
    SearchStats.COUNTS.index(name)
    for name in ("pages_read", "heads_visited", "rows_scored", "codes_scanned", "pages_cached")
)


@inline_kernel
def _place_of(waiting, page):  # type: ignore[no-untyped-def]
    """Give the place of a page among those that wait; -1 if it isn't there."""
    for place in range(len(waiting)):
        if waiting[place] == page:
            return place
    return -1


@inline_kernel
def _copy_page(to, page):  # type: ignore[no-untyped-def]
    copy_bytes(np.int64(to.ctypes.data), np.int64(page.ctypes.data), len(page))


@kernel
def gather_pages(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8: see ``store_kernels.opened``
    slots,  # IN, OUT (s, page_bytes) uint8: see ``cache_kernels.opened``
    tables,  # IN, OUT (t,) uint8
    first_page,  # number of page 0 in the cache
    queries,  # IN (nq, dim) int16
    scales,  # IN (nq,) float64
    norms,  # IN (nq,) float64
    marks,  # IN (4,) uint64: see ``asked.Kind``
    first,  # of the places of recent queries
    stop,
    k,
    keys,  # IN (nq, 2) uint64
    page_ids,  # IN (p,) uint32: ascending for each query
    offsets,  # IN (nq + 1,) int64
    waiting,  # IN (w,) uint32: pages that an earlier query read, and that aren't kept yet;
    waiting_places,  # IN (w,) int64: frames of theirs,
    waiting_frames,  # IN (f, page_bytes) uint8: here
    prove,  # whether to look for proofs
    answer,  # whether to score what needs no reading
    facts,  # IN (7,) int64: ``PageFacts.numbers``
    looked_at,  # IN (2, nq) int64: heads and codes that were looked at, to be counted
    frames,  # OUT (≥ p, page_bytes) uint8: of pages that are left, where they are held; others may have changed too
    frames_rows,  # OUT the same memory as uint8 or int8
    flags,  # SCRATCH (2, p) bool
    pages,  # OUT (2, p) uint32: pages that aren't needless, and those that aren't held either;
    pages_offsets,  # OUT (2, nq + 1) int64: how they belong to queries,
    places,  # OUT (p,) int64: and the frame of each absent one
    grades,  # OUT (nq,) uint8: of queries that gained by the cache
    numbers,  # SCRATCH (3 nq + ENTRIES,) int64
    lengths,  # SCRATCH (p + nq k + ENTRIES,) float64
    ids,  # OUT (nq, k) uint64: answers,
    distances,  # OUT (nq, k) float32,
    costs,  # OUT (8, nq) int64: and what they cost, in the order of ``SearchStats.COUNTS``
):
    """Count pages as asked for, leave out what is proven needless, copy what is held, and answer if that is all.

    Returns
    -------
    state : int
        `OPEN`, `ANSWERED`, or what is wrong with the page in frame `n_absent`.
    n_left, n_absent : int
    """
    n_queries, n_pages = queries.shape[0], len(page_ids)
    store, pool = store_kernels.opened(memory), cache_kernels.opened(slots, tables)
    held, needless = flags[0], flags[1]
    counts = numbers[: 3 * n_queries].reshape((n_queries, 3))
    positions, moved = numbers[3 * n_queries :], lengths[n_pages + n_queries * k :]
    nearest, exact = lengths[:n_pages], lengths[n_pages : n_pages + n_queries * k].reshape((n_queries, k))
    left, absent = pages[0], pages[1]
    left_offsets, absent_offsets = pages_offsets[0], pages_offsets[1]
    n_left, n_absent = 0, 0
    left_offsets[0] = absent_offsets[0] = 0
    for i in range(n_queries):
        begin, end = offsets[i], offsets[i + 1]
        n_held = 0
        for j in range(begin, end):
            in_ram = ask_kernels.ask_for(pool, page_ids[j] + first_page)
            held[j] = in_ram or _place_of(waiting, page_ids[j]) >= 0
            n_held += int(held[j])
        proven = 0
        if prove and n_held < end - begin:
            proven = near_kernels.prove_needless(
                store,
                queries[i],
                scales[i],
                norms[i],
                marks[2],
                first,
                stop,
                k,
                page_ids[begin:end],
                held[begin:end],
                positions,
                moved,
                needless[begin:end],
            )
        n_read = n_absent
        for j in range(begin, end):
            if proven > 0 and needless[j]:
                continue
            left[n_left] = page_ids[j]
            place = _place_of(waiting, page_ids[j]) if held[j] else -1
            if place >= 0:
                _copy_page(frames[n_left], waiting_frames[waiting_places[place]])
            elif not (held[j] and cache_kernels.copy_out(pool, page_ids[j] + first_page, frames[n_left])):
                absent[n_absent] = page_ids[j]
                places[n_absent] = n_left
                n_absent += 1
            n_left += 1
        left_offsets[i + 1], absent_offsets[i + 1] = n_left, n_absent
        n_read = n_absent - n_read
        if n_read == 0:
            grades[i] = CERTIFIED
        elif n_read < end - begin:
            grades[i] = DELTA
    ask_kernels.asked_for(pool, page_ids, first_page, offsets, marks[3])
    if n_absent > 0 or not answer:
        return OPEN, n_left, n_absent

    whole = True
    for i in range(n_queries):
        exact[i] = float("inf")
        ids[i] = NO_ID
        counts[i] = 0
        state = score_query(
            frames,
            frames_rows,
            left,
            left_offsets[i],
            left_offsets[i + 1],
            facts,
            queries[i],
            scales[i],
            norms[i],
            k,
            nearest,
            exact[i],
            ids[i],
            counts[i],
        )
        if state != GOOD:
            return state, n_left, counts[i, 2]
        sort_nearest(exact[i], ids[i], counts[i, 1])
        whole = whole and counts[i, 1] == k
        for j in range(k):
            distances[i, j] = exact[i, j]
        costs[:, i] = 0
        costs[_HEADS, i], costs[_CODES, i] = looked_at[0, i], looked_at[1, i]
        costs[_ROWS, i], costs[_CACHED, i] = counts[i, 0], left_offsets[i + 1] - left_offsets[i]
    if not whole:
        return OPEN, n_left, n_absent
    near_kernels.keep_answers(
        store,
        keys,
        marks[2],
        first,
        stop,
        queries,
        scales,
        norms,
        ids,
        exact,
        costs[_READ],
        costs[_CACHED],
        left,
        left_offsets,
        nearest,
    )
    return ANSWERED, n_left, n_absent
