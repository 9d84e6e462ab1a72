"""Distances and heaps as one would write them on paper: whole numbers without limit, and sorting."""

from __future__ import annotations


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
