"""From a query's heads to the distances of their pages' decoded centroids, by the codes of pages.

Loop order: postings of the given heads; the codes of a posting's pages are read in sequence.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.kernels import scan_page
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import prefetch

#: Buckets of the counting sort of pages by distance.
BUCKETS = 1_024


@inline_kernel
def project_query(query, origin, axes, out):  # type: ignore[no-untyped-def]
    """Give a query's components, and its inner product with the codebook's mean.

    In plain loops: a matrix product of the library starts threads, which fight with those that search.

    Parameters
    ----------
    query, origin : (d,) float32  # IN
    axes : tuple  # IN
        Of a codebook, see ``rate.axes_of``: synthesis (m, d), gains (m,) and mean (d,), float32.
    out : (m,) float32  # OUT

    Returns
    -------
    shift : float32
    """
    synthesis, gains, mean = axes
    shift = np.float32(0)
    for x in range(query.shape[0]):
        shift += (query[x] - origin[x]) * mean[x]
    for j in range(synthesis.shape[0]):
        row = synthesis[j]
        total = np.float32(0)
        for x in range(query.shape[0]):
            total += (query[x] - origin[x]) * row[x]
        out[j] = gains[j] * total
    return shift


@kernel
def project(queries, origin, axes, out_components, out_shifts):  # type: ignore[no-untyped-def]
    """Do as `project_query` for each of (nq, d) queries, into (nq, m) and (nq,) arrays."""
    for i in range(queries.shape[0]):
        out_shifts[i] = project_query(queries[i], origin, axes, out_components[i])


@inline_kernel
def page_distances(  # type: ignore[no-untyped-def]
    head_ids,
    head_distances,
    offset,
    step,
    page_offsets,
    codes,
    constants,
    spreads,
    tables,
    sums,
    page_ids,
    places,
    distances,
    own_spreads,
):
    """Give the pages of the heads with their distances, as exact as tables of 8-bit entries are.

    Returns
    -------
    size : int
        Pages written to the last four arrays; a place is that of a page's head among the heads.
    """
    code_bytes = tables.shape[0] // 2
    size = 0
    for j in range(head_ids.shape[0]):
        head = head_ids[j]
        if head < 0:
            break
        first = np.int64(page_offsets[head])
        count = np.int64(page_offsets[head + 1]) - first
        if j + 1 < head_ids.shape[0] and head_ids[j + 1] >= 0:
            coming = np.int64(page_offsets[head_ids[j + 1]])
            prefetch(np.int64(codes.ctypes.data) + coming * code_bytes, code_bytes * count)
            prefetch(np.int64(constants.ctypes.data) + 4 * coming, 4 * count)
            prefetch(np.int64(spreads.ctypes.data) + 4 * coming, 4 * count)
        scan_page(codes, first * code_bytes, count, count, tables, sums)
        base = head_distances[j] - np.float32(2) * offset
        for s in range(count):
            distances[size + s] = max(
                base - np.float32(2) * step * np.float32(sums[s]) + constants[first + s], np.float32(1e-12)
            )
        for s in range(count):
            page_ids[size + s] = first + s
            places[size + s] = j
            own_spreads[size + s] = spreads[first + s]
        size += int(count)
    return size


@inline_kernel
def order_by_distance(distances, size, starts, order):  # type: ignore[no-untyped-def]
    """Order pages by distance, to 1 part in `BUCKETS` of their spread (counting sort)."""
    low = distances[0]
    high = distances[0]
    for i in range(1, size):
        low = min(low, distances[i])
        high = max(high, distances[i])
    scale = np.float32(0)
    if high > low:
        scale = np.float32(BUCKETS - 1) / (high - low)
    starts[:] = 0
    for i in range(size):
        starts[np.int32((distances[i] - low) * scale) + 1] += 1
    for b in range(BUCKETS):
        starts[b + 1] += starts[b]
    for i in range(size):
        bucket = np.int32((distances[i] - low) * scale)
        order[starts[bucket]] = i
        starts[bucket] += 1


@inline_kernel
def exact_distance(  # type: ignore[no-untyped-def]
    page, head, head_distance, shift, page_offsets, codes, constants, nibbles
):
    """Give the squared distance of a page's decoded centroid, by tables that aren't rounded."""
    code_bytes = nibbles.shape[0] // 2
    first = np.int64(page_offsets[head])
    stride = np.int64(page_offsets[head + 1]) - first
    at = first * code_bytes + page - first
    inner = shift
    for b in range(code_bytes):
        both = codes[at + b * stride]
        inner += nibbles[2 * b, both & 15] + nibbles[2 * b + 1, both >> 4]
    return max(head_distance - np.float32(2) * inner + constants[page], np.float32(1e-12))
