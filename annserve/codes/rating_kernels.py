"""From a query's heads to the worth of pages: page codes, row codes, expected hits, all in RAM.

Loop order: pages by rising distance of their decoded centroid (``centroid_kernels``), then the rows of a page in the
order of their slots; codes and factors are read in sequence within a page.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.centroid_kernels import exact_distance, order_by_distance, page_distances, project_query
from annserve.codes.kernels import largest_of, nibble_tables, quantize_tables, scan_page
from annserve.kernels.expected import normal_cdf, solve_threshold
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import prefetch

#: A row whose estimate exceeds the threshold by this many of its errors can't be expected to be a hit.
REACH = np.float32(4)
#: Codes are asked of memory so many pages ahead: 4 halved the time of scattered pages, 8 gave no more.
_AHEAD = 4
#: Pages after which the threshold is known well enough to skip pages by (within 3 to 9 %, measured).
PAGES_FIRST = 32


@inline_kernel
def _log(x):  # type: ignore[no-untyped-def]
    """Give ln x of a positive float32, off by less than 2e-5: the exponent, and a polynomial in the mantissa."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> 23) - 127)
    m = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1)
    high = np.float32(0.28782629) + m * (np.float32(-0.13413543) + m * np.float32(0.03137759))
    return np.float32(0.6931472) * exponent + m * (np.float32(0.99943498) + m * (np.float32(-0.49134793) + m * high))


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

    A Poisson regression fitted in calibration (``calibrate.reads``) on the page's log distance and log spread,
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


@inline_kernel
def _scale_of(distance, scales):  # type: ignore[no-untyped-def]
    """Give what a page's distance multiplies its rows' spreads by."""
    return np.exp(scales[1] * np.log(distance))


@inline_kernel
def settle(estimates, errors, owners, size, k, bar, worths):  # type: ignore[no-untyped-def]
    """Find the distance within which `k` rows are expected, and add what each row promises to its page's worth.

    Half of each of the 2k rows below the bar is expected within it: the threshold can't lie beyond.

    Parameters
    ----------
    estimates, errors : (>= size,) float32  # IN
        Of the rows that may lie below the bar.
    owners : (>= size,) int32  # IN
        Place of each row's page.
    bar : float32
        2k-th smallest estimate; infinite where there are fewer rows.
    worths : (pages,) float32  # IN, OUT
    """
    low = np.float32(np.inf)
    high = np.float32(-np.inf)
    for r in range(size):
        low = min(low, estimates[r] - REACH * errors[r])
        high = max(high, estimates[r] + REACH * errors[r])
    if size == 0 or bar < high:
        high = bar
    threshold = solve_threshold(estimates, errors, size, k, low, high)
    for r in range(size):
        worths[owners[r]] += normal_cdf((threshold - estimates[r]) / errors[r])
    return threshold


@inline_kernel
def rate_query(  # type: ignore[no-untyped-def]
    query,  # IN (d,) float32: in the index space
    head_ids,  # IN (h,) int32, nearest first; -1 where there is none
    head_distances,  # IN (h,) float32: exact squared distance to each head
    tiers,  # IN tuple, see `annserve.codes.rate.Rater`
    excluded_page,  # page and slot of a row that isn't to be counted, or -1
    excluded_slot,
    k,
    pages_max,  # most pages whose row codes are scanned
    skip_terms,  # IN (8,) float32: log expected hits of a page, see `_keep_promising`
    skip_below,  # float32: pages that promise less (log) aren't scanned, after the first few
    scratch,  # SCRATCH tuples, see `annserve.codes.rate.Rater`
    out_pages,  # OUT (w,) uint32: pages whose rows were scanned, in the order of their distance
    out_worths,  # OUT (w,) float32
    out_distances,  # OUT (w,) float32: squared distances of their decoded centroids
):
    """Rate pages by the hits that their rows' codes promise.

    Returns
    -------
    size : int
        Pages rated.
    bar : float32
        2k-th smallest estimate on the first pages.
    threshold : float32
        Estimated squared distance of the k-th nearest.
    page_codes, row_codes : int
        Codes looked at.
    """
    origin, page_tier, row_tier = tiers
    page_axes, page_fields, page_offsets, page_codes, page_constants, page_spreads = page_tier
    row_axes, row_fields, row_counts, row_codes, row_factors, shrinks, spreads, scales = row_tier
    tables, near_pages, rows = scratch
    components, page_nibbles, page_tables, page_sums, row_nibbles, row_tables, row_sums, starts, bar = tables
    page_ids, places, distances, near_spreads, order, promises, slopes, log_ranks = near_pages
    page_nearest, estimates, near_estimates, near_errors, near_owners = rows
    capacity = row_factors.shape[2]
    n_passes = row_tables.shape[0]
    codes_bytes = row_tables.shape[1] // 2 * capacity
    bar_size = min(2 * k, bar.shape[0])
    widest = largest_of(spreads)

    page_shift = project_query(query, origin, page_axes, components)
    nibble_tables(components, page_fields, page_nibbles)
    step, offset = quantize_tables(page_nibbles, page_tables)
    size = page_distances(
        head_ids,
        head_distances,
        offset + page_shift,
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
    n_codes = size
    order_by_distance(distances, size, starts, order)

    row_shift = project_query(query, origin, row_axes, components)
    nibble_tables(components, row_fields, row_nibbles)
    step, offset = quantize_tables(row_nibbles, row_tables)
    offset += row_shift
    bar[:bar_size] = np.float32(np.inf)
    first_bar = np.float32(np.inf)
    closest = np.float32(np.inf)
    farthest = np.float32(1e-12)
    n_rows = 0
    n_scanned = 0
    while n_scanned < min(size, pages_max):
        page = np.int64(page_ids[order[n_scanned]])
        place = places[order[n_scanned]]
        distance = exact_distance(
            page,
            head_ids[place],
            head_distances[place],
            page_shift,
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
        if page == excluded_page and excluded_slot < count:
            own[excluded_slot] = np.float32(np.inf)
        if nearest < bar[0]:
            for slot in range(count):
                if own[slot] < bar[0]:
                    lower_bar(bar, bar_size, own[slot])
        out_pages[n_scanned] = page
        out_distances[n_scanned] = distance
        page_nearest[n_scanned] = nearest
        closest = min(closest, distance)
        farthest = max(farthest, distance)
        n_rows += int(count)
        n_scanned += 1
        if n_scanned == PAGES_FIRST:
            # Infinite where the first pages hold fewer than 2k rows: then nothing is skipped.
            first_bar = bar[0]
            if first_bar < np.float32(np.inf):
                size = _keep_promising(
                    distances,
                    near_spreads,
                    order,
                    PAGES_FIRST,
                    size,
                    np.log(max(first_bar, np.float32(1e-12))),
                    skip_terms,
                    skip_below,
                    log_ranks,
                    promises,
                    slopes,
                )

    # Errors grow or fall with the distance of a page, so they are largest at one of its ends; with room for rounding.
    largest = max(_scale_of(closest, scales), _scale_of(farthest, scales))
    hopeless = bar[0] + REACH * widest * largest
    hopeless += np.float32(1e-4) * abs(hopeless)
    near = 0
    row = 0
    for rank in range(n_scanned):
        page = np.int64(out_pages[rank])
        out_worths[rank] = np.float32(0)
        count = np.int64(row_counts[page])
        if page_nearest[rank] > hopeless:
            row += int(count)
            continue
        reach = REACH * _scale_of(out_distances[rank], scales)
        chosen = row_factors[page, 1]
        for slot in range(count):
            estimate = estimates[row]
            row += 1
            if estimate - reach * widest < bar[0] and estimate < np.float32(np.inf):
                error = reach * spreads[chosen[slot]]
                if estimate - error < bar[0]:
                    near_estimates[near] = estimate
                    near_errors[near] = error / REACH
                    near_owners[near] = rank
                    near += 1
    threshold = settle(near_estimates, near_errors, near_owners, near, k, bar[0], out_worths)
    return n_scanned, first_bar, threshold, n_codes, n_rows


@kernel
def rate_pages(  # type: ignore[no-untyped-def]
    queries,  # IN (nq, d) float32
    head_ids,  # IN (nq, h) int32
    head_distances,  # IN (nq, h) float32
    tiers,
    excluded,  # IN (nq, 2) int64
    k,
    pages_max,
    skip_terms,
    skip_below,
    scratch,
    out_pages,  # OUT (nq, w) uint32
    out_worths,  # OUT (nq, w) float32
    out_distances,  # OUT (nq, w) float32
    out_sizes,  # OUT (nq,) int64
    out_bars,  # OUT (nq,) float32
    out_thresholds,  # OUT (nq,) float32
    out_counts,  # OUT (nq, 2) int64
):
    """Do as `rate_query` for each query."""
    for i in range(queries.shape[0]):
        out_sizes[i], out_bars[i], out_thresholds[i], out_counts[i, 0], out_counts[i, 1] = rate_query(
            queries[i],
            head_ids[i],
            head_distances[i],
            tiers,
            excluded[i, 0],
            excluded[i, 1],
            k,
            pages_max,
            skip_terms,
            skip_below,
            scratch,
            out_pages[i],
            out_worths[i],
            out_distances[i],
        )


@inline_kernel
def take_best(  # type: ignore[no-untyped-def]
    pages,  # IN (>= size,) uint32
    worths,  # IN (>= size,) float32; changed meanwhile
    size,
    row_counts,  # IN (pages,) uint16
    hits_wanted,  # float64: what worths must add up to
    worth_enough,  # float64: a page worth more is taken in any case
    rows_least,
    columns,  # SCRATCH (>= size,) int64
    kept,  # SCRATCH (>= size,) float32
    first,  # where to begin in out_pages
    out_pages,  # OUT (>= first + size,) uint32: ascending
):
    """Take pages by falling worth, ties in their order, until worths and rows suffice; at least one; give how many.

    Few of many are taken, so each is found by looking at all that are left.
    """
    promised = np.float32(0)
    held = 0
    taken = 0
    while taken < size:
        enough = taken > 0 and promised >= hits_wanted and held >= rows_least
        if enough and worth_enough == np.inf:
            break
        best = 0
        worth = worths[0]
        for j in range(1, size):
            if worths[j] > worth:
                best = j
                worth = worths[j]
        if enough and worth <= worth_enough:
            break
        page = pages[best]
        promised += worth
        held += row_counts[page]
        columns[taken] = best
        kept[taken] = worth
        worths[best] = np.float32(-1)
        place = first + taken
        while place > first and out_pages[place - 1] > page:
            out_pages[place] = out_pages[place - 1]
            place -= 1
        out_pages[place] = page
        taken += 1
    for j in range(taken):
        worths[columns[j]] = kept[j]
    return taken


@kernel
def best_pages(  # type: ignore[no-untyped-def]
    pages,  # IN (nq, w) uint32
    worths,  # IN (nq, w) float32; changed while a query is looked at
    sizes,  # IN (nq,) int64
    row_counts,
    hits_wanted,  # IN (nq,) float64
    worth_enough,
    rows_least,
    columns,
    kept,
    out_pages,  # OUT (>= all that are taken,) uint32: ascending for each query
    out_offsets,  # OUT (nq + 1,) int64
):
    """Do as `take_best` for each query."""
    out_offsets[0] = 0
    for i in range(pages.shape[0]):
        out_offsets[i + 1] = out_offsets[i] + take_best(
            pages[i],
            worths[i],
            sizes[i],
            row_counts,
            hits_wanted[i],
            worth_enough,
            rows_least,
            columns,
            kept,
            out_offsets[i],
            out_pages,
        )
