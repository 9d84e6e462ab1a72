"""Answers and costs of a block of queries, of one part of the rows or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.lookaside.asked import Asked, ScoredPages
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import NO_ID
from annserve.results import SearchStats

_PAGES_READ, _PAGES_CACHED = (SearchStats.COUNTS.index(name) for name in ("pages_read", "pages_cached"))


class Rest(NamedTuple):
    """Pages that were read, in frames that are to be given back.

    Attributes
    ----------
    page_ids, places : (p,) uint32, int64
        Pages, and the frame of each.
    frames : (≥ p, page_bytes) uint8
    put_away : callable
        Lets the cache have them, and gives the frames back.
    """

    page_ids: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int64]
    frames: npt.NDArray[np.uint8]
    put_away: Callable[[], None]


@dataclass
class BlockResult:
    """Answers and costs of one block; arrays but `counts` have one row per query."""

    ids: npt.NDArray[np.uint64]
    #: float64, or float32 from a cache.
    distances: npt.NDArray[Any]
    #: Whether the pages held fewer rows than were wanted.
    short: npt.NDArray[np.bool_]
    #: Whether the deadline cut the search short.
    truncated: npt.NDArray[np.bool_]
    #: (8, nq) int64, one row for each of ``SearchStats.COUNTS``.
    counts: npt.NDArray[np.int64]
    seconds: dict[str, float] = field(default_factory=dict)
    #: What was learned of pages, where a cache wants to know.
    scored: ScoredPages | None = None
    #: What is in frames still, where the cache may have it later.
    rest: Rest | None = None

    def put_away(self) -> None:
        """Let the cache have what is in frames, and let the frames go."""
        if self.rest is not None:
            self.rest.put_away()
            self.rest = None

    def leave_to(self, asked: Asked, queries: QuantizedQueries) -> None:
        """Let a lookaside cache have the answers, unless a deadline cut some short; of a single query, later."""
        if np.count_nonzero(self.truncated):
            self.put_away()
            return
        read, cached, scored, rest = self.counts[_PAGES_READ], self.counts[_PAGES_CACHED], self.scored, self.rest
        if rest is None or len(self.ids) > 1:
            self.put_away()
            asked.remember(queries, self.ids, self.distances, read, cached, scored)
            return
        # What the caller has may change from here on.
        ids, grades = self.ids.copy(), asked.grades.copy()

        def keep() -> None:
            rest.put_away()
            asked.remember(queries, ids, self.distances, read, cached, scored, grades=grades)

        asked.leave(rest.page_ids, rest.places, rest.frames, keep)

    def count(self, name: str) -> npt.NDArray[np.int64]:
        """Give one of ``SearchStats.COUNTS``, (nq,)."""
        row: npt.NDArray[np.int64] = self.counts[SearchStats.COUNTS.index(name)]
        return row

    def replace(self, which: npt.NDArray[np.int64], further: BlockResult) -> None:
        """Put further answers in the place of some, unless the deadline cut those short; costs add up."""
        whole = ~further.truncated
        there = which[whole]
        self.ids[there], self.distances[there] = further.ids[whole], further.distances[whole]
        self.short[there] = further.short[whole]
        self.truncated[which] |= further.truncated
        self.counts[:, which] += further.counts


def nothing_found(n_queries: int, k: int) -> BlockResult:
    """Give what is known of queries that the deadline left no time for."""
    return BlockResult(
        ids=np.full((n_queries, k), NO_ID),
        distances=np.full((n_queries, k), np.inf),
        short=np.ones(n_queries, bool),
        truncated=np.ones(n_queries, bool),
        counts=np.zeros((len(SearchStats.COUNTS), n_queries), np.int64),
    )


def merged(parts: Sequence[BlockResult], k: int) -> BlockResult:
    """Give the k nearest of all parts, nearest first and ties by id, and their costs together."""
    ids = np.concatenate([part.ids for part in parts], axis=1)
    distances = np.concatenate([part.distances for part in parts], axis=1)
    nearest = np.lexsort((ids, distances), axis=1)[:, :k]
    ids = np.take_along_axis(ids, nearest, axis=1)
    seconds: dict[str, float] = {}
    for part in parts:
        for stage, spent in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return BlockResult(
        ids=ids,
        distances=np.take_along_axis(distances, nearest, axis=1),
        short=ids[:, -1] == NO_ID,
        truncated=np.any([part.truncated for part in parts], axis=0),
        counts=np.sum([part.counts for part in parts], axis=0),
        seconds=seconds,
    )
