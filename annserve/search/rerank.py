"""A second, exact look at few rows: raw floats settle what INT8 leaves open, or another encoder ranks anew.

Raw rows of the index itself: a row's stored error gives limits of its true distance. Rows whose limits say that they
are among the k nearest, or can't be, need no look; the others, half a row a query or so, are read and scored. Below
recall target 1 limits are a few typical errors wide, and the answer holds distances expected from INT8 beside exact
ones. At 1 they always hold, every row within them is read, and the answer is that of brute force over the raw rows.
At low targets nothing is looked at: what INT8 loses is little there, and further pages make up for it at less cost.

Raw rows of another encoder: the nearest `candidates` by INT8 are read and ranked by the second query, in its metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, DeadlineError
from annserve.index.raw_file import RawFile
from annserve.index.segment import Segment
from annserve.metric import METRIC_CODES
from annserve.pages.bounds import Candidates, find_candidates, rounding_of_queries
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import NO_ID, Frames
from annserve.raw.score import find_damage, score_rows
from annserve.results import SearchStats
from annserve.search.block import BlockResult
from annserve.search.clock import Clock
from annserve.search.overlap import Journey
from annserve.search.selection import PageSelection
from annserve.storage.reader import PageReader, aligned_frames

#: Typical errors that limits allow for below recall target 1. On three sets of embeddings 1 lets one true neighbour
#: in 10,000 slip (0.2 rows are read a query), 2 none that was seen (0.5), the worst case none at all (4.8).
_ERRORS_ALLOWED = 2.0
#: Pages that are held in memory at once, at most.
_BATCH_PAGES = 2_048


@dataclass(frozen=True)
class Rerank:
    """What a caller wants to be ranked anew.

    Attributes
    ----------
    queries : (nq, raw dim) array
        Valid queries of the other encoder, one beside each query.
    candidates : int
        Nearest rows by the first query that the second one ranks; at least k.
    """

    queries: npt.NDArray[Any]
    candidates: int

    def beside(self, first: int, queries: npt.NDArray[Any]) -> Rerank:
        """Give it for the block of `queries` that begins with query number `first`."""
        return Rerank(self.queries[first : first + len(queries)], self.candidates)


@dataclass(frozen=True)
class RawRows:
    """The raw rows of a segment, and what reads them; threads may share it."""

    segment: Segment
    file: RawFile
    reader: PageReader

    def plan(
        self,
        queries: npt.NDArray[Any],
        quantized: QuantizedQueries,
        k: int,
        recall_target: float,
        rerank: Rerank | None,
    ) -> SecondLook | None:
        """Say what is to be looked at again; None where nothing is, or another encoder's queries weren't given."""
        layout, spec = self.file.layout, self.segment.spec
        if rerank is not None:
            second = rerank.queries.astype(np.float32)
            candidates = min(rerank.candidates, self.segment.n_rows)
            return SecondLook(self, second, k, candidates, 0.0, np.zeros(len(second)), exact=True)
        if not layout.own or recall_target <= layout.settle_above:
            return None
        errors = rounding_of_queries(queries, quantized, of_directions=spec.metric == "cosine")
        exact = recall_target == 1.0
        share = 1.0 if exact else min(1.0, _ERRORS_ALLOWED / spec.dim**0.5)
        return SecondLook(self, queries.astype(np.float32), k, k, share, errors, exact=exact)


@dataclass(frozen=True)
class SecondLook:
    """What is to be looked at again for a block of queries.

    Attributes
    ----------
    raw : RawRows
    queries : (nq, raw dim) float32
        In the space of the raw rows.
    k : int
        Results of a query.
    wanted : int
        Nearest rows by INT8 that have a part in them: k, or the candidates of another encoder.
    share : float
        Share of the worst case that limits allow for.
    errors : (nq,) float64
        What rounding did to the queries.
    exact : bool
        Whether every candidate is read, or only those of which INT8 doesn't decide.
    """

    raw: RawRows
    queries: npt.NDArray[np.float32]
    k: int
    wanted: int
    share: float
    errors: npt.NDArray[np.float64]
    exact: bool

    def take(self, which: npt.NDArray[np.int64]) -> SecondLook:
        """Give it for some of the queries."""
        return replace(self, queries=self.queries[which], errors=self.errors[which])

    def candidates(self, frames: Frames, selection: PageSelection, quantized: QuantizedQueries) -> Candidates:
        """Find the rows to look at on the pages that lie in `frames`, and those that are decided without."""
        found = find_candidates(
            frames,
            selection.page_ids,
            selection.offsets,
            quantized,
            self.errors,
            self.wanted,
            metric=METRIC_CODES[self.raw.segment.spec.metric],
            share=self.share,
        )
        if not self.raw.file.layout.own:
            # Without limits these are as many as are wanted, but for ties.
            found = self.kept(found)
        if self.exact:
            found.decided[:] = False
        return found

    def kept(self, found: Candidates) -> Candidates:
        """Give as many of each query's candidates as another encoder is to rank."""
        return found.take(_nearest_of_each(found, self.wanted))

    def improve(self, result: BlockResult, candidates: Candidates, clock: Clock) -> Journey[None]:
        """Put the nearest of `candidates` by their raw rows into `result`; see `rank`.

        Where a deadline comes first that allows partial answers, the ranking by INT8 stays, in its metric.
        """
        try:
            again = yield from self.rank(candidates, clock)
        except DeadlineError:
            if not clock.deadline.partial:
                raise
            result.ids, result.distances = result.ids[:, : self.k], result.distances[:, : self.k]
            result.truncated[:] = True
        else:
            result.ids, result.distances = again.ids, again.distances
            result.counts += again.counts

    def rank(self, candidates: Candidates, clock: Clock) -> Journey[Reranked]:
        """Read raw rows in one batch, yielding meanwhile, and give the k nearest.

        Raises
        ------
        DeadlineError
            If the deadline passed before.
        ReadError, CorruptionError
            If a page can't be read, or isn't what was written.
        """
        rows = np.flatnonzero(~candidates.decided)
        n_queries, file = len(self.queries), self.raw.file
        page, slot = np.divmod(candidates.places[rows], file.layout.capacity)
        query = candidates.query[rows]
        wanted, frame_of_row = np.unique(query * file.n_pages + page, return_inverse=True)
        page_ids = (wanted % file.n_pages).astype(np.uint32)
        for first in range(0, len(wanted), _BATCH_PAGES):
            batch = page_ids[first : first + _BATCH_PAGES]
            with clock.stage("rerank"):
                frames = aligned_frames(len(batch), file.layout.page_bytes)
                pending = self.raw.reader.start(batch, frames)
            try:
                yield
            finally:
                with clock.waiting("rerank"):
                    pending.finish()
            with clock.stage("rerank"):
                self._prove(frames, batch)
                here = np.flatnonzero((frame_of_row >= first) & (frame_of_row < first + len(batch)))
                candidates.distances[rows[here]] = score_rows(
                    frames, frame_of_row[here] - first, slot[here], self.queries, query[here], file.layout
                )
        offsets = np.searchsorted(wanted, np.arange(n_queries + 1) * file.n_pages)
        return _reranked(candidates, self.k, PageSelection(page_ids, offsets.astype(np.int64)), file.layout.page_bytes)

    def _prove(self, frames: npt.NDArray[np.uint8], page_ids: npt.NDArray[np.uint32]) -> None:
        file = self.raw.file
        for page_id, wrong in find_damage(frames, page_ids, self.raw.segment.salt):
            raise CorruptionError(
                f"page {page_id} of {file.path} is damaged: {wrong}; run 'annserve verify' to list all damaged pages, "
                "then restore the file or build the index anew",
                path=file.path,
                offset=file.offset + page_id * file.layout.page_bytes,
            )


@dataclass(frozen=True)
class Reranked:
    """Answers after the second look, one row per query, and its costs, (8, nq) int64 by ``SearchStats.COUNTS``."""

    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def _reranked(candidates: Candidates, k: int, read: PageSelection, page_bytes: int) -> Reranked:
    n_queries = len(read.offsets) - 1
    looked_at = np.bincount(candidates.query[~candidates.decided], minlength=n_queries)
    nearest = candidates.take(_nearest_of_each(candidates, k))
    # What is decided is in; among all that are in, distance alone counts.
    nearest.decided[:] = False
    nearest = nearest.take(_nearest_of_each(nearest, k))
    ids, distances = np.full((n_queries, k), NO_ID), np.full((n_queries, k), np.inf)
    rank = _rank_in_query(nearest.query)
    ids[nearest.query, rank], distances[nearest.query, rank] = nearest.ids, nearest.distances
    counts = read.costs(page_bytes)
    counts[SearchStats.COUNTS.index("rows_reranked")] = looked_at
    return Reranked(ids, distances, counts)


def _nearest_of_each(candidates: Candidates, k: int) -> npt.NDArray[np.int64]:
    """Give the first `k` of each query: decided ones, then by distance and id."""
    order = np.lexsort((candidates.ids, candidates.distances, ~candidates.decided, candidates.query))
    return order[_rank_in_query(candidates.query) < k]


def _rank_in_query(query: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number the entries of each query from 0; queries ascend."""
    return np.arange(len(query)) - np.searchsorted(query, query)
