"""Interpolation between the points that calibration found: in k, in recall target, in difficulty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def at_request(ks: npt.NDArray[np.int64], targets: F64, values: F64, k: int, recall_target: float) -> F64:
    """Give what calibration found for this k and target.

    Linear in log k, beyond the last k too, and in log(1 − target).

    Parameters
    ----------
    ks : (a,) int64, ascending
    targets : (b,) float64, ascending
    values : (a, b, …) float64

    Returns
    -------
    (…) float64
    """
    by_target = _along(np.log(ks), values, float(np.log(k)), extrapolate=True)
    return _along(-np.log1p(-targets), by_target, float(-np.log1p(-recall_target)), extrapolate=False)


def heads_at(ks: npt.NDArray[np.int64], targets: F64, heads: F64, k: int, recall_target: float, n_heads: int) -> int:
    """Give the whole heads that this k and target take, 1 … n_heads; as `at_request`, of their logarithm."""
    log_heads = at_request(ks, targets, np.log(heads), k, recall_target)
    return int(np.clip(np.ceil(np.exp(log_heads) - 1e-9), 1, n_heads))


def expected_at(ks: npt.NDArray[np.int64], targets: F64, expected: F64, k: int, recall_target: float) -> F64:
    """Give the expected recall for this k and target, 0 … 1; as `at_request`, of the logarithm of what is missed."""
    log_missed = at_request(ks, targets, np.log1p(-expected), k, recall_target)
    return np.asarray(np.clip(-np.expm1(log_missed), 0.0, 1.0))


def at_difficulty(difficulties: F64, values: F64, of_queries: F64) -> F64:
    """Give the value at each query's difficulty: linear in its logarithm, constant beyond the ends."""
    return np.interp(log_of(of_queries), log_of(difficulties), values)


def log_of(values: F64) -> F64:
    """Give the logarithm of squared distances, which may be zero."""
    return np.log(np.maximum(values, 1e-12))


def _along(axis: F64, values: F64, at: float, *, extrapolate: bool) -> F64:
    """Interpolate `values` linearly along their first axis; beyond the last point go on, or hold."""
    if len(axis) == 1:
        return np.asarray(values[0])
    right = int(np.clip(np.searchsorted(axis, at), 1, len(axis) - 1))
    share = (at - axis[right - 1]) / (axis[right] - axis[right - 1])
    share = max(share, 0.0) if extrapolate else min(max(share, 0.0), 1.0)
    return np.asarray((1 - share) * values[right - 1] + share * values[right])
