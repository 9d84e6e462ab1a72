"""Percentiles exactly from samples, and a median with its spread.

A percentile here is a sample that was seen: the smallest one that at least p per cent of all samples don't
exceed (nearest rank). Nothing is interpolated or binned; with fewer than 1,000 samples p99.9 is the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def percentiles(samples: npt.NDArray[Any], shares: tuple[float, ...]) -> tuple[float, ...]:
    """Give the nearest-rank percentiles of samples.

    Parameters
    ----------
    samples : (n,) numbers, n ≥ 1
        Unsorted, all kept.
    shares : tuple of float
        Per cent, 0 < p ≤ 100, to a thousandth.

    Returns
    -------
    tuple of float
        One sample for each share.
    """
    assert samples.ndim == 1, samples.shape
    assert samples.size, "no samples"
    ordered = np.sort(samples)
    ranks = [-(-samples.size * round(share * 1_000) // 100_000) for share in shares]
    return tuple(float(ordered[max(rank, 1) - 1]) for rank in ranks)


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """Give the median of repeated measurements, and their range as a share of it (0 for a single one)."""
    middle = float(np.median(values))
    return middle, (max(values) - min(values)) / middle if middle else 0.0
