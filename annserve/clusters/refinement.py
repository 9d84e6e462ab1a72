"""Pages → better pages: rows move and swap between neighbouring pages, region by region.

A *region* is a neighbourhood of pages that one thread refines alone, in RAM. Each round cuts the pages into
regions along other random planes, so a border of one round lies inside a region of the next, and nothing is
shared while a round runs: the result depends on the seed alone, not on the number of threads.

Invariants: every row stays on exactly one page; no page grows over its capacity or becomes empty; each trade
lowers the sum of squared distances of rows to the centroid of their page.

Peak RAM: 8 bytes a row for `members` and a float32 centroid per page, for all pages; and per thread one
region of `REGION_PAGES` pages as float32 rows: four times its bytes on disk, 64 MiB at 4,096 pages of 4 KB.
Each round reads every row once, in the order of pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters import kernels
from annserve.clusters.bisection import group_evenly
from annserve.vectors.source import Rows

#: Pages of a region; larger ones have fewer rows at a border but more pairs of centroids to compare.
REGION_PAGES = 4_096
#: Sweeps over the rows of a region in one round, with the same neighbours. Measured on 500,000 SIFT descriptors: 8
#: rounds of 2 end 0.5 % lower in sum of squares than 6 rounds of 3, in the same time.
_SWEEPS = 2
#: Neighbours of its page whose centroids a row is compared with; it may swap with rows of the nearest few.
#: Measured there: 32, 64, 128 neighbours end at a sum of squares of 48.3, 48.0, 47.7 thousand a row; 8 tries
#: instead of 4 gain 0.03 % for twice the time.
_NEIGHBOURS = 128
_TRIES = 4


@dataclass(frozen=True)
class Pages:
    """Rows on pages; changed in place by refinement.

    Attributes
    ----------
    members : (p, capacity) int64
        Row numbers of each page in its first slots; −1 in free ones.
    counts : (p,) int32
        Rows of each page, 1 … capacity.
    centroids : (p, d) float32
        Mean of each page's rows.
    """

    members: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    centroids: npt.NDArray[np.float32]

    @property
    def capacity(self) -> int:
        """Most rows of a page."""
        return int(self.members.shape[1])

    @classmethod
    def in_order(cls, counts: npt.NDArray[np.int32], centroids: npt.NDArray[np.float32], capacity: int) -> Pages:
        """Lay out rows that stand page by page already."""
        return cls(_padded(np.arange(counts.sum(), dtype=np.int64), counts, capacity), counts, centroids)

    @classmethod
    def joined(cls, parts: Sequence[Pages]) -> Pages:
        """Give the pages of several parts as one."""
        return cls(
            np.concatenate([part.members for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.centroids for part in parts]),
        )

    @classmethod
    def from_order(
        cls,
        rows: npt.NDArray[np.float32],
        order: npt.NDArray[np.int64],
        page_offsets: npt.NDArray[np.int64],
        capacity: int,
    ) -> Pages:
        """Lay out an order of rows; `rows` are those that `order` numbers, as float32."""
        counts = np.diff(page_offsets).astype(np.int32)
        members = _padded(order, counts, capacity)
        centroids = np.empty((len(counts), rows.shape[1]), np.float32)
        kernels.centroids_of_pages(rows, members.astype(np.int32), counts, centroids)
        return cls(members, counts, centroids)

    def order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the rows page by page, and the offset of each page: (n,) and (p+1,) int64."""
        offsets = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=offsets[1:])
        return self.members[_taken(self.counts, self.capacity)], offsets


@dataclass(frozen=True)
class Refined:
    """What trading has made of the pages of a region; arrays as those of `Pages`, a line for each page of it."""

    region: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    centroids: npt.NDArray[np.float32]
    rows: int
    trades: int


def cut_regions(pages: Pages, *, seed: int) -> list[npt.NDArray[np.int64]]:
    """Cut pages into regions by where their centroids lie; another seed gives other borders."""
    n_regions = -(-len(pages.counts) // REGION_PAGES)
    return group_evenly(pages.centroids, n_regions, seed=seed, random_planes=True)


def refine_regions(
    rows: Rows, pages: Pages, regions: Sequence[npt.NDArray[np.int64]], *, threads: int = 1
) -> Iterator[tuple[int, int]]:
    """Refine regions once, one after another, in place.

    Parameters
    ----------
    rows : (n, d) rows of uint8, int8 or float32
        All that `pages.members` numbers.
    regions : sequence of int64 arrays
        Without a common page; all that `cut_regions` gave make a round, and those that are left go on with it.
    threads : int
        Regions refined at a time.

    Yields
    ------
    (rows_seen, trades) : int, int
        For each region when it, and all before it, are done; `pages` then hold these changes and no others.
    """
    with ThreadPoolExecutor(threads) as pool:
        for refined in pool.map(lambda region: refine_region(rows, pages, region), regions):
            pages.members[refined.region] = refined.members
            pages.counts[refined.region] = refined.counts
            pages.centroids[refined.region] = refined.centroids
            yield refined.rows, refined.trades


def refine_region(rows: Rows, pages: Pages, region: npt.NDArray[np.int64]) -> Refined:
    """Trade rows between the pages of one region; `pages` stay as they are.

    Looks at nothing of `pages` but the region, so that regions without a common page may run side by side.
    """
    n_pages = len(region)
    counts = pages.counts[region]
    row_ids = pages.members[region][_taken(counts, pages.capacity)]
    centroids = pages.centroids[region]
    n = len(row_ids)
    if n_pages < 2:
        return Refined(region, pages.members[region], counts, centroids, n, 0)
    local = np.ascontiguousarray(rows[row_ids], dtype=np.float32)
    page_of = np.repeat(np.arange(n_pages, dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    slot_of = (np.arange(n) - starts[page_of]).astype(np.int32)
    members = _padded(np.arange(n, dtype=np.int32), counts, pages.capacity)
    neighbours = np.empty((n_pages, min(_NEIGHBOURS, n_pages - 1)), np.int32)
    kernels.neighbours_of_pages(centroids, np.empty(n_pages, np.float32), np.empty(n_pages, np.int64), neighbours)
    best_pages, best_keys = np.empty(_TRIES, np.int32), np.empty(_TRIES, np.float32)
    trades = 0
    for _ in range(_SWEEPS):
        trades += kernels.trade(
            local,
            pages.capacity,
            _TRIES,
            page_of,
            slot_of,
            members,
            counts,
            centroids,
            neighbours,
            best_pages,
            best_keys,
        )
        # Updates of centroids have rounded; start the next sweep, and leave, with the means themselves.
        kernels.centroids_of_pages(local, members, counts, centroids)
    return Refined(region, np.where(members >= 0, row_ids[members], -1), counts, centroids, n, trades)


def _taken(counts: npt.NDArray[np.int32], capacity: int) -> npt.NDArray[np.bool_]:
    return np.arange(capacity) < counts[:, np.newaxis]


def _padded(values: npt.NDArray[Any], counts: npt.NDArray[np.int32], capacity: int) -> npt.NDArray[Any]:
    table = np.full((len(counts), capacity), -1, values.dtype)
    table[_taken(counts, capacity)] = values
    return table
