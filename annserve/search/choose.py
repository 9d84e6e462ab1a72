"""What it is to choose pages before any is read, and the way that needs the least RAM: by the distance of heads alone.

``ProbeChooser`` reads the whole postings of the nearest heads. ``choose_codes`` rates single pages by the codes of
their rows and reads the few that are worth it; ``choose_vicinity`` does so with codes that lie on the SSD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rating
from annserve.heads.navigate import WalkScratch, nearest_heads
from annserve.index.segment import Segment
from annserve.search.clock import Clock
from annserve.search.probe_plan import ProbePlan
from annserve.search.reach_plan import ReachPlan
from annserve.search.selection import PageSelection, pages_of_heads
from annserve.spares import Spares

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


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


class Choice(NamedTuple):
    """Pages of a block of queries, and what choosing them took.

    Attributes
    ----------
    selection : PageSelection
    looked_at : (2, nq) int64
        Heads whose distance was computed, and codes.
    evidence : callable, optional
        Gives what the choice rests on, found anew where the search didn't keep it. None where heads alone decided.
    vicinities : PageSelection, optional
        What was read to choose by, where the codes of rows lie on the SSD.
    """

    selection: PageSelection
    looked_at: I64
    evidence: Callable[[], Evidence] | None = None
    vicinities: PageSelection | None = None

    @property
    def heads_visited(self) -> I64:
        """Heads whose distance was computed for each query."""
        visited: I64 = self.looked_at[0]
        return visited

    @property
    def codes_scanned(self) -> I64:
        """Codes that were looked at for each query."""
        scanned: I64 = self.looked_at[1]
        return scanned


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
        self._walks = Spares(lambda: WalkScratch(segment.heads.n_heads))

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose all pages of each query's nearest heads."""
        heads = self._segment.heads
        most = min(effort * self.postings_range(k, recall_target)[1], heads.n_heads)
        with clock.stage("navigate"):
            walk = self._walks.take()
            head_ids, distances, visited = nearest_heads(heads, queries, most, walk)
            self._walks.give(walk)
        with clock.stage("choose"):
            probes = effort * self._plan.probes_for(distances, k, recall_target, most)
            selection = pages_of_heads(head_ids, probes, self._segment.page_offsets)
        return Choice(selection, np.stack((visited, np.zeros_like(visited))))

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the probes of an easy query and of the hardest."""
        return self._plan.postings_range(k, recall_target, self._segment.heads.n_heads)

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give the pages of the hardest query."""
        high = self.postings_range(k, recall_target)[1]
        return high * self._segment.n_pages / self._segment.heads.n_heads
