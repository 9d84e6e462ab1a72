"""A block's pages in one call: those in RAM copied out, those that recent queries prove needless left out.

Where that leaves nothing to read, the rows are scored and the answers kept in the same call: no stage, and none of its
Python, stands between a query's plan and its answer.
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from annserve.kernels.jit import kernel
from annserve.kernels.topk import sort_nearest
from annserve.lookaside import near_kernels, store_kernels
from annserve.pages.kernels import GOOD, NO_ID, score_query
from annserve.results import CERTIFIED, DELTA
from annserve.storage import ask_kernels, cache_kernels

#: What became of a block: pages must be read, or not all of its queries found k rows; all are answered; pages that it
#: plans are about to be kept, and nothing was done. Or else a page is damaged, see `score_query`.
OPEN, ANSWERED, WAITING = -1, -2, -3


@kernel
def gather_pages(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8: see ``store_kernels.opened``
    slots,  # IN, OUT (s, page_bytes) uint8: see ``cache_kernels.opened``
    tables,  # IN, OUT (t,) uint8
    first_page,  # number of page 0 in the cache
    queries,  # IN (nq, dim) int16
    scales,  # IN (nq,) float64
    norms,  # IN (nq,) float64
    marks,  # IN (4,) uint64: see ``lookaside.Kind``
    first,  # of the places of recent queries
    stop,
    k,
    keys,  # IN (nq, 2) uint64
    page_ids,  # IN (p,) uint32: ascending for each query
    offsets,  # IN (nq + 1,) int64
    waiting,  # IN (w,) uint32: pages that another query read, and that are to be kept
    prove,  # whether to look for proofs
    answer,  # whether to score what needs no reading
    facts,  # ints: what `score_query` takes of an index, and its metric
    frames,  # OUT tuple: ``Frames.views``; of pages that are left, where they are held; others may have changed too
    flags,  # SCRATCH (2, p) bool
    positions,  # SCRATCH (m,) int64
    moved,  # SCRATCH (m,) float64
    lists,  # OUT (2, p) uint32: pages that aren't needless, and those that aren't held either;
    lists_offsets,  # OUT (2, nq + 1) int64: how they belong to queries,
    places,  # OUT (p,) int64: and the frame of each absent one
    grades,  # OUT (nq,) uint8: of queries that gained by the cache
    nearest,  # OUT (p,) float64: distance of the nearest row on each page that is left;
    distances,  # OUT (nq, k) float64: answers,
    ids,  # OUT (nq, k) uint64
    counts,  # OUT (nq, 3) int64: and what `score_query` counts
):
    """Count pages as asked for, leave out what is proven needless, copy what is held, and answer if that is all.

    Returns
    -------
    state : int
        `OPEN`, `ANSWERED`, `WAITING`, or what is wrong with the page in frame `n_absent`.
    n_left, n_absent : int
    """
    frames_u8, frames_u32, frames_u64, frames_f32, frames_rows = frames
    salt, capacity, dim, ids_offset, factors_offset, rows_offset, metric = facts
    store, pool = store_kernels.opened(memory), cache_kernels.opened(slots, tables)
    held, needless = flags[0], flags[1]
    left, absent = lists[0], lists[1]
    left_offsets, absent_offsets = lists_offsets[0], lists_offsets[1]
    for page in waiting:
        for j in range(len(page_ids)):
            if page_ids[j] == page:
                return WAITING, 0, 0
    n_left, n_absent = 0, 0
    left_offsets[0] = absent_offsets[0] = 0
    for i in range(queries.shape[0]):
        begin, end = offsets[i], offsets[i + 1]
        n_held = 0
        for j in range(begin, end):
            held[j] = ask_kernels.ask_for(pool, page_ids[j] + first_page)
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
            if not (held[j] and cache_kernels.copy_out(pool, page_ids[j] + first_page, frames_u8[n_left])):
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
    for i in range(queries.shape[0]):
        distances[i] = float("inf")
        ids[i] = NO_ID
        counts[i] = 0
        state = score_query(
            frames_u8,
            frames_u32,
            frames_u64,
            frames_f32,
            frames_rows,
            left,
            left_offsets[i],
            left_offsets[i + 1],
            salt,
            capacity,
            dim,
            ids_offset,
            factors_offset,
            rows_offset,
            queries[i],
            scales[i],
            norms[i],
            metric,
            k,
            nearest,
            distances[i],
            ids[i],
            counts[i],
        )
        if state != GOOD:
            return state, n_left, counts[i, 2]
        sort_nearest(distances[i], ids[i], counts[i, 1])
        whole = whole and counts[i, 1] == k
    if not whole:
        return OPEN, n_left, n_absent
    if store_kernels.lock(store):
        for i in range(queries.shape[0]):
            begin, end = left_offsets[i], left_offsets[i + 1]
            near_kernels.keep_answer(
                store,
                keys[i],
                marks[2],
                first,
                stop,
                queries[i],
                scales[i],
                norms[i],
                ids[i],
                distances[i],
                end - begin,
                left[begin:end],
                nearest[begin:end],
            )
        store_kernels.unlock(store)
    return ANSWERED, n_left, n_absent
