"""From a query's heads to the worth of pages: page codes, row codes, expected hits, all in RAM.

Loop order: postings of the given heads, then pages by rising distance of their decoded centroid, then the rows of a
page in the order of their slots; codes and factors are read in sequence within a page.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.kernels import nibble_tables, prefetch_page, quantize_tables, scan_page
from annserve.kernels.expected import normal_cdf, solve_threshold
from annserve.kernels.jit import inline_kernel, kernel

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
def _byte_tables(nibbles, tables):  # type: ignore[no-untyped-def]
    """Join tables of 16 entries, two nibbles to a byte, to tables of 256."""
    for b in range(tables.shape[0]):
        for x in range(256):
            tables[b, x] = nibbles[2 * b, x & 15] + nibbles[2 * b + 1, x >> 4]


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
        starts[np.int64((distances[i] - low) * scale) + 1] += 1
    for b in range(BUCKETS):
        starts[b + 1] += starts[b]
    for i in range(size):
        bucket = np.int64((distances[i] - low) * scale)
        order[starts[bucket]] = i
        starts[bucket] += 1


@inline_kernel
def _lower_bar(heap, size, value):  # type: ignore[no-untyped-def]
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
def _log_promise(x, y, rank, terms):  # type: ignore[no-untyped-def]
    """Log of the hits that a page promises before its rows' codes are looked at.

    x, y : float32
        Log distance and log spread of the page, relative to the log bar of the first pages.
    terms : (8,) float32
        A Poisson regression fitted in calibration (``build.calibrate_reads``).
    """
    r = np.log(np.float32(1) + rank)
    return (
        terms[0]
        + terms[1] * x
        + terms[2] * x * x
        + terms[3] * y
        + terms[4] * y * y
        + terms[5] * x * y
        + terms[6] * r
        + terms[7] * r * x
    )


@kernel
def rate_pages(  # type: ignore[no-untyped-def]
    head_ids,  # IN (nq, h) int32, nearest first; -1 where there is none
    head_distances,  # IN (nq, h) float32: exact squared distance of the query to each head
    page_projected,  # IN (nq, m) float32: the query's components for page codes
    page_shift,  # IN (nq,) float32: its inner product with the page codebook's mean
    row_projected,  # IN (nq, m') float32: the same for row codes
    row_shift,  # IN (nq,) float32
    page_offsets,  # IN (heads + 1,) uint32
    page_codes,  # IN (pages, b) uint8
    page_constants,  # IN (pages,) float32
    page_fields,  # IN tuple of the page codebook's field arrays
    row_counts,  # IN (pages,) uint16
    row_codes,  # IN (bytes + slack,) uint8, transposed by page
    row_factors,  # IN (pages, 2, capacity) uint8: constants, then shrinks
    row_fields,  # IN tuple of the row codebook's field arrays
    page_spreads,  # IN (pages,) float32: log of the mean squared residual of its rows
    shrinks,  # IN (256,) float32
    spreads,  # IN (256,) float32
    scales,  # IN (4,) float32: distance scale, spread power, least constant, step of constants
    excluded_pages,  # IN (nq,) int64: page of a row that isn't to be counted, or -1
    excluded_slots,  # IN (nq,) int64
    k,
    pages_max,  # most pages whose row codes are scanned
    skip_terms,  # IN (8,) float32: log expected hits of a page, see `_log_promise`
    skip_below,  # float32: pages that promise less (log) aren't scanned, after the first few
    scratch,  # SCRATCH tuple, see `annserve.codes.rate.RateScratch`
    out_pages,  # OUT (nq, w) uint32: pages whose rows were scanned, in the order of their distance
    out_worths,  # OUT (nq, w) float32
    out_distances,  # OUT (nq, w) float32: squared distances of their decoded centroids
    out_sizes,  # OUT (nq,) int64
    out_bars,  # OUT (nq,) float32: 2k-th smallest estimate on the first pages
    out_thresholds,  # OUT (nq,) float32: estimated squared distance of the k-th nearest
    out_counts,  # OUT (nq, 2) int64: page codes and row codes looked at
):
    """Rate pages by the hits that their rows' codes promise."""
    (
        page_nibbles,
        page_tables,
        row_nibbles,
        row_tables,
        starts,
        page_ids,
        distances,
        order,
        sums,
        bar,
        estimates,
        errors,
        owners,
        near_estimates,
        near_errors,
        near_owners,
    ) = scratch
    capacity = row_factors.shape[2]
    row_bytes = row_tables.shape[1] // 2
    n_passes = row_tables.shape[0]
    codes_bytes = row_bytes * capacity
    bar_size = min(2 * k, bar.shape[0])
    for i in range(head_ids.shape[0]):
        nibble_tables(page_projected[i], *page_fields, page_nibbles)
        _byte_tables(page_nibbles, page_tables)
        size = 0
        for j in range(head_ids.shape[1]):
            head = head_ids[i, j]
            if head < 0:
                break
            base = head_distances[i, j] - np.float32(2) * page_shift[i]
            for page in range(page_offsets[head], page_offsets[head + 1]):
                inner = np.float32(0)
                for b in range(page_tables.shape[0]):
                    inner += page_tables[b, page_codes[page, b]]
                page_ids[size] = page
                distances[size] = max(base - np.float32(2) * inner + page_constants[page], np.float32(1e-12))
                size += 1
        out_counts[i, 0] = size
        _order_by_distance(distances, size, starts, order)

        nibble_tables(row_projected[i], *row_fields, row_nibbles)
        step, offset = quantize_tables(row_nibbles, row_tables)
        offset += row_shift[i]
        for j in range(bar_size):
            bar[j] = np.float32(np.inf)
        log_bar = np.float32(0)
        n_rows = 0
        n_scanned = 0
        n_codes = np.int64(0)
        for rank in range(size):
            if n_scanned == pages_max:
                break
            page = page_ids[order[rank]]
            distance = distances[order[rank]]
            log_distance = np.log(distance)
            if rank >= PAGES_FIRST and log_bar < np.float32(np.inf):
                promise = _log_promise(
                    log_distance - log_bar, page_spreads[page] - log_bar, np.float32(rank), skip_terms
                )
                if promise < skip_below:
                    continue
            count = np.int64(row_counts[page])
            if rank + _AHEAD < size:
                coming = page_ids[order[rank + _AHEAD]]
                prefetch_page(row_codes, coming * codes_bytes, codes_bytes)
            for one in range(n_passes):
                scan_page(row_codes, page * codes_bytes, capacity, count, row_tables[one], sums[one])
            base = distance * scales[0] + scales[2]
            spread = np.exp(scales[1] * log_distance)
            for slot in range(count):
                chosen = row_factors[page, 1, slot]
                total = np.float32(sums[0, slot])
                if n_passes == 2:
                    total += np.float32(256) * np.float32(sums[1, slot])
                estimate = (
                    base
                    + scales[3] * np.float32(row_factors[page, 0, slot])
                    - np.float32(2) * shrinks[chosen] * (offset + step * total)
                )
                error = spreads[chosen] * spread
                if estimate - _REACH * error < bar[0]:
                    if page == excluded_pages[i] and slot == excluded_slots[i]:
                        continue
                    if estimate < bar[0]:
                        _lower_bar(bar, bar_size, estimate)
                    estimates[n_rows] = estimate
                    errors[n_rows] = error
                    owners[n_rows] = n_scanned
                    n_rows += 1
            out_pages[i, n_scanned] = page
            out_distances[i, n_scanned] = distance
            n_codes += count
            n_scanned += 1
            if n_scanned == PAGES_FIRST:
                # Infinite where the first pages hold fewer than 2k rows: then nothing is skipped.
                out_bars[i] = bar[0]
                log_bar = np.log(max(bar[0], np.float32(1e-12)))
        out_sizes[i] = n_scanned
        out_counts[i, 1] = n_codes

        # Half of each of the 2k rows below the bar is expected within it: the threshold can't lie beyond.
        high = bar[0]
        near = 0
        low = np.float32(np.inf)
        for r in range(n_rows):
            if estimates[r] - _REACH * errors[r] < high:
                near_estimates[near] = estimates[r]
                near_errors[near] = errors[r]
                near_owners[near] = owners[r]
                low = min(low, estimates[r] - _REACH * errors[r])
                near += 1
        if high == np.float32(np.inf):
            high = low
            for r in range(near):
                high = max(high, near_estimates[r] + _REACH * near_errors[r])
        threshold = solve_threshold(near_estimates, near_errors, near, k, low, high)
        out_thresholds[i] = threshold
        for rank in range(n_scanned):
            out_worths[i, rank] = np.float32(0)
        for r in range(near):
            out_worths[i, near_owners[r]] += normal_cdf((threshold - near_estimates[r]) / near_errors[r])


@kernel
def best_pages(  # type: ignore[no-untyped-def]
    pages,  # IN (nq, w) uint32
    worths,  # IN, SCRATCH (nq, w) float32: a page that is taken loses its worth
    sizes,  # IN (nq,) int64
    row_counts,  # IN (pages,) uint16
    hits_wanted,  # float64
    rows_least,
    out_pages,  # OUT (nq, w) uint32: pages taken, best first
    out_counts,  # OUT (nq,) int64
):
    """Take pages by falling worth, ties in their order, until worths and rows suffice; at least one.

    Few of many are taken, so each is found by looking at all that are left.
    """
    for i in range(pages.shape[0]):
        promised = np.float32(0)
        held = 0
        taken = 0
        while taken < sizes[i] and (taken == 0 or promised < hits_wanted or held < rows_least):
            best = 0
            for j in range(1, sizes[i]):
                if worths[i, j] > worths[i, best]:
                    best = j
            promised += worths[i, best]
            held += row_counts[pages[i, best]]
            out_pages[i, taken] = pages[i, best]
            worths[i, best] = np.float32(-1)
            taken += 1
        out_counts[i] = taken
