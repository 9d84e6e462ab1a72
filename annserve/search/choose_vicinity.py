"""The third way to choose pages: by codes that lie on the SSD, in two batches.

The first batch reads the vicinities of the pages nearest to the query, chosen by page codes in RAM; the second, in the
engine, the pages that the codes in them promise hits on. Both are chosen whole before they are read. A second wait for
the disk is the price of RAM without a byte of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rating
from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinities import Surveyor
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads
from annserve.index.segment import Segment
from annserve.search.choose import Choice, Evidence
from annserve.search.clock import Clock
from annserve.search.selection import PageSelection, pages_worth_reading
from annserve.search.vicinity_plan import VicinityPlan
from annserve.spares import Spares
from annserve.storage.reader import PageReader, aligned_frames

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_EFFORTS_KEPT = 256
_FRAMES_LEAST = 256


@dataclass(frozen=True)
class Survey:
    """What the vicinities around a block of queries say.

    Attributes
    ----------
    rating : Rating
    heads_visited : (nq,) int64
    vicinities : PageSelection
        Those that were read.
    """

    rating: Rating
    heads_visited: I64
    vicinities: PageSelection


class VicinityChooser:
    """Reads the vicinities of the nearest pages, and chooses the pages that are worth it by the codes in them.

    Parameters
    ----------
    segment : Segment
        With vicinities.
    tiers : CodeTiers
        Its codes, without those of rows.
    reader : PageReader
        Of the vicinities.
    plan : VicinityPlan
    """

    def __init__(self, segment: Segment, tiers: CodeTiers, reader: PageReader, plan: VicinityPlan) -> None:
        assert segment.vicinities is not None, "this way of choosing needs vicinities"
        self._segment = segment
        self._layout = segment.vicinities.layout
        self._path: Path = segment.vicinities.path
        self._pages_offset = segment.vicinities.pages_offset
        self._tiers = tiers
        self._reader = reader
        self._plan = plan
        self._effort = lru_cache(_EFFORTS_KEPT)(self._effort_of)
        self._scratch = Spares(
            lambda: (WalkScratch(segment.heads.n_heads), Surveyor(tiers, segment.page_offsets, self._layout))
        )
        self._frames = Spares(lambda: aligned_frames(_FRAMES_LEAST, self._layout.page_bytes))

    def choose(self, queries: F32, k: int, recall_target: float, clock: Clock, effort: int = 1) -> Choice:
        """Choose the best pages until they promise what the plan expects."""
        heads_wanted, reach, expected = self._effort(k, recall_target)
        postings = min(effort * heads_wanted, self._segment.heads.n_heads)
        survey = self.survey(queries, k, postings, effort * reach, clock)
        rating = survey.rating
        with clock.stage("choose"):
            # Where pages held too few rows before, promises count no longer: read all that was rated.
            hits_wanted = np.full(len(queries), expected * k if effort == 1 else np.inf)
            selection = pages_worth_reading(rating, hits_wanted, np.inf, self._tiers.row_counts, k)
        return Choice(
            selection,
            np.stack((survey.heads_visited, rating.page_codes + rating.row_codes)),
            lambda: Evidence(rating, postings, hits_wanted),
            survey.vicinities,
        )

    def survey(
        self, queries: F32, k: int, heads_wanted: int, reach: float, clock: Clock, excluded: I64 | None = None
    ) -> Survey:
        """Read the vicinities around each query, and rate the pages of the rows in them.

        Parameters
        ----------
        queries : (nq, d) float32
            In the index space.
        k, heads_wanted : int
        reach : float
            See ``VicinityPlan``.
        clock : Clock
        excluded : (nq,) int64, optional
            Place of a row that isn't counted; −1 for none.
        """
        heads, scratch = self._segment.heads, self._scratch.take()
        walk, surveyor = scratch
        with clock.stage("navigate"):
            head_ids, _, visited = nearest_heads(heads, queries, heads_wanted, walk)
            distances = exact_distances(heads, queries, head_ids)
        with clock.stage("rate"):
            near = surveyor.near_pages(queries, head_ids, distances)
            vicinities = PageSelection(*near.within(reach))
        with clock.stage("read"):
            frames = self._take_frames(len(vicinities.page_ids))
            self._reader.read(vicinities.page_ids, frames)
        with clock.stage("rate"):
            rating = surveyor.rate(
                queries,
                near,
                frames,
                vicinities.page_ids,
                vicinities.offsets,
                k,
                salt=self._segment.salt,
                path=self._path,
                pages_offset=self._pages_offset,
                excluded=excluded,
            )
        self._scratch.give(scratch)
        self._frames.give(frames)
        return Survey(rating, visited, vicinities)

    def postings_range(self, k: int, recall_target: float) -> tuple[int, int]:
        """Give the postings whose pages are ranked, the same for every query."""
        wanted = min(self._effort(k, recall_target)[0], self._segment.heads.n_heads)
        return wanted, wanted

    def pages_expected(self, k: int, recall_target: float) -> float:
        """Give a generous guess, vicinities included: few queries read more than eight pages a result."""
        return 8.0 * k

    def _effort_of(self, k: int, recall_target: float) -> tuple[int, float, float]:
        return (
            self._plan.heads_wanted(k, recall_target, self._segment.heads.n_heads),
            self._plan.reach_wanted(k, recall_target),
            self._plan.expected_wanted(k, recall_target),
        )

    def _take_frames(self, count: int) -> npt.NDArray[np.uint8]:
        """Give frames for so many. After an error they don't come back: a broken ring may still write into them."""
        frames = self._frames.take()
        return frames if len(frames) >= count else aligned_frames(count, self._layout.page_bytes)
