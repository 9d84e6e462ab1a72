"""What recall and percentiles mean, written to be read: plain Python, one query at a time."""

from __future__ import annotations

from fractions import Fraction


def recall_of_one(answer, truth_ids, truth_distances, k, epsilon):
    """Share of the k nearest rows that an answer names, ties by distance, duplicates once."""
    right = set(truth_ids[:k])
    if truth_distances is not None:
        d_k = truth_distances[k - 1]
        for row_id, distance in zip(truth_ids, truth_distances):
            if distance <= d_k + epsilon * abs(d_k):
                right.add(row_id)
    found = set(answer[:k]) & right
    return min(len(found), k) / k


def nearest_rank(samples, share):
    """Smallest sample that at least `share` per cent of all samples don't exceed."""
    needed = Fraction(str(share)) / 100 * len(samples)
    for sample in sorted(samples):
        if sum(other <= sample for other in samples) >= needed:
            return sample
    raise AssertionError("no samples")
