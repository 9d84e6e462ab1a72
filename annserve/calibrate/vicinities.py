"""From held-out rows to a plan with codes on the SSD: how far to read vicinities, and how much to expect of pages.

Reading more vicinities leaves fewer pages to read for the same recall, up to a point. For each recall target that point
is searched: for one reach after another the least expected recall that delivers the target to every group of held-out
queries is found, and with it the pages and vicinities that they read on average. The reach that reads the fewest wins.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.calibrate.heldout import HeldOut, calibrated_ks
from annserve.calibrate.ranks import head_ranks
from annserve.calibrate.reads import Placement, heads_holding, hits_on_pages
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.index.segment import Segment
from annserve.metric import queries_to_space
from annserve.search.choose_vicinity import Survey, VicinityChooser
from annserve.search.clock import Clock
from annserve.search.selection import ranked
from annserve.search.vicinity_plan import VicinityPlan
from annserve.spec import RECALL_TARGETS
from annserve.vectors.source import Rows

F64 = npt.NDArray[np.float64]

#: Reaches that are tried. At 1 a query reads four vicinities; a step changes what is read by about a quarter.
_REACHES = tuple(np.round(0.9 * 1.03 ** np.arange(36), 3).tolist())
#: Where held-out queries read more, on average, no farther reach is tried: far off embeddings all pages lie at about
#: one distance, and calibration would read the whole file for each of them.
_VICINITIES_MAX = 500
_BLOCK = 64


@dataclass(frozen=True)
class Surveyed:
    """What held-out queries find at one reach.

    Attributes
    ----------
    promised, found : list of (w,) float64
        Of each query: share of k that its best pages promise, and hold, one page after another.
    vicinities : (m,) int64
        Vicinities that each read.
    """

    promised: list[F64]
    found: list[F64]
    vicinities: npt.NDArray[np.int64]

    def stops(self, expected: float) -> npt.NDArray[np.int64]:
        """Give the pages that each query reads until it has promises of `expected`."""
        return np.array([min(int(np.searchsorted(p, expected)), len(p) - 1) + 1 for p in self.promised])

    def recalls(self, stops: npt.NDArray[np.int64]) -> F64:
        """Give the recall of each query that reads so many pages."""
        return np.array([found[stop - 1] for found, stop in zip(self.found, stops)])


def calibrate_vicinities(
    held_out: HeldOut,
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    placement: Placement,
    segment: Segment,
    norm_max: float,
    threads: int,
    settle_above: float = 1.0,
) -> VicinityPlan:
    """Find the effort that each recall target takes.

    Parameters
    ----------
    held_out : HeldOut
        m queries.
    neighbours : (m, c) int64
        Exact nearest rows of each, nearest first, its own left out.
    rows : (n, dim) rows
        All rows, as given.
    placement : Placement
    segment : Segment
        With vicinities; its plan isn't looked at.
    norm_max : float
    threads : int
        Threads that read and rate side by side.
    settle_above : float
        Targets beyond which raw rows make good what quantization loses.

    Returns
    -------
    VicinityPlan
    """
    assert segment.codes is not None, "vicinities come with codes"
    assert segment.vicinities is not None, "there is nothing to calibrate else"
    space = queries_to_space(held_out.queries, segment.spec, norm_max)
    own = placement.page(held_out.rows) * segment.spec.page_capacity + placement.slot(held_out.rows)
    ranks, _ = head_ranks(segment.heads, space, placement.head(neighbours))
    ks = calibrated_ks(neighbours.shape[1])
    shape = len(ks), len(RECALL_TARGETS)
    heads, reach, expected = np.empty(shape), np.empty(shape), np.empty(shape)
    reader = segment.vicinities.open_reader()
    chooser = VicinityChooser(segment, segment.codes, reader, _no_plan())
    stored_ranks = ranks_as_stored(held_out.queries, neighbours, rows, segment.spec)
    for a, k in enumerate(ks):
        kept = stored_ranks[:, :k] < k
        homes = placement.page(neighbours[:, :k])
        pages = np.where(kept, homes, -1)
        most = heads_holding(ranks[:, :k], RECALL_TARGETS[-1])
        tried: dict[tuple[float, bool], Surveyed] = {}
        least = 0
        for b, target in enumerate(RECALL_TARGETS):
            heads[a, b] = heads_holding(ranks[:, :k], target)
            best = np.inf
            for i, one in enumerate(_REACHES[least:], least):
                settled = target > settle_above
                if (one, settled) not in tried:
                    wanted = homes if settled else pages
                    tried[one, settled] = _survey(chooser, space, own, wanted, k, most, one, threads)
                at, cost = _least_expected(tried[one, settled], held_out.push, target)
                if cost < best:
                    best, least = cost, i
                    reach[a, b], expected[a, b] = one, at
                elif 1.1 * best < cost < np.inf or tried[one, settled].vicinities.mean() > _VICINITIES_MAX:
                    break
            if not np.isfinite(best):
                # No reach delivers: the farthest that was tried comes nearest.
                reach[a, b], expected[a, b] = one, 1 - 1e-6
    reader.close()
    return VicinityPlan(np.array(ks), np.array(RECALL_TARGETS), heads, reach, expected)


def _no_plan() -> VicinityPlan:
    """A plan for a chooser that is only asked to survey."""
    one = np.ones((1, 1))
    return VicinityPlan(np.array([1]), np.array([0.9]), one, one, one / 2)


def _survey(
    chooser: VicinityChooser,
    space: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64],
    pages: npt.NDArray[np.int64],
    k: int,
    heads_wanted: int,
    reach: float,
    threads: int,
) -> Surveyed:
    """Survey all queries, block by block, each without its own row."""

    def one(first: int) -> Survey:
        block = slice(first, first + _BLOCK)
        return chooser.survey(space[block], k, heads_wanted, reach, Clock(), own[block])

    with ThreadPoolExecutor(threads) as pool:
        surveys = list(pool.map(one, range(0, len(space), _BLOCK)))
    promised, found = [], []
    ratings = [survey.rating for survey in surveys]
    for rating, hits in zip(ratings, hits_on_pages(ratings, pages)):
        order, sums = ranked(rating)
        hit_sums = np.cumsum(np.take_along_axis(hits, order, axis=1), axis=1)
        promised += [sums[i, :size].astype(np.float64) / k for i, size in enumerate(rating.sizes)]
        found += [hit_sums[i, :size] / k for i, size in enumerate(rating.sizes)]
    return Surveyed(promised, found, np.concatenate([survey.vicinities.counts for survey in surveys]))


def _least_expected(surveyed: Surveyed, push: npt.NDArray[np.int64], target: float) -> tuple[float, float]:
    """Give the least expected recall that delivers the target to every group of pushed queries, and what is read.

    Infinitely much where none delivers.
    """
    groups = [push == group for group in np.unique(push)]

    def delivers(expected: float) -> bool:
        recalls = surveyed.recalls(surveyed.stops(expected))
        return all(recalls[group].mean() >= target for group in groups)

    low, high = 0.0, 1 - 1e-6
    if not delivers(high):
        return high, np.inf
    for _ in range(12):
        middle = (low + high) / 2
        if delivers(middle):
            high = middle
        else:
            low = middle
    return high, float((surveyed.stops(high) + surveyed.vicinities).mean())
