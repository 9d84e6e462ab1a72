"""A block's pages in one call: those in RAM copied out, those that recent queries prove needless left out."""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from annserve.kernels.jit import kernel
from annserve.lookaside import near_kernels, store_kernels
from annserve.results import DELTA
from annserve.storage import cache_kernels


@kernel
def gather_pages(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8: see ``store_kernels.opened``
    slots,  # IN, OUT (s, page_bytes) uint8: see ``cache_kernels.opened``
    tables,  # IN, OUT (t,) uint8
    first_page,  # number of page 0 in the cache
    queries,  # IN (nq, dim) int16
    scales,  # IN (nq,) float64
    norms,  # IN (nq,) float64
    marks,  # IN (3,) uint64: the last is the scope
    first,  # of the places of recent queries
    stop,
    k,
    page_ids,  # IN (p,) uint32: ascending for each query
    offsets,  # IN (nq + 1,) int64
    frames,  # OUT (≥ p, page_bytes) uint8: of pages that are left, where they are held; others may have changed too
    held,  # SCRATCH (p,) bool
    needless,  # SCRATCH (p,) bool
    positions,  # SCRATCH (m,) int64
    moved,  # SCRATCH (m,) float64
    left,  # OUT (p,) uint32: pages that aren't needless,
    left_offsets,  # OUT (nq + 1,) int64: how they belong to queries;
    absent,  # OUT (p,) uint32: those that aren't held either,
    absent_offsets,  # OUT (nq + 1,) int64: how they belong to queries,
    places,  # OUT (p,) int64: and the frame of each
    grades,  # OUT (nq,) uint8: of queries of which something was proven
):
    """Count pages as asked for, leave out what is proven needless, and copy what is held."""
    store, pool = store_kernels.opened(memory), cache_kernels.opened(slots, tables)
    n_left, n_absent = 0, 0
    left_offsets[0] = absent_offsets[0] = 0
    for i in range(queries.shape[0]):
        begin, end = offsets[i], offsets[i + 1]
        n_held = 0
        for j in range(begin, end):
            held[j] = cache_kernels.ask_for(pool, page_ids[j] + first_page)
            n_held += int(held[j])
        proven = 0
        if n_held < end - begin:
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
        if proven > 0:
            grades[i] = DELTA
        for j in range(begin, end):
            if proven > 0 and needless[j]:
                continue
            left[n_left] = page_ids[j]
            if not (held[j] and cache_kernels.copy_out(pool, page_ids[j] + first_page, frames[n_left])):
                absent[n_absent] = page_ids[j]
                places[n_absent] = n_left
                n_absent += 1
            n_left += 1
        left_offsets[i + 1], absent_offsets[i + 1] = n_left, n_absent
    cache_kernels.asked_for(pool, len(page_ids))
    return n_left, n_absent
