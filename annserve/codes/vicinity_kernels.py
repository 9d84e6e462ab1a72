"""From a query to the vicinities that it reads, and from those to the worth of pages.

A query's heads come in ascending order, so its pages do too, and a row's page is found by bisection that goes on from
where the last one ended: rows of a vicinity lie in the order of their places.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.centroid_kernels import exact_distance, page_distances
from annserve.codes.kernels import nibble_tables, quantize_tables, scan_page
from annserve.codes.rating_kernels import REACH, lower_bar, settle
from annserve.codes.vicinity_layout import FLAG_VICINITY
from annserve.kernels.jit import inline_kernel, kernel
from annserve.storage.page_kernels import WHOLE, check_seal

#: What `rate_vicinities` found wrong with a vicinity, beside what a seal can say.
BAD_COUNT = 3
#: The page whose distance is the measure of how far vicinities are read; see `search.vicinity_plan`.
MEASURE_RANK = 4
_FREE = np.uint32(0xFFFF_FFFF)
_MIX = np.uint32(2_654_435_769)


@kernel
def near_pages(  # type: ignore[no-untyped-def]
    head_ids,  # IN (nq, h) int32, ascending; -1 where there is none, behind all others
    head_distances,  # IN (nq, h) float32: exact squared distance of the query to each head
    projected,  # IN (nq, m) float32: the query's components for page codes
    shifts,  # IN (nq,) float32: its inner product with the page codebook's mean
    page_offsets,  # IN (heads + 1,) uint32
    page_codes,  # IN (bytes + slack,) uint8, transposed by posting
    page_constants,  # IN (pages,) float32
    page_spreads,  # IN (pages,) float32
    fields,  # IN tuple of the page codebook's field arrays
    scratch,  # SCRATCH tuple, see `annserve.codes.vicinities.Surveyor`
    out_nibbles,  # OUT (nq, 2 b, 16) float32: tables of page codes
    out_pages,  # OUT (nq, w) uint32: all pages of the heads, ascending
    out_places,  # OUT (nq, w) int32: place of each page's head among the heads
    out_distances,  # OUT (nq, w) float32: squared distances of their decoded centroids, rounded as by 8-bit tables
    out_sizes,  # OUT (nq,) int64
    out_measures,  # OUT (nq,) float32: distance of the `MEASURE_RANK`-th nearest page, or of the farthest
):
    """Find the distance of every page of each query's heads."""
    tables, sums, spreads, measure = scratch
    for i in range(head_ids.shape[0]):
        nibble_tables(projected[i], fields, out_nibbles[i])
        step, offset = quantize_tables(out_nibbles[i], tables)
        size = page_distances(
            head_ids[i],
            head_distances[i],
            offset + shifts[i],
            step,
            page_offsets,
            page_codes,
            page_constants,
            page_spreads,
            tables[0],
            sums,
            out_pages[i],
            out_places[i],
            out_distances[i],
            spreads,
        )
        measure[:] = np.float32(np.inf)
        farthest = np.float32(0)
        for p in range(size):
            distance = out_distances[i, p]
            farthest = max(farthest, distance)
            if distance < measure[0]:
                lower_bar(measure, MEASURE_RANK, distance)
        out_sizes[i] = size
        out_measures[i] = min(measure[0], farthest)


@inline_kernel
def _take_once(table, mask, place):  # type: ignore[no-untyped-def]
    """Enter a place into a table of open addresses; say whether it wasn't there yet."""
    at = np.int64((np.uint32(place) * _MIX) >> np.uint32(7)) & mask
    while table[at] != _FREE:
        if table[at] == np.uint32(place):
            return False
        at = (at + 1) & mask
    table[at] = np.uint32(place)
    return True


@inline_kernel
def _find(pages, first, size, page):  # type: ignore[no-untyped-def]
    """Give the first of ``pages[first:size]``, ascending, that isn't below `page`."""
    low = first
    high = size
    while low < high:
        middle = (low + high) >> 1
        if np.int64(pages[middle]) < page:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def rate_vicinities(  # type: ignore[no-untyped-def]
    frames,  # IN (bytes,) uint8: vicinities as read, end to end
    frames_u8,  # IN the same memory, (f, page_bytes)
    frames_u32,  # IN the same memory
    frame_pages,  # IN (p,) uint32: frame i holds the vicinity of page frame_pages[i]
    frame_offsets,  # IN (nq + 1,) int64: frames of each query
    layout,  # IN tuple of int: capacity, page_capacity, codes_offset, factors_offset
    salt,
    projected,  # IN (nq, m) float32: the query's components for row codes
    shifts,  # IN (nq,) float32
    fields,  # IN tuple of the row codebook's field arrays
    shrinks,  # IN (256,) float32
    spreads,  # IN (256,) float32
    scales,  # IN (4,) float32: distance scale, spread power, least constant, step of constants
    pages,  # IN (nq, w) uint32: the query's pages, ascending
    page_places,  # IN (nq, w) int32: place of each page's head among the heads
    distances,  # IN, OUT (nq, w) float32: their squared distances; made exact for pages that are looked at
    sizes,  # IN (nq,) int64
    exact,  # IN tuple of what makes them so: head ids, head distances, shifts, page offsets, codes, constants, tables
    excluded,  # IN (nq,) int64: place of a row that isn't to be counted, or -1
    k,
    scratch,  # SCRATCH tuple, see `annserve.codes.vicinities.Surveyor`
    out_worths,  # OUT (nq, w) float32: expected hits by page; -1 where no row of it was looked at
    out_bars,  # OUT (nq,) float32: 2k-th smallest estimate
    out_thresholds,  # OUT (nq,) float32: estimated squared distance of the k-th nearest
    out_counts,  # OUT (nq,) int64: row codes looked at
    out_bad,  # OUT (1,) int64: frame of a bad vicinity
):
    """Rate pages by the hits that the rows in the query's vicinities promise; give what a seal says of the last."""
    nibbles, tables, sums, bar, seen, estimates, errors, owners = scratch
    capacity, page_capacity, codes_offset, factors_offset = layout
    head_ids, head_distances, page_shifts, page_offsets, page_codes, page_constants, page_nibbles = exact
    bar_size = min(2 * k, bar.shape[0])
    for i in range(pages.shape[0]):
        nibble_tables(projected[i], fields, nibbles)
        step, offset = quantize_tables(nibbles, tables)
        offset += shifts[i]
        bar[:bar_size] = np.float32(np.inf)
        mask = 64
        while mask < 2 * capacity * (frame_offsets[i + 1] - frame_offsets[i]):
            mask *= 2
        seen[:mask] = _FREE
        mask -= 1
        size = sizes[i]
        out_worths[i] = np.float32(-1)
        n_rows = 0
        n_codes = np.int64(0)
        for frame in range(frame_offsets[i], frame_offsets[i + 1]):
            own = frames_u32[frame]
            state = check_seal(frames_u8[frame], own, frame_pages[frame], salt)
            count = np.int64(own[2] & np.uint32(0xFFFF))
            if state == WHOLE and (count < 1 or count > capacity or own[2] >> np.uint32(16) != FLAG_VICINITY):
                state = BAD_COUNT
            if state != WHOLE:
                out_bad[0] = frame
                return state
            start = frame * frames_u8.shape[1]
            for one in range(tables.shape[0]):
                scan_page(frames, start + codes_offset, capacity, count, tables[one], sums[one])
            places = own[4:]
            constants = frames_u8[frame, factors_offset:]
            chosen = frames_u8[frame, factors_offset + capacity :]
            n_codes += count
            at = 0
            page = np.int64(-1)
            known = False
            base = np.float32(0)
            spread = np.float32(0)
            for row in range(count):
                place = np.int64(places[row])
                if place // page_capacity != page:
                    page = place // page_capacity
                    at = _find(pages[i], at, size, page)
                    # A row whose page isn't among the nearest heads' can't be estimated: it is far.
                    known = at < size and np.int64(pages[i, at]) == page
                    if known and out_worths[i, at] < 0:
                        out_worths[i, at] = np.float32(0)
                        distances[i, at] = exact_distance(
                            page,
                            head_ids[i, page_places[i, at]],
                            head_distances[i, page_places[i, at]],
                            page_shifts[i],
                            page_offsets,
                            page_codes,
                            page_constants,
                            page_nibbles[i],
                        )
                    if known:
                        base = distances[i, at] * scales[0] + scales[2]
                        spread = np.exp(scales[1] * np.log(distances[i, at]))
                if not known:
                    continue
                total = np.float32(sums[0, row])
                if tables.shape[0] == 2:
                    total += np.float32(256) * np.float32(sums[1, row])
                estimate = (
                    base
                    + scales[3] * np.float32(constants[row])
                    - np.float32(2) * shrinks[chosen[row]] * (offset + step * total)
                )
                error = spreads[chosen[row]] * spread
                if estimate - REACH * error < bar[0] and place != excluded[i] and _take_once(seen, mask, place):
                    if estimate < bar[0]:
                        lower_bar(bar, bar_size, estimate)
                    estimates[n_rows] = estimate
                    errors[n_rows] = error
                    owners[n_rows] = at
                    n_rows += 1
        out_counts[i] = n_codes
        out_bars[i] = bar[0]

        near = 0
        for r in range(n_rows):
            if estimates[r] - REACH * errors[r] < bar[0]:
                estimates[near] = estimates[r]
                errors[near] = errors[r]
                owners[near] = owners[r]
                near += 1
        out_thresholds[i] = settle(estimates, errors, owners, near, k, bar[0], out_worths[i])
    return WHOLE
