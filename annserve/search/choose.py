"""Two ways to choose pages before any is read: by the distance of heads alone, or by codes.

Both give a ``Choice``. ``ProbeChooser`` reads the whole postings of the nearest heads; it needs the least RAM.
``CodeChooser`` rates single pages by the codes of their rows and reads the few that are worth it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rater, Rating, Skip
from annserve.codes.tiers import CodeTiers
from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads
from annserve.index.segment import Segment
from annserve.search.clock import Clock
from annserve.search.head_skip import HeadSkip
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.read_plan import ReadPlan, Stop
from annserve.search.selection import PageSelection, pages_of_heads, pages_worth_reading

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: Pages whose rows' codes one query looks at, at most.
PAGES_RATED_MAX = 8_192
_EFFORTS_KEPT = 256


@dataclass(frozen=True)
class Evidence:
    """What a choice by codes rests on, for whoever asks why (``search.explain``).

    Attributes
    ----------
    rating : Rating
    postings_ranked : int
        Postings in question for each query; those that promised too little were passed over.
    hits_wanted : (nq,) float64
        What the worths of each query's pages had to add up to.
    """

    rating: Rating
    postings_ranked: int
    hits_wanted: F64


@dataclass(frozen=True)
class Choice:
    """Pages of a block of queries, and what choosing them took.

    Attributes
    ----------
    selection : PageSelection
    heads_visited, codes_scanned : (nq,) int64
    evidence : Evidence, optional
        None where heads alone decided.
    vicinities : PageSelection, optional
        What was read to choose by, where the codes of rows lie on the SSD.
    """

    selection: PageSelection
    heads_visited: I64
    codes_scanned: I64
    evidence: Evidence | None = None
    vicinities: PageSelection | None = None

    def read_before(self) -> tuple[I64, I64]:
        """Give the pages and the reads that choosing itself took, by query."""
        if self.vicinities is None:
            return np.zeros_like(self.heads_visited), np.zeros_like(self.heads_visited)
        return self.vicinities.counts, self.vicinities.reads()


class Chooser(Protocol):
    """Chooses pages; threads may share it."""

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose the pages of each query.

        Parameters
        ----------
        queries : (nq, d) float32
            In the index space.
        k : int
        recall_target : float
        clock : Clock
        effort : int
            Multiplies what the plan says, for queries whose pages held fewer than k rows.
        """

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the fewest and the most postings that a query considers."""

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give about the most pages that a query reads, to size blocks by."""


class ProbeChooser:
    """Reads the postings of the nearest heads, as many as the plan says for the query."""

    def __init__(self, segment: Segment, plan: ProbePlan | ReachPlan) -> None:
        self._segment = segment
        self._plan = plan
        self._walks = Walks(segment.heads)

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose all pages of each query's nearest heads."""
        heads = self._segment.heads
        most = min(effort * self.postings_range(k, recall_target)[1], heads.n_heads)
        with clock.stage("navigate"):
            head_ids, distances, visited = nearest_heads(heads, queries, most, self._walks.mine())
        with clock.stage("choose"):
            probes = effort * self._plan.probes_for(distances, k, recall_target, most)
            selection = pages_of_heads(head_ids, probes, self._segment.page_offsets)
        return Choice(selection, visited, np.zeros_like(visited))

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the probes of an easy query and of the hardest."""
        return self._plan.postings_range(k, recall_target, self._segment.heads.n_heads)

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give the pages of the hardest query."""
        high = self.postings_range(k, recall_target)[1]
        return high * self._segment.n_pages / self._segment.heads.n_heads


class CodeChooser:
    """Rates the pages of the nearest heads by codes in RAM, and reads those that are worth it."""

    def __init__(self, segment: Segment, tiers: CodeTiers, plan: ReadPlan) -> None:
        self._segment = segment
        self._tiers = tiers
        self._plan = plan
        # Requests ask for few different k and targets; looking them up takes longer than the rest of Python.
        self._effort = lru_cache(_EFFORTS_KEPT)(self._effort_of)
        self._head_skip = lru_cache(_EFFORTS_KEPT)(plan.head_skip)
        self._walks = Walks(segment.heads)
        self._threads = threading.local()

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose the best pages until they promise what the plan expects."""
        n_heads = self._segment.heads.n_heads
        heads_wanted, skip, stop = self._effort(k, recall_target)
        postings = min(effort * heads_wanted, n_heads)
        head_skip = self._head_skip(k, recall_target) if effort == 1 else None
        rating, visited = self.rate(queries, k, postings, skip, clock, head_skip)
        with clock.stage("choose"):
            hits_wanted = stop.hits_wanted(rating, k)
            if effort > 1:
                # Pages held too few rows before: promises count no longer, read all that was rated.
                hits_wanted[:] = np.inf
            selection = pages_worth_reading(rating, hits_wanted, stop.worth_enough, self._tiers.row_counts, k)
        return Choice(selection, visited, rating.page_codes + rating.row_codes, Evidence(rating, postings, hits_wanted))

    def rate(
        self,
        queries: F32,
        k: int,
        heads_wanted: int,
        skip: Skip,
        clock: Clock,
        head_skip: HeadSkip | None = None,
        *,
        pages_max: int = PAGES_RATED_MAX,
        excluded: I64 | None = None,
    ) -> tuple[Rating, I64]:
        """Rate the pages of the `heads_wanted` nearest heads that `head_skip` keeps; give the heads visited too."""
        heads = self._segment.heads
        with clock.stage("navigate"):
            head_ids, _, visited = nearest_heads(heads, queries, heads_wanted, self._walks.mine())
            distances = exact_distances(heads, queries, head_ids)
            if head_skip is not None:
                head_ids, distances = head_skip.keep(head_ids, distances, self._segment.radii)
        with clock.stage("rate"):
            if not hasattr(self._threads, "rater"):
                self._threads.rater = Rater(self._tiers, self._segment.page_offsets)
            rating = self._threads.rater.rate(
                queries, head_ids, distances, k, pages_max=pages_max, skip=skip, excluded=excluded
            )
        return rating, visited

    def _effort_of(self, k: int, recall_target: float) -> tuple[int, Skip, Stop]:
        n_heads = self._segment.heads.n_heads
        return (
            self._plan.heads_wanted(k, recall_target, n_heads),
            self._plan.skip(k, recall_target),
            self._plan.stop(k, recall_target),
        )

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the postings in question, the same for every query; of the far ones, not all are looked into."""
        wanted = self._effort(k, recall_target)[0]
        return wanted, wanted

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give a generous guess: few queries read more than eight pages a result."""
        return 8.0 * k


class Walks:
    """Scratch of walks, one per thread."""

    def __init__(self, heads: HeadNodes) -> None:
        self._n_heads = heads.n_heads
        self._threads = threading.local()

    def mine(self) -> WalkScratch:
        """Give this thread's."""
        if not hasattr(self._threads, "walk"):
            self._threads.walk = WalkScratch(self._n_heads)
        walk: WalkScratch = self._threads.walk
        return walk
