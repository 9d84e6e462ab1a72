"""Expected hits: rows whose distance is known up to a normal error, and the distance of the k-th nearest of them.

Row i lies at distance d with d ~ N(estimate, error²). The threshold t is where Σ P(dᵢ ≤ t) = k. Φ is a rational
function (Abramowitz & Stegun, 7.1.28; error below 2e-6 in float32): a loop over rows then runs in vectors, where erfc
or a table would go row by row.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel

#: Beyond so many errors Φ is 0 or 1 for float32.
_REACH = np.float32(5)
_SQRT_HALF = np.float32(0.7071067811865476)
_A1, _A2, _A3 = np.float32(0.0705230784), np.float32(0.0422820123), np.float32(0.0092705272)
_A4, _A5, _A6 = np.float32(0.0001520143), np.float32(0.0002765672), np.float32(0.0000430638)
_HALF, _ONE = np.float32(0.5), np.float32(1)

#: Most sums that a search for the threshold takes, and how near to `k` it must come.
_STEPS_MAX = 40
_TOLERANCE = np.float32(1e-5)


@inline_kernel
def normal_cdf(z):  # type: ignore[no-untyped-def]
    """Give Φ(z), as float32."""
    x = min(abs(z), _REACH) * _SQRT_HALF
    powers = _ONE + x * (_A1 + x * (_A2 + x * (_A3 + x * (_A4 + x * (_A5 + x * _A6)))))
    powers *= powers
    powers *= powers
    powers *= powers
    powers *= powers
    tail = _HALF / powers if abs(z) < _REACH else np.float32(0)
    return _ONE - tail if z > np.float32(0) else tail


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


@inline_kernel
def solve_threshold(estimates, errors, size, k, low, high):  # type: ignore[no-untyped-def]
    """Find the threshold at which `k` rows are expected; `high` where even that expects fewer.

    By false position, the Illinois way: an end that stays twice counts half. Every fourth step halves the bracket, for
    sums that jump.

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
    above = expected_within(estimates, errors, size, high) - wanted
    if above <= np.float32(0):
        return high
    below = -wanted
    stayed = 0
    for step in range(_STEPS_MAX):
        share = _HALF if step & 3 == 3 else below / (below - above)
        guess = low + (high - low) * share
        excess = expected_within(estimates, errors, size, guess) - wanted
        if abs(excess) <= _TOLERANCE * wanted:
            return guess
        if excess < np.float32(0):
            low = guess
            below = excess
            if stayed > 0:
                above *= _HALF
            stayed = 1
        else:
            high = guess
            above = excess
            if stayed < 0:
                below *= _HALF
            stayed = -1
    return high
