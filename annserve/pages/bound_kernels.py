"""Limits of the true distances behind INT8 rows, and which rows those limits leave undecided.

A row x lies at e or less from its stored row x̂, and (least-squares scale, or unit length) almost all of x − x̂
is perpendicular to x̂. So a distance is off by the inner product of x − x̂ with q⊥, the part of the query that is
perpendicular to x̂, and |⟨q⊥, x − x̂⟩| ≤ |q⊥| · e:

=======  ====================================  ===============================================
metric   distance expected, given e            limits
=======  ====================================  ===============================================
l2       |q − x̂|² + e²                         ± 2 |q⊥| e
ip       −⟨q, x̂⟩                               ± |q⊥| e
cosine   1 − cos(q, x̂) · √(1 − e²)             ± sin(q, x̂) · e
=======  ====================================  ===============================================

To them comes what rounding does: of the query to int16, of a scale to float32, of double precision. A limit that
is true in the worst case is some √dim times the typical error; a `share` of it below 1 trades certainty for width.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.distance import dot_and_norm
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.topk import push_distinct

_IP = 1
_COSINE = 2

#: Rounding of sums and products in double precision, relative to the largest term, generously.
_EPSILON = 1e-14
#: Rounding of a scale to float32: relative, and absolute where it is subnormal.
_SCALE_ROUNDING = 1.2e-7
_SCALE_LEAST = 3e-45


@inline_kernel
def limits_of(dot, norm, scale, error, query_scale, query_norm, query_error, metric, share):  # type: ignore[no-untyped-def]
    """Give (lowest, highest) true distance of a row from what its stored row tells.

    Parameters
    ----------
    dot, norm : int64
        Inner product of the query's and the row's integers, squared norm of the row's.
    scale, error : float64
        The row's scale, and e.
    query_scale, query_norm : float64
        The query's scale, and squared norm of its integers.
    query_error : float64
        How far the integers are from the query (under cosine: their directions from each other), rounded up.
    metric : int
    share : float64
        Share of the worst case of ⟨q⊥, x − x̂⟩ to allow for, 0 … 1; at 1 the limits always hold.
    """
    q_square = query_scale * query_scale * query_norm
    x_square = scale * scale * np.float64(norm)
    inner = query_scale * scale * np.float64(dot)
    if metric == _COSINE:
        cosine = 0.0
        if norm > 0 and query_norm > 0:
            cosine = np.float64(dot) / np.sqrt(query_norm * np.float64(norm))
        error = min(error, 1.0)
        along = np.sqrt(1.0 - error * error)
        slack = query_error + _EPSILON
        half = share * error * np.sqrt(max(1.0 - cosine * cosine, 0.0) + _EPSILON)
        highest = 1.0 - (cosine * along - half) + slack
        lowest = 1.0 - (cosine * along + half) - slack
        if share >= 1.0 and cosine >= along:
            lowest = -slack
        if share >= 1.0 and cosine <= -along:
            highest = 2.0 + slack
        return lowest, highest
    parallel = 0.0
    if norm > 0:
        parallel = query_scale * np.float64(dot) / np.sqrt(np.float64(norm))
    across = np.sqrt(max(q_square - parallel * parallel, 0.0) + _EPSILON * q_square)
    along = _SCALE_ROUNDING * np.sqrt(x_square) + _SCALE_LEAST * np.sqrt(np.float64(norm))
    slack = _EPSILON * (q_square + x_square + error * error)
    if metric == _IP:
        slack += np.abs(parallel) * along + query_error * (np.sqrt(x_square) + error)
        half = share * across * error + slack
        return -inner - half, -inner + half
    square = q_square + x_square - 2.0 * inner
    slack += 2.0 * np.abs(parallel - np.sqrt(x_square)) * along
    half = 2.0 * share * across * error + slack
    lowest = square + error * error - half
    if share >= 1.0 and error > across:
        # The true error may be smaller, and then the row nearer.
        lowest = square - across * across - slack
    lowest = max(np.sqrt(max(lowest, 0.0)) - query_error, 0.0)
    highest = np.sqrt(square + error * error + half) + query_error
    return lowest * lowest * (1.0 - _EPSILON), highest * highest * (1.0 + _EPSILON)


@kernel
def find_candidates(  # type: ignore[no-untyped-def]
    frames_u32,  # IN (f, page_bytes / 4) uint32: pages as read and checked
    frames_u64,  # IN the same memory
    frames_f32,  # IN the same memory
    frames_rows,  # IN the same memory as uint8 or int8
    page_ids,  # IN (p,) uint32: frame i holds page page_ids[i]
    first,  # look at frames first … stop − 1
    stop,
    capacity,
    dim,
    ids_offset,  # bytes
    factors_offset,  # bytes; 0 where rows carry no factors
    rows_offset,  # bytes
    query,  # IN (dim,) int16
    query_scale,  # float64
    query_norm,  # float64, of the integers
    query_error,  # float64, see limits_of
    metric,  # 0 l2, 1 ip, 2 cosine
    share,  # float64, see limits_of
    k,
    lows,  # SCRATCH (rows of the frames,) float64
    highs,  # SCRATCH the same
    heap_limits,  # SCRATCH (k + 1,) float64
    heap_ids,  # SCRATCH (k + 1,) uint64
    ids,  # OUT (rows of the frames,) uint64
    places,  # OUT the same, int64: page · capacity + slot
    distances,  # OUT the same, float64: expected
    decided,  # OUT the same, bool: among the k nearest in any case
):
    """Give the number of rows that may be among the k nearest; they are written in the order of their places."""
    n = 0
    size = 0
    for frame in range(first, stop):
        n_rows = np.int64(frames_u32[frame, 2] & np.uint32(0xFFFF))
        for slot in range(n_rows):
            dot, norm = dot_and_norm(query, frames_rows[frame], rows_offset + slot * dim, dim)
            scale = np.float64(1.0)
            error = np.float64(0.0)
            if factors_offset:
                scale = np.float64(frames_f32[frame, factors_offset // 4 + slot])
                error = np.float64(frames_f32[frame, factors_offset // 4 + capacity + slot])
            low, high = limits_of(dot, norm, scale, error, query_scale, query_norm, query_error, metric, share)
            lows[n] = low
            highs[n] = high
            ids[n] = frames_u64[frame, ids_offset // 8 + slot]
            places[n] = np.int64(page_ids[frame]) * capacity + slot
            size = push_distinct(heap_limits, heap_ids, size, k, high, ids[n])
            n += 1
    # The k-th smallest of the highest, and the (k + 1)-th smallest of the lowest distances.
    worst_of_k = heap_limits[0] if size == k else np.inf
    size = 0
    for i in range(n):
        size = push_distinct(heap_limits, heap_ids, size, k + 1, lows[i], ids[i])
    best_of_others = heap_limits[0] if size == k + 1 else np.inf
    kept = 0
    for i in range(n):
        if lows[i] <= worst_of_k:
            ids[kept] = ids[i]
            places[kept] = places[i]
            distances[kept] = 0.5 * (lows[i] + highs[i])
            decided[kept] = highs[i] < best_of_others
            kept += 1
    return kept
