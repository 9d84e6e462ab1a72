"""Poisson regression: the log of expected hits as a linear form of a few features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

#: Fewer hits than this teach nothing.
_HITS_LEAST = 100
_ROUNDS = 100
#: Rows looked at at a time: as float64 they stay in the processor's cache.
_BLOCK_ROWS = 4_096


def fit_log_hits(designs: Sequence[npt.NDArray[Any]], hits: Sequence[npt.NDArray[Any]]) -> F64:
    """Fit by Newton's method with bounded steps and a slight pull to zero.

    Parameters
    ----------
    designs : sequence of (n, m) arrays
        Features, block by block; the first is 1.
    hits : sequence of (n,) arrays
        Counts.

    Returns
    -------
    (m,) float64
        Weights; where hits are too few to learn from, such as promise much everywhere.
    """
    size = designs[0].shape[1]
    total, count = sum(float(block.sum()) for block in hits), sum(map(len, hits))
    if total < _HITS_LEAST:
        return np.array([1e9] + [0.0] * (size - 1))
    scale = np.max([np.abs(block).max(axis=0) for block in designs if len(block)], axis=0).astype(np.float64)
    scale[scale == 0] = 1
    blocks = [
        (design[first : first + _BLOCK_ROWS], found[first : first + _BLOCK_ROWS])
        for design, found in zip(designs, hits)
        for first in range(0, len(found), _BLOCK_ROWS)
    ]
    weights = np.zeros(size)
    weights[0] = np.log(total / count)
    for _ in range(_ROUNDS):
        slope, curvature = np.zeros(size), np.zeros((size, size))
        for design, found in blocks:
            scaled = design / scale
            expected = np.exp(np.clip(scaled @ weights, -20, 3))
            slope += scaled.T @ (found - expected)
            curvature += (scaled * expected[:, None]).T @ scaled
        curvature[np.diag_indices(size)] += 1e-6 * np.trace(curvature) / size
        step = np.linalg.solve(curvature, slope)
        weights += step * min(1.0, 2 / np.abs(step).max())
        if np.abs(step).max() < 1e-7:
            break
    # Rounded, so that the last digits of sums, which threads may change, don't show in the plan.
    return np.asarray(np.round(weights / scale, 3))
