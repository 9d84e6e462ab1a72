"""A query's way from its vector to the pages that it reads, in one call.

The stages are those of ``heads.kernels`` and ``codes.rating_kernels``; what stands here decides between them: which
heads are passed over, and how much a query wants. A query is carried through all stages before the next one begins, so
that what one stage leaves for the next is still in the processor's cache.
"""

from __future__ import annotations

import numpy as np

from annserve.codes.rating_kernels import rate_query, take_best
from annserve.heads.kernels import HEAD_MASK, distance_to, nearest_keys
from annserve.kernels.bundle import unbundled
from annserve.kernels.clock import nanoseconds
from annserve.kernels.jit import inline_kernel, kernel

#: Heads that are never passed over; the others are measured against the mean of their distances.
NEAREST = 8
SMALLEST = np.float32(1e-12)
#: The page, by distance, that the nearest is compared with; the 5th, 10th, 50th and 100th did as well.
_FAR_PAGE = 20


@inline_kernel
def keep_heads(head_ids, distances, found, log_radii, log_ranks, terms, below):  # type: ignore[no-untyped-def]
    """Leave out heads whose postings promise fewer hits than `below` (a logarithm); give how many are left.

    The first `NEAREST` stay.

    Parameters
    ----------
    head_ids : (>= found,) int32, nearest first  # IN, OUT
    distances : (>= found,) float32  # IN, OUT
    log_radii : (heads,) float32  # IN
        Logarithm of each posting's squared radius.
    log_ranks : (>= found,) float32  # IN
        ln(1 + rank).
    terms : (8,) float32  # IN
        See ``search.head_skip``.
    below : float32
    """
    near = min(found, NEAREST)
    total = np.float32(0)
    for j in range(near):
        total += distances[j]
    log_near = np.log(max(total / np.float32(max(near, 1)), SMALLEST))
    kept = near
    for j in range(near, found):
        head = head_ids[j]
        distance = distances[j]
        x = np.log(max(distance, SMALLEST)) - log_near
        y = log_radii[head] - log_near
        promise = terms[0] + x * (terms[1] + terms[2] * x + terms[5] * y) + y * (terms[3] + terms[4] * y)
        promise += log_ranks[j] * (terms[6] + terms[7] * x)
        head_ids[kept] = head
        distances[kept] = distance
        kept += int(promise >= below)
    return kept


@kernel
def keep_heads_of_each(  # type: ignore[no-untyped-def]
    head_ids,  # IN, OUT (nq, w) int32; -1 where there is none, which comes last
    distances,  # IN, OUT (nq, w) float32
    log_radii,
    log_ranks,
    terms,
    below,
    out_sizes,  # OUT (nq,) int64
):
    """Do as `keep_heads` for each query; what is left out becomes -1."""
    for i in range(head_ids.shape[0]):
        found = 0
        while found < head_ids.shape[1] and head_ids[i, found] >= 0:
            found += 1
        kept = keep_heads(head_ids[i], distances[i], found, log_radii, log_ranks, terms, below)
        head_ids[i, kept:] = -1
        distances[i, kept:] = np.float32(0)
        out_sizes[i] = kept


@inline_kernel
def _evenness(distances, size):  # type: ignore[no-untyped-def]
    far = min(max(size, 1), _FAR_PAGE) - 1
    share = np.float64(distances[0]) / max(np.float64(distances[far]), 1e-30)
    return min(max(share, 0.0), 1.0)


@kernel
def evenness_of_each(distances, sizes, out):  # type: ignore[no-untyped-def]
    """Give the squared distance of each query's nearest page as a share of that of its 20th, or of the last.

    Parameters
    ----------
    distances : (nq, w) float32, w >= 1  # IN
    sizes : (nq,) int64  # IN
    out : (nq,) float64  # OUT
    """
    for i in range(sizes.shape[0]):
        out[i] = _evenness(distances[i], sizes[i])


@inline_kernel
def _interpolate(at, points, values):  # type: ignore[no-untyped-def]
    """Give the value between two points, linearly; constant beyond the ends. Points ascend."""
    last = points.shape[0] - 1
    if at <= points[0]:
        return values[0]
    if at >= points[last]:
        return values[last]
    right = 1
    while points[right] <= at:
        right += 1
    slope = (values[right] - values[right - 1]) / (points[right] - points[right - 1])
    return slope * (at - points[right - 1]) + values[right - 1]


#: What `choose_pages` takes as a bundle: the neighbours of heads, and each posting's radius as the logarithm of its
#: square; the tiers (``Rater.tiers``); what a plan says (``choose_codes.Effort.arrays``); and scratch: of a walk
#: (``WalkScratch.arrays``), of a rating (``Rater.scratch``), of a choice (``choose_codes.Scratch``).
KINDS = (
    "u4:1 f4:1 "
    "(f4:1 ((f4:2 f4:1 f4:1) (i4:1 i4:1 f4:2) u4:1 u1:1 f4:1 f4:1) "
    "((f4:2 f4:1 f4:1) (i4:1 i4:1 f4:2) u2:1 u1:1 u1:3 f4:1 f4:1 f4:1)) "
    "(f4:1 f4:1 f8:1 f8:1 f8:1) "
    "(u4:1 i8:1 i8:1 i2:1 i8:1) "
    "((f4:1 f4:2 u1:3 u2:1 f4:2 u1:3 u2:2 i4:1 f4:1) (u4:1 i4:1 f4:1 f4:1 i4:1 f4:1 f4:1 f4:1) "
    "(f4:1 f4:1 f4:1 f4:1 i4:1)) "
    "(i4:1 f4:1 u4:1 f4:1 f4:1 i8:1 f4:1 i8:1)"
)


@kernel
def choose_pages(  # type: ignore[no-untyped-def]
    queries,  # IN (nq, d) float32: in the index space
    vectors,  # IN uint8 or int8 view of the nodes
    bundle,  # IN, SCRATCH: `KINDS`
    stamp,  # int: this and the next nq − 1 aren't used in the walk's scratch yet
    out_pages,  # OUT (>= all that are chosen,) uint32: ascending for each query
    out_offsets,  # OUT (nq + 1,) int64
    out_counts,  # OUT (2, nq) int64: head distances computed, codes looked at
    out_nanoseconds,  # OUT (3,) int64: of navigation, of rating, of choosing
):
    """Choose the pages of each query: nearest heads, those that promise enough, their pages' worth, the best pages."""
    neighbours, log_radii, tiers, effort, walk, rating, chosen = unbundled(bundle, KINDS)
    skip_terms, head_terms, points, expected, numbers = effort
    heads_wanted, scan, k, pages_max = (
        np.int64(numbers[0]),
        numbers[1] != 0,
        np.int64(numbers[2]),
        np.int64(numbers[3]),
    )
    skip_below, head_below, enough = np.float32(numbers[4]), np.float32(numbers[5]), numbers[6]
    nodes = (
        neighbours,
        vectors,
        np.int64(numbers[7]),
        numbers[8],
        np.int64(numbers[9]),
        np.int64(numbers[10]),
        np.int64(numbers[11]),
        np.int64(numbers[12]),
        np.int64(numbers[13]),
        np.int64(numbers[14]),
    )
    head_ids, head_distances, pages, worths, distances, columns, kept, now = chosen
    keys = walk[4]
    log_ranks = rating[1][7]
    row_counts = tiers[2][2]
    out_offsets[0] = 0
    out_nanoseconds[:] = 0
    for i in range(queries.shape[0]):
        query = queries[i]
        begun = nanoseconds(now)
        found, out_counts[0, i] = nearest_keys(query, nodes, heads_wanted, scan, np.uint32(stamp + i), walk)
        for j in range(found):
            head = keys[j] & HEAD_MASK
            head_ids[j] = head
            head_distances[j] = distance_to(query, head, nodes)
        found = keep_heads(head_ids, head_distances, found, log_radii, log_ranks, head_terms, head_below)
        navigated = nanoseconds(now)
        size, _, _, page_codes, row_codes = rate_query(
            query,
            head_ids[:found],
            head_distances[:found],
            tiers,
            np.int64(-1),
            np.int64(-1),
            k,
            pages_max,
            skip_terms,
            skip_below,
            rating,
            pages,
            worths,
            distances,
        )
        rated = nanoseconds(now)
        hits_wanted = k * _interpolate(_evenness(distances, size), points, expected)
        first = out_offsets[i]
        out_offsets[i + 1] = first + take_best(
            pages, worths, size, row_counts, hits_wanted, enough, k, columns, kept, first, out_pages
        )
        out_counts[1, i] = page_codes + row_codes
        out_nanoseconds[0] += navigated - begun
        out_nanoseconds[1] += rated - navigated
        out_nanoseconds[2] += nanoseconds(now) - rated
