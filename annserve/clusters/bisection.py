"""Rows of one partition → pages: recursive bisection, no page over its capacity and none empty.

Peak RAM: the rows as float32, and 12 bytes a row beside them. Time O(n log n).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from annserve.clusters import kernels

#: Share of the slots that rows take. Free ones let rows move between pages: 0.975, 0.985, 0.99 end at a sum of
#: squares of 47.7, 48.0, 48.1 thousand a row on 500,000 SIFT descriptors, for 1 % more pages a step.
FILL = 0.985
#: Rounds of 2-means at each cut, and the rows it looks at: more of either no longer lowers the result.
_ROUNDS = 6
_SAMPLE = 4_096
#: Parts that wait to be cut: one per level, and a cut leaves each side a fifth of the pages, so 128 levels
#: hold more pages than a u32 can number.
_DEPTH_MAX = 128


def pages_needed(n_rows: int, capacity: int) -> int:
    """Give the number of pages that `n_rows` rows are cut into, at least one and none of them empty."""
    return min(n_rows, max(-(-n_rows // capacity), int(n_rows / (capacity * FILL))))


def bisect_rows(
    rows: npt.NDArray[np.float32], capacity: int, *, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Order rows page by page so that pages are compact and neighbours stand near each other.

    Parameters
    ----------
    rows : (n, d) float32, C-contiguous, n >= 1
    capacity : int
        Most rows of a page.
    seed : int
        Fixes the sample of every cut.

    Returns
    -------
    order : (n,) int64
        A permutation of 0 … n−1.
    page_offsets : (p+1,) int64
        Into `order`; every page has 1 … `capacity` rows.
    """
    n_pages = pages_needed(len(rows), capacity)
    return _bisect(rows, capacity, n_pages, rounds=_ROUNDS, seed=seed)


def group_evenly(
    rows: npt.NDArray[np.float32], n_groups: int, *, seed: int, random_planes: bool = False
) -> list[npt.NDArray[np.int64]]:
    """Cut rows into `n_groups` neighbourhoods of about the same size.

    Parameters
    ----------
    rows : (n, d) float32, C-contiguous, n >= n_groups >= 1
    random_planes : bool
        Cut between two random rows instead of the centroids of 2-means: borders differ from seed to seed.

    Returns
    -------
    list of int64 arrays
        Row numbers of each group: each row in exactly one, at most 1.25 n / n_groups (rounded up) in each.
    """
    capacity = -(-5 * len(rows) // (4 * n_groups))
    rounds = 0 if random_planes else _ROUNDS
    order, offsets = _bisect(rows, capacity, n_groups, rounds=rounds, seed=seed)
    return [order[start:stop] for start, stop in pairwise(offsets)]


def _bisect(
    rows: npt.NDArray[np.float32], capacity: int, n_pages: int, *, rounds: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    n, dim = rows.shape
    assert 1 <= n_pages <= n <= n_pages * capacity, (n, n_pages, capacity)
    order = np.arange(n, dtype=np.int64)
    page_offsets = np.zeros(n_pages + 1, np.int64)
    kernels.bisect(
        rows,
        capacity,
        n_pages,
        rounds,
        _SAMPLE,
        np.full(1, seed, np.uint64),
        order,
        np.empty(n, np.float32),
        np.empty((_DEPTH_MAX, 4), np.int64),
        np.empty((4, dim), np.float32),
        page_offsets,
    )
    return order, page_offsets
