"""The second way to choose pages: single ones, by the codes of their rows in RAM, the few that are worth it.

A query's whole way to its pages is one call of a kernel (``choose_kernels``). ``CodeChooser.rate`` takes the same way
stage by stage, for calibration and for whoever asks what a choice rested on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rater, Rating, Skip
from annserve.codes.tiers import CodeTiers
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads, scans
from annserve.index.segment import Segment
from annserve.kernels.bundle import Bundle
from annserve.search.choose import Choice, Evidence
from annserve.search.choose_kernels import KINDS, choose_pages
from annserve.search.clock import Clock
from annserve.search.head_skip import HeadSkip, log_squares
from annserve.search.read_plan import ReadPlan, Stop
from annserve.search.selection import PageSelection
from annserve.spares import Spares

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

#: Pages whose rows' codes one query looks at, at most.
PAGES_RATED_MAX = 8_192
_EFFORTS_KEPT = 256
_STAGES = ("navigate", "rate", "choose")
_KEEPS_ALL = HeadSkip(np.zeros(8, np.float32), -np.inf)
#: Where pages held too few rows before, promises count no longer: all that was rated is read.
_READS_ALL = Stop(np.ones(1), np.full(1, np.inf), np.inf)


@dataclass(frozen=True, eq=False)
class Effort:
    """What a plan says for one k and recall target, as a search uses it; each is equal to itself alone.

    Attributes
    ----------
    postings : int
        Heads in question.
    skip : Skip
    head_skip : HeadSkip
    stop : Stop
    n_pages, pages_max : int
        Pages that the heads may have at most; those whose rows' codes are looked at.
    arrays : tuple
        All of it as ``choose_kernels.choose_pages`` takes it.
    """

    postings: int
    skip: Skip
    head_skip: HeadSkip
    stop: Stop
    n_pages: int
    pages_max: int
    arrays: tuple[Any, ...]


class CodeChooser:
    """Rates the pages of the nearest heads by codes in RAM, and reads those that are worth it."""

    def __init__(self, segment: Segment, tiers: CodeTiers, plan: ReadPlan) -> None:
        self._segment = segment
        self._tiers = tiers
        self._plan = plan
        self._log_radii = log_squares(segment.radii)
        self._vectors = segment.heads.views[1]
        # Requests ask for few different k and targets; looking them up takes longer than the rest of Python.
        self._effort = lru_cache(_EFFORTS_KEPT)(self._effort_of)
        self._scratch = Spares(lambda: Scratch(segment, tiers, self._log_radii))

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose the best pages until they promise what the plan expects."""
        clock.begin("navigate")
        plan = self._effort(k, recall_target, effort)
        n_queries, mine = len(queries), self._scratch.take()
        pages, offsets = mine.pages(n_queries * plan.pages_max), np.empty(n_queries + 1, np.int64)
        looked_at, nanoseconds = np.empty((2, n_queries), np.int64), np.empty(3, np.int64)
        bundle = mine.bundle(plan, queries.shape[1], k)
        stamp = mine.walk.next_stamps(n_queries)
        choose_pages(queries, self._vectors, bundle.numbers, stamp, pages, offsets, looked_at, nanoseconds)
        selection = PageSelection(pages[: offsets[n_queries]].copy(), offsets)
        self._scratch.give(mine)
        clock.add_all(_STAGES, nanoseconds.tolist())
        return Choice(selection, looked_at, lambda: self._evidence(queries, k, plan))

    def _evidence(self, queries: F32, k: int, plan: Effort) -> Evidence:
        rating, _ = self.rate(queries, k, plan.postings, plan.skip, Clock(), plan.head_skip)
        return Evidence(rating, plan.postings, plan.stop.hits_wanted(rating, k))

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
        heads, mine = self._segment.heads, self._scratch.take()
        with clock.stage("navigate"):
            head_ids, _, visited = nearest_heads(heads, queries, heads_wanted, mine.walk)
            distances = exact_distances(heads, queries, head_ids)
            if head_skip is not None:
                head_ids, distances = head_skip.keep(head_ids, distances, self._segment.radii)
        with clock.stage("rate"):
            rating = mine.rater.rate(queries, head_ids, distances, k, pages_max=pages_max, skip=skip, excluded=excluded)
        self._scratch.give(mine)
        return rating, visited

    def _effort_of(self, k: int, recall_target: float, effort: int) -> Effort:
        heads, plan = self._segment.heads, self._plan
        postings = min(effort * plan.heads_wanted(k, recall_target, heads.n_heads), heads.n_heads)
        skip = plan.skip(k, recall_target)
        head_skip = plan.head_skip(k, recall_target) if effort == 1 else None
        head_skip = head_skip or _KEEPS_ALL
        stop = plan.stop(k, recall_target) if effort == 1 else _READS_ALL
        mine = self._scratch.take()
        n_pages = mine.rater.pages_at_most(postings)
        self._scratch.give(mine)
        pages_max = min(PAGES_RATED_MAX, n_pages)
        _, _, *nodes = heads.views
        limits = (float(skip.below), float(head_skip.below), float(stop.worth_enough))
        numbers = np.array([postings, scans(heads, postings), k, pages_max, *limits, *nodes], np.float64)
        arrays = (skip.terms, head_skip.terms, stop.evenness, stop.expected, numbers)
        return Effort(postings, skip, head_skip, stop, n_pages, pages_max, arrays)

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the postings in question, the same for every query; of the far ones, not all are looked into."""
        wanted = self._effort(k, recall_target, 1).postings
        return wanted, wanted

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give a generous guess: few queries read more than eight pages a result."""
        return 8.0 * k


class Scratch:
    """What one search needs to choose pages; grows to the largest request.

    Attributes
    ----------
    walk : WalkScratch
    rater : Rater
    """

    def __init__(self, segment: Segment, tiers: CodeTiers, log_radii: F32) -> None:
        self.walk = WalkScratch(segment.heads.n_heads)
        self.rater = Rater(tiers, segment.page_offsets)
        self._known = (segment.heads.views[0], log_radii, self.rater.tiers)
        self._pages = np.empty(0, np.uint32)
        self._bundles: dict[Effort, Bundle] = {}
        self._bundled: tuple[Any, ...] = ()
        self._sized = (0, 0)
        self._chosen: tuple[npt.NDArray[Any], ...] = ()

    def pages(self, count: int) -> npt.NDArray[np.uint32]:
        """Give room for so many page ids."""
        if len(self._pages) < count:
            self._pages = np.empty(count, np.uint32)
        return self._pages

    def bundle(self, plan: Effort, dim: int, k: int) -> Bundle:
        """Give what is known, what a plan for `k` says, and what a walk, a rating and a choice need for it."""
        bundle = self._bundles.get(plan)
        if bundle is None:
            walk = self.walk.arrays(dim, plan.postings)
            rating = self.rater.scratch(plan.n_pages, plan.pages_max, k)
            chosen = self._chosen_for(plan.postings, plan.pages_max)
            bundled = (walk[-1], rating, chosen)
            if len(self._bundles) >= _EFFORTS_KEPT or any(a is not b for a, b in zip(bundled, self._bundled)):
                # What was too small isn't kept for those that it was enough for.
                self._bundles.clear()
            self._bundled = bundled
            bundle = self._bundles[plan] = Bundle(KINDS, (*self._known, plan.arrays, walk, rating, chosen))
        return bundle

    def _chosen_for(self, postings: int, pages_max: int) -> tuple[npt.NDArray[Any], ...]:
        """Give one query's heads and their distances; its pages, their worths and distances; marks; and a clock."""
        if self._sized[0] < postings or self._sized[1] < pages_max:
            self._sized = postings, pages_max = max(self._sized[0], postings), max(self._sized[1], pages_max)
            kinds = (np.uint32, np.float32, np.float32, np.int64, np.float32)
            heads = np.empty(postings, np.int32), np.empty(postings, np.float32)
            self._chosen = (*heads, *(np.empty(pages_max, kind) for kind in kinds), np.empty(2, np.int64))
        return self._chosen
