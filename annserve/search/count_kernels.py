"""What a block of queries read, counted in one call."""

from __future__ import annotations

from annserve.kernels.jit import inline_kernel, kernel


@inline_kernel
def _runs(numbers, first, stop, longest):  # type: ignore[no-untyped-def]
    """Count the runs of ``numbers[first:stop]``, a run being at most `longest` that each follow the one before."""
    runs = 0
    size = longest
    for j in range(first, stop):
        if size == longest or int(numbers[j]) != int(numbers[j - 1]) + 1:
            runs += 1
            size = 0
        size += 1
    return runs


@kernel
def count_costs(page_ids, offsets, chosen_offsets, longest, page_bytes, out):  # type: ignore[no-untyped-def]
    """Count pages, reads, bytes and cached pages of each query, as if it had been alone.

    Parameters
    ----------
    page_ids : (p,) uint32  # IN
        Pages that were read, ascending within a query.
    offsets : (nq + 1,) int64  # IN
        Query i read ``page_ids[offsets[i] : offsets[i + 1]]``.
    chosen_offsets : (nq + 1,) int64  # IN
        The same of the pages that were chosen; the others of them were cached.
    longest : int
        Pages of a read at most.
    page_bytes : int
    out : (8, nq) int64  # OUT
        By ``SearchStats.COUNTS``; what isn't counted here becomes 0.
    """
    for i in range(out.shape[1]):
        pages = offsets[i + 1] - offsets[i]
        out[0, i] = pages
        out[1, i] = _runs(page_ids, offsets[i], offsets[i + 1], longest)
        out[2, i] = pages * page_bytes
        out[3, i] = 0
        out[4, i] = 0
        out[5, i] = 0
        out[6, i] = chosen_offsets[i + 1] - chosen_offsets[i] - pages
        out[7, i] = 0
