"""Distances and heaps as one would write them on paper: whole numbers without limit, and sorting."""

from __future__ import annotations

import math


def dot_and_norm(query, row):
    """Inner product and squared norm of a row, in Python's integers."""
    pairs = list(zip(query.tolist(), row.tolist(), strict=True))
    return sum(q * x for q, x in pairs), sum(x * x for _, x in pairs)


def squared_l2(query, row):
    """Squared distance, in Python's integers."""
    return sum((q - x) ** 2 for q, x in zip(query.tolist(), row.tolist(), strict=True))


def nearest(entries, capacity):
    """The `capacity` nearest of (distance, id), ties by the smaller id."""
    return sorted(entries)[:capacity]


def nearest_distinct(entries, capacity):
    """Do as `nearest`, each id once; an id comes always at the same distance."""
    return sorted(set(entries))[:capacity]


def normal_cdf(z):
    """Φ(z) in float64."""
    return 0.5 * math.erfc(-float(z) / math.sqrt(2))


def expected_within(estimates, errors, threshold):
    """Σ Φ((threshold − estimate) / error)."""
    return sum(normal_cdf((float(threshold) - float(e)) / float(s)) for e, s in zip(estimates, errors, strict=True))


def is_threshold(found, estimates, errors, k, low, high):
    """Whether k rows are expected within `found`, or fewer within `high` and `found` is it.

    As exact as twelve halvings of the bracket and float32 allow. Where no row lies between two distances, any
    distance between them will do.
    """
    slack = (high - low) / 2**12 + 1e-6 * max(abs(low), abs(high))
    few = 1e-5 * (len(estimates) + 1)
    if found >= high - slack and expected_within(estimates, errors, high) <= k + few:
        return True
    return (
        low - slack <= found <= high + slack
        and expected_within(estimates, errors, found - slack) <= k + few
        and expected_within(estimates, errors, found + slack) >= k - few
    )
