"""Poisson regression: the log of expected hits as a linear form of a few features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

#: Fewer hits than this teach nothing.
_HITS_LEAST = 100
_ROUNDS = 100


def fit_log_hits(design: F64, hits: F64) -> F64:
    """Fit by Newton's method with bounded steps and a slight pull to zero.

    Parameters
    ----------
    design : (n, m) float64
        Features; the first is 1.
    hits : (n,) float64
        Counts.

    Returns
    -------
    (m,) float64
        Weights; where hits are too few to learn from, such as promise much everywhere.
    """
    size = design.shape[1]
    if hits.sum() < _HITS_LEAST:
        return np.array([1e9] + [0.0] * (size - 1))
    scale = np.abs(design).max(axis=0)
    scale[scale == 0] = 1
    scaled = design / scale
    weights = np.zeros(size)
    weights[0] = np.log(hits.mean())
    for _ in range(_ROUNDS):
        expected = np.exp(np.clip(scaled @ weights, -20, 3))
        slope = scaled.T @ (hits - expected)
        curvature = (scaled * expected[:, None]).T @ scaled
        curvature[np.diag_indices(size)] += 1e-6 * np.trace(curvature) / size
        step = np.linalg.solve(curvature, slope)
        weights += step * min(1.0, 2 / np.abs(step).max())
        if np.abs(step).max() < 1e-7:
            break
    # Rounded, so that the last digits of sums, which threads may change, don't show in the plan.
    return np.asarray(np.round(weights / scale, 3))
