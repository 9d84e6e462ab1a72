"""From a query's heads to the worth of pages: page codes, row codes, expected hits, all in RAM.

Loop order: postings of the given heads, then pages by rising distance of their decoded centroid, then the rows of a
page in the order of their slots; codes and factors are read in sequence within a page.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.kernels import nibble_tables, quantize_tables, scan_page
from annserve.kernels.expected import normal_cdf, solve_threshold
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import prefetch

#: Buckets of the counting sort of pages by distance.
BUCKETS = 1_024
#: A row whose estimate exceeds the threshold by this many of its errors can't be expected to be a hit.
_REACH = np.float32(4)
#: Codes are asked of memory so many pages ahead: 4 halved the time of scattered pages, 8 gave no more.
_AHEAD = 4
#: Pages after which the threshold is known well enough to skip pages by (within 3 to 9 %, measured).
PAGES_FIRST = 32


@kernel
def project(queries, origin, synthesis, gains, mean, out_components, out_shifts):  # type: ignore[no-untyped-def]
    """Give each query's components, and its inner product with the codebook's mean.

    In plain loops: a matrix product of the library starts threads, which fight with those that search.

    Parameters
    ----------
    queries : (nq, d) float32  # IN
    origin, mean : (d,) float32  # IN
    synthesis : (m, d) float32  # IN
    gains : (m,) float32  # IN
    out_components : (nq, m) float32  # OUT
    out_shifts : (nq,) float32  # OUT
    """
    for i in range(queries.shape[0]):
        query = queries[i]
        shift = np.float32(0)
        for x in range(query.shape[0]):
            shift += (query[x] - origin[x]) * mean[x]
        out_shifts[i] = shift
        for j in range(synthesis.shape[0]):
            row = synthesis[j]
            total = np.float32(0)
            for x in range(query.shape[0]):
                total += (query[x] - origin[x]) * row[x]
            out_components[i, j] = gains[j] * total


@inline_kernel
def _log(x):  # type: ignore[no-untyped-def]
    """Give ln x of a positive float32, off by less than 2e-5: the exponent, and a polynomial in the mantissa."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> 23) - 127)
    m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1)
    high = np.float32(0.28782629) + m * (np.float32(-0.13413543) + m * np.float32(0.03137759))
    return np.float32(0.6931472) * exponent + m * (np.float32(0.99943498) + m * (np.float32(-0.49134793) + m * high))


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
def _order_by_distance(distances, size, starts, order):  # type: ignore[no-untyped-def]
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


@inline_kernel
def lower_bar(heap, size, value):  # type: ignore[no-untyped-def]
    """Replace the largest of the smallest values by `value`, in a largest-first heap."""
    position = 0
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[position] = heap[child]
        position = child
    heap[position] = value


@inline_kernel
def _keep_promising(  # type: ignore[no-untyped-def]
    distances, spreads, order, first, size, log_bar, terms, below, log_ranks, promises, slopes
):
    """Drop pages from `order` that promise fewer hits than `below` (a logarithm); give how many are left.

    A Poisson regression fitted in calibration (``build.calibrate_reads``) on the page's log distance and log spread,
    relative to the log bar of the first pages, and on its rank. The first `first` pages stay.

    Parameters
    ----------
    terms : (8,) float32  # IN
    log_ranks : (>= size,) float32  # IN
        ln(1 + rank).
    promises, slopes : (>= size,) float32  # SCRATCH
    """
    # Memory in sequence and no branch in either loop, so that both run in vectors.
    for i in range(size):
        x = _log(distances[i]) - log_bar
        y = spreads[i] - log_bar
        promises[i] = terms[0] + x * (terms[1] + terms[2] * x + terms[5] * y) + y * (terms[3] + terms[4] * y)
        slopes[i] = terms[6] + terms[7] * x
    kept = first
    for rank in range(first, size):
        i = order[rank]
        order[kept] = i
        kept += promises[i] + log_ranks[rank] * slopes[i] >= below
    return kept


@inline_kernel
def _estimate_rows(factors, sums, base, offset, step, constant_step, shrinks, out):  # type: ignore[no-untyped-def]
    """Estimate the squared distances of a page's rows from the sums of their codes; give the least.

    Parameters
    ----------
    factors : (2, capacity) uint8  # IN
    sums : (passes, >= n) uint16  # IN
    out : (n,) float32  # OUT
    """
    count = out.shape[0]
    low = sums[0]
    if sums.shape[0] == 2:
        high = sums[1]
        for slot in range(count):
            out[slot] = offset + step * (np.float32(low[slot]) + np.float32(256) * np.float32(high[slot]))
    else:
        for slot in range(count):
            out[slot] = offset + step * np.float32(low[slot])
    # Shrinks are evenly spaced, so none need be looked up.
    first = np.float32(2) * shrinks[0]
    rise = np.float32(2) * (shrinks[-1] - shrinks[0]) / np.float32(shrinks.shape[0] - 1)
    constants = factors[0]
    chosen = factors[1]
    for slot in range(count):
        out[slot] = (
            base + constant_step * np.float32(constants[slot]) - (first + rise * np.float32(chosen[slot])) * out[slot]
        )
    nearest = np.float32(np.inf)
    for slot in range(count):
        nearest = min(nearest, out[slot])
    return nearest


@kernel
def rate_pages(  # type: ignore[no-untyped-def]
    head_ids,  # IN (nq, h) int32, nearest first; -1 where there is none
    head_distances,  # IN (nq, h) float32: exact squared distance of the query to each head
    page_projected,  # IN (nq, m) float32: the query's components for page codes
    page_shift,  # IN (nq,) float32: its inner product with the page codebook's mean
    row_projected,  # IN (nq, m') float32: the same for row codes
    row_shift,  # IN (nq,) float32
    page_offsets,  # IN (heads + 1,) uint32
    page_codes,  # IN (bytes + slack,) uint8, transposed by posting
    page_constants,  # IN (pages,) float32
    page_spreads,  # IN (pages,) float32: log of the mean squared residual of its rows
    page_fields,  # IN tuple of the page codebook's field arrays
    row_counts,  # IN (pages,) uint16
    row_codes,  # IN (bytes + slack,) uint8, transposed by page
    row_factors,  # IN (pages, 2, capacity) uint8: constants, then shrinks
    row_fields,  # IN tuple of the row codebook's field arrays
    shrinks,  # IN (256,) float32
    spreads,  # IN (256,) float32
    scales,  # IN (4,) float32: distance scale, spread power, least constant, step of constants
    excluded,  # IN (nq, 2) int64: page and slot of a row that isn't to be counted, or -1
    k,
    pages_max,  # most pages whose row codes are scanned
    skip_terms,  # IN (8,) float32: log expected hits of a page, see `_promises`
    skip_below,  # float32: pages that promise less (log) aren't scanned, after the first few
    tables,  # SCRATCH tuples, see `annserve.codes.rate.Rater`
    near_pages,
    rows,
    out_pages,  # OUT (nq, w) uint32: pages whose rows were scanned, in the order of their distance
    out_worths,  # OUT (nq, w) float32
    out_distances,  # OUT (nq, w) float32: squared distances of their decoded centroids
    out_sizes,  # OUT (nq,) int64
    out_bars,  # OUT (nq,) float32: 2k-th smallest estimate on the first pages
    out_thresholds,  # OUT (nq,) float32: estimated squared distance of the k-th nearest
    out_counts,  # OUT (nq, 2) int64: page codes and row codes looked at
):
    """Rate pages by the hits that their rows' codes promise."""
    page_nibbles, page_tables, page_sums, row_nibbles, row_tables, row_sums, starts, bar = tables
    page_ids, places, distances, near_spreads, order, promises, slopes, log_ranks = near_pages
    page_scales, estimates, near_estimates, near_errors, near_owners = rows
    capacity = row_factors.shape[2]
    n_passes = row_tables.shape[0]
    codes_bytes = row_tables.shape[1] // 2 * capacity
    bar_size = min(2 * k, bar.shape[0])
    widest = spreads.max()
    for i in range(head_ids.shape[0]):
        nibble_tables(page_projected[i], *page_fields, page_nibbles)
        step, offset = quantize_tables(page_nibbles, page_tables)
        size = page_distances(
            head_ids[i],
            head_distances[i],
            offset + page_shift[i],
            step,
            page_offsets,
            page_codes,
            page_constants,
            page_spreads,
            page_tables[0],
            page_sums,
            page_ids,
            places,
            distances,
            near_spreads,
        )
        out_counts[i, 0] = size
        _order_by_distance(distances, size, starts, order)

        nibble_tables(row_projected[i], *row_fields, row_nibbles)
        step, offset = quantize_tables(row_nibbles, row_tables)
        offset += row_shift[i]
        bar[:bar_size] = np.float32(np.inf)
        n_rows = 0
        n_scanned = 0
        while n_scanned < min(size, pages_max):
            page = np.int64(page_ids[order[n_scanned]])
            place = places[order[n_scanned]]
            distance = exact_distance(
                page,
                head_ids[i, place],
                head_distances[i, place],
                page_shift[i],
                page_offsets,
                page_codes,
                page_constants,
                page_nibbles,
            )
            if n_scanned + _AHEAD < size:
                coming = np.int64(page_ids[order[n_scanned + _AHEAD]])
                prefetch(np.int64(row_codes.ctypes.data) + coming * codes_bytes, codes_bytes)
                prefetch(np.int64(row_factors.ctypes.data) + coming * 2 * capacity, 2 * capacity)
            count = np.int64(row_counts[page])
            for t in range(n_passes):
                scan_page(row_codes, page * codes_bytes, capacity, count, row_tables[t], row_sums[t])
            own = estimates[n_rows : n_rows + count]
            nearest = _estimate_rows(
                row_factors[page], row_sums, distance * scales[0] + scales[2], offset, step, scales[3], shrinks, own
            )
            if page == excluded[i, 0] and excluded[i, 1] < count:
                own[excluded[i, 1]] = np.float32(np.inf)
            if nearest < bar[0]:
                for slot in range(count):
                    if own[slot] < bar[0]:
                        lower_bar(bar, bar_size, own[slot])
            out_pages[i, n_scanned] = page
            out_distances[i, n_scanned] = distance
            page_scales[n_scanned] = np.exp(scales[1] * np.log(distance))
            n_rows += int(count)
            n_scanned += 1
            if n_scanned == PAGES_FIRST:
                # Infinite where the first pages hold fewer than 2k rows: then nothing is skipped.
                out_bars[i] = bar[0]
                if bar[0] < np.float32(np.inf):
                    log_bar = np.log(max(bar[0], np.float32(1e-12)))
                    size = _keep_promising(
                        distances,
                        near_spreads,
                        order,
                        PAGES_FIRST,
                        size,
                        log_bar,
                        skip_terms,
                        skip_below,
                        log_ranks,
                        promises,
                        slopes,
                    )
        out_sizes[i] = n_scanned
        out_counts[i, 1] = n_rows

        # Half of each of the 2k rows below the bar is expected within it: the threshold can't lie beyond.
        near = 0
        low = np.float32(np.inf)
        high = np.float32(-np.inf)
        row = 0
        for rank in range(n_scanned):
            page = np.int64(out_pages[i, rank])
            reach = _REACH * page_scales[rank]
            chosen = row_factors[page, 1]
            for slot in range(np.int64(row_counts[page])):
                estimate = estimates[row]
                row += 1
                if estimate - reach * widest < bar[0] and estimate < np.float32(np.inf):
                    error = reach * spreads[chosen[slot]]
                    if estimate - error < bar[0]:
                        near_estimates[near] = estimate
                        near_errors[near] = error / _REACH
                        near_owners[near] = rank
                        low = min(low, estimate - error)
                        high = max(high, estimate + error)
                        near += 1
        if near == 0:
            high = np.float32(np.inf)
        threshold = solve_threshold(near_estimates, near_errors, near, k, low, min(high, bar[0]))
        out_thresholds[i] = threshold
        for rank in range(n_scanned):
            out_worths[i, rank] = np.float32(0)
        for r in range(near):
            out_worths[i, near_owners[r]] += normal_cdf((threshold - near_estimates[r]) / near_errors[r])


@kernel
def best_pages(  # type: ignore[no-untyped-def]
    pages,  # IN (nq, w) uint32
    worths,  # IN (nq, w) float32; changed while a query is looked at
    sizes,  # IN (nq,) int64
    row_counts,  # IN (pages,) uint16
    hits_wanted,  # IN (nq,) float64
    worth_enough,  # float64: a page worth more is taken in any case
    rows_least,
    columns,  # SCRATCH (w,) int64
    kept,  # SCRATCH (w,) float32
    out_pages,  # OUT (>= all that are taken,) uint32: ascending for each query
    out_offsets,  # OUT (nq + 1,) int64
):
    """Take pages by falling worth, ties in their order, until worths and rows suffice; at least one.

    Few of many are taken, so each is found by looking at all that are left.
    """
    out_offsets[0] = 0
    for i in range(pages.shape[0]):
        own = worths[i]
        first = out_offsets[i]
        promised = np.float32(0)
        held = 0
        taken = 0
        while taken < sizes[i]:
            enough = taken > 0 and promised >= hits_wanted[i] and held >= rows_least
            if enough and worth_enough == np.inf:
                break
            best = 0
            worth = own[0]
            for j in range(1, sizes[i]):
                if own[j] > worth:
                    best = j
                    worth = own[j]
            if enough and worth <= worth_enough:
                break
            page = pages[i, best]
            promised += worth
            held += row_counts[page]
            columns[taken] = best
            kept[taken] = worth
            own[best] = np.float32(-1)
            place = first + taken
            while place > first and out_pages[place - 1] > page:
                out_pages[place] = out_pages[place - 1]
                place -= 1
            out_pages[place] = page
            taken += 1
        for j in range(taken):
            own[columns[j]] = kept[j]
        out_offsets[i + 1] = first + taken
