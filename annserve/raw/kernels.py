"""Distances of raw rows, in double precision."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import kernel

_IP = 1
_COSINE = 2


@kernel
def exact_distances(  # type: ignore[no-untyped-def]
    rows,  # IN (m, dim) float32
    queries,  # IN (nq, dim) float32
    query_of_row,  # IN (m,) int64
    metric,  # 0 l2, 1 ip, 2 cosine
    distances,  # OUT (m,) float64
):
    """Score each row for its query; sums run over a row in the same order, so equal rows are equally far."""
    for i in range(rows.shape[0]):
        row = rows[i]
        query = queries[query_of_row[i]]
        dot = np.float64(0)
        row_norm = np.float64(0)
        query_norm = np.float64(0)
        squares = np.float64(0)
        for j in range(row.shape[0]):
            x = np.float64(row[j])
            q = np.float64(query[j])
            dot += q * x
            row_norm += x * x
            query_norm += q * q
            squares += (q - x) * (q - x)
        if metric == _COSINE:
            distances[i] = 1.0 - dot / np.sqrt(query_norm * row_norm)
        elif metric == _IP:
            distances[i] = -dot
        else:
            distances[i] = squares
