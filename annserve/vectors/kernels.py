"""Brute force: the exact nearest rows of each query, kept in a sorted list while rows stream by.

Loop order: a tile of rows that fits the second-level cache, then queries, then rows of the tile, so that rows
come from memory once per call and a query's elements stay in the first level. Rows must come in ascending id
over all calls; a row enters a list only if it is strictly nearer than the last one there, which makes ties go
to the smaller id without comparing ids.

Floats are compared in two steps: a float32 estimate with a bound of its rounding error decides whether the
float64 distance has to be computed. With u = 2⁻²⁴ a sum of d products in any order errs by at most about
(d + 2)·u times the sum of their magnitudes [1]; the callers pass that factor, rounded up.

References
----------
[1] Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, SIAM 2002, section 3.1.
"""

# mypy: allow-untyped-defs

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel

#: Bytes of rows in a tile: half of a common second-level cache.
_TILE_BYTES = 1 << 18


@inline_kernel
def _insert(row_ids, distances, row_id, distance):
    """Put a row into a sorted list behind all that are as near, dropping the last one."""
    i = distances.shape[0] - 1
    while i > 0 and distances[i - 1] > distance:
        distances[i] = distances[i - 1]
        row_ids[i] = row_ids[i - 1]
        i -= 1
    distances[i] = distance
    row_ids[i] = row_id


@kernel
def nearest_l2_integers(queries, rows, first_id, excluded, row_ids, distances):
    """Squared L2 in exact integers.

    queries    IN   (b, d) int16, from the type of the rows: differences fit 16 bits
    rows       IN   (m, d) uint8 or int8
    first_id   IN   id of rows[0]
    excluded   IN   (b,) int64: id that a query must not find, or -1
    row_ids    OUT  (b, k) int64, in the order of distances
    distances  OUT  (b, k) float64, ascending; infinity where nothing was found yet
    """
    n_rows, dim = rows.shape
    k = distances.shape[1]
    tile_rows = max(1, _TILE_BYTES // dim)
    for tile in range(0, n_rows, tile_rows):
        tile_end = min(tile + tile_rows, n_rows)
        for q in range(queries.shape[0]):
            farthest = distances[q, k - 1]
            for row in range(tile, tile_end):
                total = np.int32(0)
                for j in range(dim):
                    # The casts keep LLVM in 16-bit products and 32-bit sums: 7 ns for 128 bytes, 15 without.
                    step = np.int32(np.int16(queries[q, j] - np.int16(rows[row, j])))
                    total = np.int32(total + np.int32(step * step))
                if total < farthest and first_id + row != excluded[q]:
                    _insert(row_ids[q], distances[q], first_id + row, np.float64(total))
                    farthest = distances[q, k - 1]


@kernel
def nearest_l2_floats(queries, rows, first_id, excluded, error_share, row_ids, distances):
    """Squared L2 in float64, computed where a float32 estimate can't exclude the row.

    queries      IN   (b, d) float32
    rows         IN   (m, d) float32
    error_share  IN   float32: the estimate errs by at most this share of itself, as no term is negative
    others            as in nearest_l2_integers
    """
    n_rows, dim = rows.shape
    k = distances.shape[1]
    tile_rows = max(1, _TILE_BYTES // (4 * dim))
    for tile in range(0, n_rows, tile_rows):
        tile_end = min(tile + tile_rows, n_rows)
        for q in range(queries.shape[0]):
            farthest = distances[q, k - 1]
            for row in range(tile, tile_end):
                estimate = np.float32(0.0)
                for j in range(dim):
                    step = queries[q, j] - rows[row, j]
                    estimate += step * step
                if estimate * (1.0 - error_share) < farthest and first_id + row != excluded[q]:
                    total = 0.0
                    for j in range(dim):
                        exact_step = np.float64(queries[q, j]) - np.float64(rows[row, j])
                        total += exact_step * exact_step
                    if total < farthest:
                        _insert(row_ids[q], distances[q], first_id + row, total)
                        farthest = distances[q, k - 1]


@kernel
def nearest_dot(queries, rows, query_scales, row_scales, first_id, excluded, errors, offset, row_ids, distances):
    """Distance `offset` − scaled ⟨q, x⟩ in float64, computed where a float32 estimate can't exclude the row.

    queries       IN   (b, d) float32
    rows          IN   (m, d) float32
    query_scales  IN   (b,) float64: 1, or 1 / length of the query
    row_scales    IN   (m,) float64: 1, or 1 / length of the row
    errors        IN   (b,) float64: bound of the error of the scaled float32 product over these rows
    offset        IN   float64: 0 for the negated inner product, 1 for cosine distance
    others             as in nearest_l2_integers

    Distances are rounded to 12 decimals under cosine: parallel rows of different length tie there, and
    rounding errors must not order them.
    """
    n_rows, dim = rows.shape
    k = distances.shape[1]
    tile_rows = max(1, _TILE_BYTES // (4 * dim))
    for tile in range(0, n_rows, tile_rows):
        tile_end = min(tile + tile_rows, n_rows)
        for q in range(queries.shape[0]):
            farthest = distances[q, k - 1]
            scale = query_scales[q]
            for row in range(tile, tile_end):
                estimate = np.float32(0.0)
                for j in range(dim):
                    estimate += queries[q, j] * rows[row, j]
                nearest = offset - scale * row_scales[row] * estimate - errors[q]
                if nearest < farthest and first_id + row != excluded[q]:
                    dot = 0.0
                    for j in range(dim):
                        dot += np.float64(queries[q, j]) * np.float64(rows[row, j])
                    total = offset - scale * row_scales[row] * dot
                    if offset != 0.0:
                        total = np.rint(total * 1e12) / 1e12
                    if total < farthest:
                        _insert(row_ids[q], distances[q], first_id + row, total)
                        farthest = distances[q, k - 1]
