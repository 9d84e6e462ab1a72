"""From held-out rows to a plan with codes: which pages are worth a read for each recall target.

For each held-out query the exact neighbours are known, and so are the pages that hold them. In order:

1. *heads*: as many as hold all but a small share of the neighbours that a target may miss;
2. *head skip*: which of those a query needn't look into (``calibrate.heads``);
3. *skip*: a Poisson regression of a page's hits on its distance, its spread and its rank says which pages' rows need
   not be looked at; the bar is lower for higher targets;
4. *expected recall*: with all in force, the least sum of worths, as a share of k, at which reading may stop
   (``calibrate.expected_recall``).

Nothing is tuned on a user's queries.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.calibrate.expected_recall import Curves, ends_of
from annserve.calibrate.heads import calibrate_heads
from annserve.calibrate.heldout import SHARES, HeldOut, calibrated_ks
from annserve.calibrate.log_hits import fit_log_hits
from annserve.calibrate.ranks import head_ranks
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.codes.rate import SKIP_NONE, Rating, Skip
from annserve.codes.rating_kernels import PAGES_FIRST
from annserve.index.segment import Segment
from annserve.metric import queries_to_space
from annserve.search.choose_codes import PAGES_RATED_MAX, CodeChooser
from annserve.search.clock import Clock
from annserve.search.head_skip import HeadSkip
from annserve.search.read_plan import ReadPlan
from annserve.spec import RECALL_TARGETS
from annserve.vectors.source import Rows

F64 = npt.NDArray[np.float64]

#: Share of a target's misses that may come of heads that weren't visited.
_HEADS_SHARE = 0.02
#: A page is passed over if it promises less than this times the share that a target may miss.
_SKIP_SHARE = 0.006
#: Queries that the regression is fitted on; every page of theirs is looked at.
_SKIP_QUERIES = 500
_SKIP_PAGES = 2_048
_BLOCK = 64


@dataclass(frozen=True)
class Placement:
    """Where rows lie, which are numbered page by page.

    Attributes
    ----------
    page_offsets : (p+1,) int64
        Rows of each page.
    posting_offsets : (h+1,) int64
        Pages of each posting.
    """

    page_offsets: npt.NDArray[np.int64]
    posting_offsets: npt.NDArray[np.int64]

    def page(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the page of each row."""
        return np.searchsorted(self.page_offsets, rows, side="right") - 1

    def slot(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the place of each row on its page."""
        return rows - self.page_offsets[self.page(rows)]

    def head(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give the head of each row's posting."""
        return np.searchsorted(self.posting_offsets, self.page(rows), side="right") - 1


def calibrate_reads(
    held_out: HeldOut,
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    placement: Placement,
    segment: Segment,
    norm_max: float,
    threads: int,
    *,
    settle_above: float = 1.0,
) -> ReadPlan:
    """Find the effort and the thresholds that each recall target takes.

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
        With codes; its plan isn't looked at.
    norm_max : float
    threads : int
        Threads that rate side by side.
    settle_above : float
        Recall targets above which raw rows settle what INT8 leaves open, so that nothing is lost to it.

    Returns
    -------
    ReadPlan
    """
    assert segment.codes is not None, "calibration of reads needs codes"
    chooser = CodeChooser(segment, segment.codes, _no_plan())
    space = queries_to_space(held_out.queries, segment.spec, norm_max)
    own = np.column_stack((placement.page(held_out.rows), placement.slot(held_out.rows)))
    ranks, _ = head_ranks(segment.heads, space, placement.head(neighbours))
    ks = calibrated_ks(neighbours.shape[1])
    shape = len(ks), len(RECALL_TARGETS)
    heads, skip_below = np.empty(shape), np.empty(shape)
    skip_terms = np.zeros((len(ks), 8))
    for a, k in enumerate(ks):
        heads[a] = [heads_holding(ranks[:, :k], target) for target in RECALL_TARGETS]
    head_terms, head_below = calibrate_heads(segment, space, ranks, heads, ks, np.array(RECALL_TARGETS))
    evenness: F64 = np.ones(1)
    expected: F64 = np.empty((*shape, 1))
    stored_ranks = ranks_as_stored(held_out.queries, neighbours, rows, segment.spec)
    for a, k in enumerate(ks):
        homes = placement.page(neighbours[:, :k])
        pages = np.where(stored_ranks[:, :k] < k, homes, -1)
        most = heads_holding(ranks[:, :k], RECALL_TARGETS[-1])
        some = slice(None, None, -(-len(space) // _SKIP_QUERIES))
        full = _rate(chooser, space[some], own[some], k, most, threads)
        skip_terms[a] = _fit_skip(full, hits_on_pages(full, pages[some]), segment.codes.page_spreads)
        if a == 0:
            evenness = ends_of(full)
            expected = np.empty((*shape, len(evenness)))
        for b, target in enumerate(RECALL_TARGETS):
            skip_below[a, b] = np.log(_SKIP_SHARE * (1 - target))
            skip = Skip(skip_terms[a].astype(np.float32), float(skip_below[a, b]))
            head_skip = HeadSkip(head_terms[a].astype(np.float32), float(head_below[a, b]))
            counted = homes if target > settle_above else pages
            curves = rated_curves(chooser, space, own, counted, k, int(heads[a, b]), skip, threads, head_skip)
            expected[a, b] = curves.fit(evenness, target, margin_queries=len(space) * SHARES[-1])
    # Noise must not let a higher target take less.
    expected = np.maximum.accumulate(expected, axis=1)
    no_limit = np.full(shape, np.inf)
    return ReadPlan(
        np.array(ks),
        np.array(RECALL_TARGETS),
        heads,
        skip_terms,
        skip_below,
        evenness,
        expected,
        no_limit,
        head_terms,
        head_below,
    )


def rated_curves(
    chooser: CodeChooser,
    space: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64] | None,
    pages: npt.NDArray[np.int64],
    k: int,
    heads_wanted: int,
    skip: Skip,
    threads: int,
    head_skip: HeadSkip | None,
) -> Curves:
    """Rate queries, and set what their pages promise against what they hold.

    Parameters
    ----------
    chooser : CodeChooser
    space : (m, d) float32
        Queries in the index space.
    own : (m, 2) int64, optional
        Page and slot of the row that each was made from.
    pages : (m, k) int64
        Page of each of their neighbours; −1 for one that can't be found.
    """

    def one(first: int) -> Curves:
        # What was rated is thousands of pages a query; what a curve keeps of it, some hundreds.
        rating = [_rate_block(chooser, space, own, k, heads_wanted, skip, first, head_skip=head_skip)]
        return Curves.of(rating, hits_on_pages(rating, pages[first : first + _BLOCK]), k)

    with ThreadPoolExecutor(threads) as pool:
        return Curves.joined(list(pool.map(one, range(0, len(space), _BLOCK))))


def _no_plan() -> ReadPlan:
    """A plan for a chooser that is only asked to rate."""
    one = np.ones((1, 1))
    return ReadPlan(np.array([1]), np.array([0.9]), one, np.zeros((1, 8)), one, one[0], one[None] / 2, one)


def heads_holding(ranks: F64, target: float) -> int:
    """Give the heads that must be visited to miss no more than the share of misses that heads may cause."""
    ordered = np.sort(ranks, axis=None)
    ordered = ordered[np.isfinite(ordered)]
    place = int(np.ceil((1 - _HEADS_SHARE * (1 - target)) * len(ordered))) - 1
    return int(ordered[max(place, 0)])


def _rate(
    chooser: CodeChooser,
    space: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64],
    k: int,
    heads_wanted: int,
    threads: int,
) -> list[Rating]:
    """Rate queries, each without its own row, and pass over no page."""

    def one(first: int) -> Rating:
        return _rate_block(chooser, space, own, k, heads_wanted, SKIP_NONE, first, pages_max=_SKIP_PAGES)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(0, len(space), _BLOCK)))


def _rate_block(
    chooser: CodeChooser,
    space: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64] | None,
    k: int,
    heads_wanted: int,
    skip: Skip,
    first: int,
    *,
    pages_max: int = PAGES_RATED_MAX,
    head_skip: HeadSkip | None = None,
) -> Rating:
    """Rate the block of queries from `first` on."""
    block = slice(first, first + _BLOCK)
    excluded = None if own is None else own[block]
    return chooser.rate(
        space[block], k, heads_wanted, skip, Clock(), head_skip, pages_max=pages_max, excluded=excluded
    )[0]


def hits_on_pages(rating: list[Rating], pages: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Count the neighbours on each rated page, block by block, as (nq, w) like `Rating.pages`."""
    counted = []
    start = 0
    for block in rating:
        stop = start + len(block.sizes)
        # A page's number and its query's, in one.
        query = np.arange(len(block.sizes), dtype=np.int64)[:, None] << 33
        wanted, counts = np.unique(pages[start:stop] + 1 + query, return_counts=True)
        rated = block.pages.astype(np.int64) + 1 + query
        places = np.searchsorted(wanted, rated).clip(max=len(wanted) - 1)
        within = np.arange(rated.shape[1]) < block.sizes[:, None]
        counted.append(np.where((wanted[places] == rated) & within, counts[places], 0))
        start = stop
    return counted


def _fit_skip(rating: list[Rating], hits: list[npt.NDArray[np.int64]], page_spreads: npt.NDArray[np.float32]) -> F64:
    """Fit log expected hits of pages beyond the first few, by Poisson regression; (8,) terms."""
    terms, counts = [], []
    for block, found in zip(rating, hits):
        rank = np.broadcast_to(np.arange(block.pages.shape[1]), block.pages.shape)
        known = (rank >= PAGES_FIRST) & (rank < block.sizes[:, None]) & np.isfinite(block.bars)[:, None]
        log_bar = np.log(np.maximum(block.bars.astype(np.float64), 1e-12))[:, None]
        x = (np.log(np.maximum(block.distances.astype(np.float64), 1e-12)) - log_bar)[known]
        y = (page_spreads[block.pages] - log_bar)[known]
        r = np.log1p(rank)[known]
        design = (np.ones_like(x), x, x * x, y, y * y, x * y, r, r * x)
        terms.append(np.column_stack(design).astype(np.float32))
        counts.append(found[known].astype(np.float32))
    return fit_log_hits(terms, counts)
