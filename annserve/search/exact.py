"""Every row scored: the exact answer, in memory that doesn't grow with the index.

Pages come in batches, in their order, each read once for all queries of a block; the k nearest so far are kept. A scan
yields before each batch, so that whoever carries it can pause or end it there. Nothing goes through the page cache: a
scan would drive out what searches need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.errors import DeadlineError
from annserve.index.segment import Segment
from annserve.pages.bounds import Candidates
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import NO_ID, Frames
from annserve.results import SearchStats
from annserve.search.clock import Clock
from annserve.search.overlap import Journey
from annserve.search.rerank import SecondLook
from annserve.search.selection import PageSelection
from annserve.storage.pagefile import pages_per_read
from annserve.storage.reader import PageReader

#: Pages of a batch: 4 MiB of 4 KB pages, which stay in the processor's cache while all queries look at them.
SCAN_PAGES = 1_024


@dataclass
class Nearest:
    """The k nearest rows of each query so far, nearest first and ties by id; ids and distances are (nq, k)."""

    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float64]
    #: Whether the deadline left rows unseen.
    truncated: bool = False

    @classmethod
    def none(cls, n_queries: int, k: int) -> Nearest:
        """Begin with no row."""
        return cls(np.full((n_queries, k), NO_ID), np.full((n_queries, k), np.inf))

    def add(self, ids: npt.NDArray[np.uint64], distances: npt.NDArray[np.float64]) -> None:
        """Let further rows in; a row that is there already, a replica's, counts once."""
        k = self.ids.shape[1]
        ids = np.concatenate([self.ids, ids], axis=1)
        distances = np.concatenate([self.distances, distances], axis=1)
        order = np.lexsort((ids, distances), axis=1)
        # Replicas are as far away as the row itself, and so stand beside it.
        sorted_ids = np.take_along_axis(ids, order, axis=1)
        twice = np.zeros(ids.shape, bool)
        twice[:, 1:] = (sorted_ids[:, 1:] == sorted_ids[:, :-1]) & (sorted_ids[:, 1:] != NO_ID)
        nearest = np.take_along_axis(order, np.argsort(twice, axis=1, kind="stable")[:, :k], axis=1)
        self.ids = np.take_along_axis(ids, nearest, axis=1)
        self.distances = np.take_along_axis(distances, nearest, axis=1)


@dataclass(frozen=True)
class Scan:
    """What a scan reads; threads may share it."""

    segment: Segment
    reader: PageReader

    def journey(
        self, queries: QuantizedQueries, k: int, look: SecondLook | None, frames: Frames, clock: Clock
    ) -> Journey[tuple[Nearest, npt.NDArray[np.int64]]]:
        """Score every row for every query.

        Parameters
        ----------
        queries : QuantizedQueries
        k : int
            Rows wanted of each; with `look`, what it ranks.
        look : SecondLook, optional
            Of these queries, where raw rows are to be looked at.
        frames : Frames
            Of this thread, for `SCAN_PAGES` or all pages.
        clock : Clock

        Returns
        -------
        Nearest
        (8, nq) int64
            Costs, a row for each of ``SearchStats.COUNTS``, as if each query had been alone.

        Raises
        ------
        DeadlineError
            If the deadline passed, and makes no partial answers: those have the rows seen until then.
        ReadError, CorruptionError
            If a page can't be read, or isn't what was written.
        """
        n_queries = len(queries.scales)
        nearest = Nearest.none(n_queries, look.k if look else k)
        counts = np.zeros((len(SearchStats.COUNTS), n_queries), np.int64)
        try:
            yield from self._add_all(nearest, counts, queries, k, look, frames, clock)
        except DeadlineError:
            if not clock.deadline.partial:
                raise
            nearest.truncated = True
        return nearest, counts

    def _add_all(
        self,
        nearest: Nearest,
        counts: npt.NDArray[np.int64],
        queries: QuantizedQueries,
        k: int,
        look: SecondLook | None,
        frames: Frames,
        clock: Clock,
    ) -> Journey[None]:
        """Add the rows and the costs of one batch after another."""
        kept: Candidates | None = None
        for first in range(0, self.segment.n_pages, SCAN_PAGES):
            page_ids = np.arange(first, min(first + SCAN_PAGES, self.segment.n_pages), dtype=np.uint32)
            with clock.stage("read"):
                pending = self.reader.start(page_ids, frames.memory)
            try:
                yield
            finally:
                with clock.waiting("read"):
                    pending.finish()
            with clock.stage("score"):
                ids, distances, scored = self.score(frames, page_ids, queries, k)
                found = _candidates(frames, page_ids, queries, look) if look else None
            self._count(counts, page_ids, scored)
            if look is None or found is None:
                nearest.add(ids, distances)
            elif look.raw.file.layout.own:
                # The nearest of all are among the nearest of each batch.
                again = yield from look.rank(found, clock)
                nearest.add(again.ids, again.distances)
                counts += again.counts
            else:
                kept = look.kept(found if kept is None else kept.and_these(found))
        if look is not None and kept is not None:
            again = yield from look.rank(kept, clock)
            nearest.add(again.ids, again.distances)
            counts += again.counts

    def score(
        self, frames: Frames, page_ids: npt.NDArray[np.uint32], queries: QuantizedQueries, k: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Score pages that were read, one query after another, for they share the frames.

        Returns
        -------
        ids, distances : (nq, k) uint64, float64
            Nearest first.
        scored : (nq,) int64
            Rows that were looked at.
        """
        facts, offsets = self.segment.page_facts, np.array([0, len(page_ids)])
        parts = [
            frames.score(page_ids, offsets, queries.take(np.array([i])), k, facts) for i in range(len(queries.scales))
        ]
        ids, distances, scored = (np.concatenate(column) for column in zip(*parts))
        return ids, distances, scored

    def _count(
        self, counts: npt.NDArray[np.int64], page_ids: npt.NDArray[np.uint32], scored: npt.NDArray[np.int64]
    ) -> None:
        """Add what a batch costs a query."""
        page_bytes = self.segment.spec.page_bytes
        costs = {
            "pages_read": len(page_ids),
            "reads": -(-len(page_ids) // pages_per_read(page_bytes)),
            "bytes_read": len(page_ids) * page_bytes,
            "rows_scored": scored,
        }
        for name, cost in costs.items():
            counts[SearchStats.COUNTS.index(name)] += cost


def _candidates(
    frames: Frames, page_ids: npt.NDArray[np.uint32], queries: QuantizedQueries, look: SecondLook
) -> Candidates:
    """Find the rows of a batch that deserve a second look."""
    selection = PageSelection(page_ids, np.array([0, len(page_ids)]))
    found = []
    for i in range(len(queries.scales)):
        which = np.array([i])
        found.append(look.take(which).candidates(frames, selection, queries.take(which)).of_query(i))
    return found[0].and_these(*found[1:])
