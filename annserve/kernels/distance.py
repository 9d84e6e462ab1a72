"""Integer distances between a query and a stored row, exact whatever the dimension.

A query is int16, a row is uint8 or int8; sums run in int32 over blocks of 256 elements (256 · 255 · 32,767 <
2³¹) and drain into int64, so nothing overflows. Blocks are taken as slices: an index with an offset added keeps
numba's check for negative indices in the loop, and LLVM from vectorizing it (20 times slower, measured).
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel

_BLOCK = 256


@inline_kernel
def dot_and_norm(query, rows, start, dim):  # type: ignore[no-untyped-def]
    """Inner product with the query, and squared norm, of the row at ``rows[start : start + dim]``.

    Parameters
    ----------
    query : (dim,) int16, C-contiguous  # IN
    rows : (m,) uint8 or int8, C-contiguous  # IN
    start, dim : int

    Returns
    -------
    (dot, norm) : int64, int64
    """
    dot = np.int64(0)
    norm = np.int64(0)
    for begin in range(0, dim, _BLOCK):
        size = min(_BLOCK, dim - begin)
        q = query[begin : begin + size]
        row = rows[start + begin : start + begin + size]
        block_dot = np.int32(0)
        block_norm = np.int32(0)
        for j in range(size):
            x = np.int32(row[j])
            block_dot = np.int32(block_dot + np.int32(np.int32(q[j]) * x))
            block_norm = np.int32(block_norm + np.int32(x * x))
        dot += block_dot
        norm += block_norm
    return dot, norm


@inline_kernel
def squared_l2(query, rows, start, dim):  # type: ignore[no-untyped-def]
    """Squared L2 distance of the query to the row at ``rows[start : start + dim]``.

    Parameters
    ----------
    query : (dim,) int16, C-contiguous, |q| <= 2,500 (256 · 2,755² < 2³¹); or a row  # IN
    rows : (m,) uint8 or int8, C-contiguous  # IN
    start, dim : int

    Returns
    -------
    distance : int64
    """
    total = np.int64(0)
    for begin in range(0, dim, _BLOCK):
        size = min(_BLOCK, dim - begin)
        q = query[begin : begin + size]
        row = rows[start + begin : start + begin + size]
        block = np.int32(0)
        for j in range(size):
            diff = np.int32(np.int32(q[j]) - np.int32(row[j]))
            block = np.int32(block + np.int32(diff * diff))
        total += block
    return total
