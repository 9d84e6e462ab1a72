"""Clustering as one would write it on paper: float64, loops over pages, every pair tried."""

from __future__ import annotations

import numpy as np


def sum_of_squares(rows, pages):
    """Sum over all rows of the squared distance to the mean of their page; `pages` lists row numbers."""
    total = 0.0
    for page in pages:
        members = np.asarray(rows, np.float64)[page]
        total += ((members - members.mean(axis=0)) ** 2).sum()
    return total


def nearest_priced(rows, centroids, prices):
    """Cost of the best centroid of each row, and all costs: (n,) and (n, m)."""
    rows, centroids = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)
    costs = ((rows[:, np.newaxis] - centroids[np.newaxis]) ** 2).sum(axis=2) + prices
    return costs.min(axis=1), costs


def neighbour_distances(centroids, k):
    """Ascending squared distances of each centroid to its k nearest others: (p, k)."""
    centroids = np.asarray(centroids, np.float64)
    distances = ((centroids[:, np.newaxis] - centroids[np.newaxis]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, :k]


def best_trade(rows, pages, capacity):
    """Largest fall of the sum of squares that one move or one swap between two pages can bring."""
    before = sum_of_squares(rows, pages)
    best = 0.0
    for a in range(len(pages)):
        for b in range(len(pages)):
            if a == b:
                continue
            for x in pages[a]:
                rest = [row for row in pages[a] if row != x]
                if rest and len(pages[b]) < capacity:
                    after = [*(p for i, p in enumerate(pages) if i not in (a, b)), rest, [*pages[b], x]]
                    best = max(best, before - sum_of_squares(rows, after))
                for y in pages[b]:
                    others = [row for row in pages[b] if row != y]
                    after = [*(p for i, p in enumerate(pages) if i not in (a, b)), [*rest, y], [*others, x]]
                    best = max(best, before - sum_of_squares(rows, after))
    return best


def offers(rows, homes, candidates, heads, slack, most):
    """Heads that each row is offered to: RNG rule on squared distances, homes first, `most` at most."""
    rows, heads = np.asarray(rows, np.float64), np.asarray(heads, np.float64)
    found = []
    for row, home, near in zip(rows, homes, candidates):
        taken = [int(home)]
        for head in near:
            if head < 0 or len(taken) > most:
                break
            distance = ((row - heads[head]) ** 2).sum()
            if head != home and all(slack * ((heads[head] - heads[other]) ** 2).sum() >= distance for other in taken):
                taken.append(int(head))
        found.append(taken[1:])
    return found
