"""Pages → better pages: rows move and swap between neighbouring pages, region by region.

A *region* is a neighbourhood of pages that one thread refines alone, in RAM. Each round cuts the pages into
regions along other random planes, so a border of one round lies inside a region of the next, and nothing is
shared while a round runs: the result depends on the seed alone, not on the number of threads.

A round reads one generation of pages and writes the other, each page once. So a build that was killed in the middle
goes on with the regions that are left, from tables that nobody has touched since the round began.

Invariants: every row stays on exactly one page; no page grows over its capacity or becomes empty; each trade
lowers the sum of squared distances of rows to the centroid of their page.

Peak RAM, where rows and pages lie in files: 64 bytes a page, and one region per thread, as read and as float32. Each
round reads every row once, in the order of pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from annserve.clusters import kernels
from annserve.clusters.bisection import group_evenly
from annserve.clusters.projection import shorten
from annserve.vectors.source import Rows

#: Pages of a region; larger ones have fewer rows at a border but more pairs of centroids to compare.
REGION_PAGES = 4_096
#: Rounds of trading; the last of 8 lowers the sum of squares by some 0.1 %.
REFINE_ROUNDS = 8
#: Refinement ends when a round trades fewer rows than this share of all.
_TRADES_WORTH = 0.005
#: Sweeps over the rows of a region in one round, with the same neighbours. Measured on 500,000 SIFT descriptors: 8
#: rounds of 2 end 0.5 % lower in sum of squares than 6 rounds of 3, in the same time.
_SWEEPS = 2
#: Neighbours of its page whose centroids a row is compared with; it may swap with rows of the nearest few.
#: Measured there: 32, 64, 128 neighbours end at a sum of squares of 48.3, 48.0, 47.7 thousand a row; 8 tries
#: instead of 4 gain 0.03 % for twice the time.
_NEIGHBOURS = 128
_TRIES = 4
#: Dimensions by which planes are laid between regions, and by which neighbours are found: with 128 instead of 384,
#: embeddings of 384 dimensions read 1 % more pages.
_PLANE_DIM, _NEAR_DIM = 16, 384


class Table(Rows, Protocol):
    """Rows of numbers that can be replaced: an array, or a file of them."""

    def __setitem__(self, which: npt.NDArray[np.int64], values: npt.NDArray[Any], /) -> None:
        """Replace the rows that a list numbers."""


@dataclass(frozen=True)
class Pages:
    """Rows on pages.

    Attributes
    ----------
    members : (p, capacity) int64
        Row numbers of each page in its first slots; −1 in free ones. Every page has one at least.
    centroids : (p, d) float32
        Mean of each page's rows.
    """

    members: Table
    centroids: Table

    def __len__(self) -> int:
        return len(self.members)

    @property
    def capacity(self) -> int:
        """Most rows of a page."""
        return int(self.members.shape[1])

    @classmethod
    def empty(cls, n_pages: int, capacity: int, dim: int) -> Pages:
        """Give room in RAM for so many pages."""
        return cls(np.empty((n_pages, capacity), np.int64), np.empty((n_pages, dim), np.float32))

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
        return cls(members, centroids)

    def order(
        self, pages: npt.NDArray[np.int64] | slice = slice(None)
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Give the rows of pages, page by page, and how many each has: (m,) int64 and (pages,) int32."""
        members = self.members[pages]
        counts = _counts(members)
        return members[_taken(counts, self.capacity)], counts


@dataclass(frozen=True)
class Refined:
    """What trading has made of the pages of a region; arrays as those of `Pages`, a line for each page of it."""

    region: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float32]
    rows: int
    trades: int


@dataclass(frozen=True)
class Progress:
    """How far refinement has come.

    Attributes
    ----------
    rounds, trades : int
        That are over, and the trades that were made in them.
    regions, rows, traded : int
        Of the round that is being taken: those that are done, and the trades made in them.
    ended : bool
        Whether no round is left.
    """

    rounds: int = 0
    trades: int = 0
    regions: int = 0
    rows: int = 0
    traded: int = 0
    ended: bool = False

    def after(self, refined: Refined) -> Progress:
        """One region later."""
        rows, traded = self.rows + refined.rows, self.traded + refined.trades
        return replace(self, regions=self.regions + 1, rows=rows, traded=traded)

    def next_round(self, rounds: int) -> Progress:
        """One round later, of `rounds` at most."""
        ended = self.rounds + 1 >= rounds or self.traded < _TRADES_WORTH * self.rows
        return Progress(self.rounds + 1, self.trades + self.traded, ended=ended)


def refine(
    rows: Rows,
    generations: tuple[Pages, Pages],
    *,
    seed: int,
    rounds: int = REFINE_ROUNDS,
    region_pages: int = REGION_PAGES,
    threads: int = 1,
    begun: Progress = Progress(),
) -> Iterator[Progress]:
    """Let pages trade rows until it is no longer worth it.

    Parameters
    ----------
    rows : (n, d) rows of uint8, int8 or float32
        All that members number.
    generations : two Pages
        The first is where refinement began; rounds read one and write the other in turns. When `rounds` rounds are
        over, the pages are in ``generations[rounds % 2]``.
    seed : int
    rounds : int
        Most rounds, at least one.
    region_pages : int
        Pages of a region.
    threads : int
        Regions refined at a time.
    begun : Progress
        To go on from; what it says is done must lie in `generations`.

    Yields
    ------
    Progress
        After each region and each round. Whoever asks for the next one says that this one may count.
    """
    progress = begun
    while not progress.ended:
        before, after = generations[progress.rounds % 2], generations[1 - progress.rounds % 2]
        regions = cut_regions(before.centroids, region_pages, seed=seed + progress.rounds + 1)
        with ThreadPoolExecutor(threads) as pool:
            for refined in pool.map(partial(refine_region, rows, before), regions[progress.regions :]):
                after.members[refined.region] = refined.members
                after.centroids[refined.region] = refined.centroids
                progress = progress.after(refined)
                yield progress
        progress = progress.next_round(rounds)
        yield progress


def cut_regions(centroids: Rows, region_pages: int, *, seed: int) -> list[npt.NDArray[np.int64]]:
    """Cut pages into regions by where their centroids lie; another seed gives other borders."""
    n_regions = -(-len(centroids) // region_pages)
    return group_evenly(shorten(centroids, _PLANE_DIM), n_regions, seed=seed, random_planes=True)


def refine_region(rows: Rows, pages: Pages, region: npt.NDArray[np.int64]) -> Refined:
    """Trade rows between the pages of one region; `pages` stay as they are.

    Looks at nothing of `pages` but the region, so that regions without a common page may run side by side.
    """
    n_pages = len(region)
    before, centroids = pages.members[region], pages.centroids[region]
    counts = _counts(before)
    row_ids = before[_taken(counts, pages.capacity)]
    n = len(row_ids)
    if n_pages < 2:
        return Refined(region, before, centroids, n, 0)
    local = np.ascontiguousarray(rows[row_ids], dtype=np.float32)
    page_of = np.repeat(np.arange(n_pages, dtype=np.int32), counts)
    starts = np.cumsum(counts) - counts
    slot_of = (np.arange(n) - starts[page_of]).astype(np.int32)
    members = _padded(np.arange(n, dtype=np.int32), counts, pages.capacity)
    neighbours = np.empty((n_pages, min(_NEIGHBOURS, n_pages - 1)), np.int32)
    kernels.neighbours_of_pages(
        shorten(centroids, _NEAR_DIM), np.empty(n_pages, np.float32), np.empty(n_pages, np.int64), neighbours
    )
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
    return Refined(region, np.where(members >= 0, row_ids[members], -1), centroids, n, trades)


def _counts(members: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    return np.asarray((members >= 0).sum(axis=1, dtype=np.int32))


def _taken(counts: npt.NDArray[np.int32], capacity: int) -> npt.NDArray[np.bool_]:
    return np.arange(capacity) < counts[:, np.newaxis]


def _padded(values: npt.NDArray[Any], counts: npt.NDArray[np.int32], capacity: int) -> npt.NDArray[Any]:
    table = np.full((len(counts), capacity), -1, values.dtype)
    table[_taken(counts, capacity)] = values
    return table
