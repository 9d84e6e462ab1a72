"""Expected hits: rows whose distance is known up to a normal error, and the distance of the k-th nearest of them.

Row i lies at distance d with d ~ N(estimate, error²). The threshold t is where Σ P(dᵢ ≤ t) = k. Φ comes from a table
with linear interpolation (error below 2e-6): erfc would take as long as the rest of a query.
"""

from __future__ import annotations

import math

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel

_REACH = 5.0
_STEPS = 2_048
_SCALE = _STEPS / (2 * _REACH)
_TABLE = np.array(
    [0.5 * math.erfc((_REACH - 2 * _REACH * i / _STEPS) / math.sqrt(2)) for i in range(_STEPS + 2)], np.float32
)
#: Halvings of the bracket; then one linear step. More where errors are so small against the bracket that the sum
#: still jumps within it.
_HALVINGS, _HALVINGS_MAX = 12, 24
_JUMP_MAX = np.float32(0.01)


@inline_kernel
def normal_cdf(z):  # type: ignore[no-untyped-def]
    """Give Φ(z), as float32."""
    place = (z + np.float32(_REACH)) * np.float32(_SCALE)
    if place <= np.float32(0):
        return np.float32(0)
    if place >= np.float32(_STEPS):
        return np.float32(1)
    left = np.int64(place)
    share = place - np.float32(left)
    return _TABLE[left] + share * (_TABLE[left + 1] - _TABLE[left])


@inline_kernel
def expected_within(estimates, errors, size, threshold):  # type: ignore[no-untyped-def]
    """Give Σ Φ((threshold − estimateᵢ) / errorᵢ) over the first `size` rows.

    Parameters
    ----------
    estimates : (>= size,) float32  # IN
    errors : (>= size,) float32, positive  # IN
    """
    total = np.float32(0)
    for i in range(size):
        total += normal_cdf((threshold - estimates[i]) / errors[i])
    return total


@kernel
def solve_threshold(estimates, errors, size, k, low, high):  # type: ignore[no-untyped-def]
    """Find the threshold at which `k` rows are expected; `high` where even that expects fewer.

    Parameters
    ----------
    estimates, errors : as above  # IN
    k : int
    low, high : float32
        Bracket; a sum below k is presumed at `low`.
    """
    low = np.float32(low)
    high = np.float32(high)
    wanted = np.float32(k)
    at_high = expected_within(estimates, errors, size, high)
    if at_high <= wanted:
        return high
    at_low = np.float32(0)
    for step in range(_HALVINGS_MAX):
        if step >= _HALVINGS and at_high - at_low <= _JUMP_MAX * wanted:
            break
        middle = np.float32(0.5) * (low + high)
        found = expected_within(estimates, errors, size, middle)
        if found < wanted:
            low = middle
            at_low = found
        else:
            high = middle
            at_high = found
    if at_high > at_low:
        return low + (high - low) * (wanted - at_low) / (at_high - at_low)
    return high
