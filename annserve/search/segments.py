"""Several segments searched as one: each with its own engine, all reads in flight together, one top-k of all.

A segment that holds a tenth of the rows holds a tenth of the k nearest, on average, so its pages are chosen for so
many (`planned_of`), and of their rows the k nearest are taken. Pages chosen for k in each of two halves of sift deliver
0.976 where 0.90 is asked for, in 15.9 pages a query; chosen for the share alone 0.891 in 9.7, for one row more in all
0.908 in 10.6; one segment of all rows reads 8.6.

Rows of one kind may lie in one segment, so shares of rows promise nothing about a single query: where a segment turns
out to hold far more of the k nearest than its share (`surprise_of`), it is asked again for k.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import ceil, comb
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.lookaside.asked import Asked
from annserve.pages.rows import quantize_queries
from annserve.search.block import BlockResult, merged
from annserve.search.clock import Clock, Deadline
from annserve.search.engine import BLOCKS_UNDER_WAY, Engine, size_of_block
from annserve.search.overlap import Journey, Pause, abreast, carried, no_pause, overlapped
from annserve.search.rerank import Rerank

#: How often rows dealt at random would give a segment as many of the k nearest as let it be asked again.
_SURPRISE = 0.1


class Engines:
    """Searches several segments together, and is asked as the ``Engine`` of one is; threads may share it.

    Parameters
    ----------
    engines : sequence of Engine
        Of segments that share no row id.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        rows = [engine.segment.n_rows for engine in engines]
        self._shares = tuple(n / sum(rows) for n in rows)

    def block_queries(self, share: int, k: int, recall_target: float) -> int:
        """Give how many of a thread's `share` of queries should go through the stages together."""
        planned = zip(self.engines, self.planned(k, recall_target))
        return size_of_block(share, sum(engine.pages_expected(n, recall_target) for engine, n in planned))

    def planned(self, k: int, recall_target: float) -> list[int]:
        """Give how many of the k nearest each segment's pages are first chosen for."""
        most = self._most(k)
        if recall_target == 1.0:
            return most  # every page is read anyway
        return [min(planned, n) for planned, n in zip(planned_of(k, self._shares), most)]

    def _most(self, k: int) -> list[int]:
        """Give how many of the k nearest each segment may hold."""
        return [min(k, engine.segment.n_rows) for engine in self.engines]

    def search(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        *,
        rerank: Rerank | None = None,
        deadline: Deadline | None = None,
        between: Pause = no_pause,
        asked: Asked | None = None,
    ) -> BlockResult:
        """Search one block of queries, with no other under way; see ``Engine.search``."""
        return carried(self._journey(queries, k, recall_target, rerank, deadline, asked), between)

    def search_blocks(
        self,
        blocks: Iterable[tuple[int, npt.NDArray[Any]]],
        k: int,
        recall_target: float,
        *,
        rerank: Rerank | None = None,
        deadline: Deadline | None = None,
        asked: Asked | None = None,
    ) -> Iterator[tuple[int, BlockResult]]:
        """Search blocks of queries; see ``Engine.search_blocks``.

        Another encoder's queries rank as many candidates of each segment as `rerank` says.
        """
        journeys = (
            (
                first,
                self._journey(
                    queries,
                    k,
                    recall_target,
                    rerank and rerank.beside(first, queries),
                    deadline,
                    asked and asked.take(slice(first, first + len(queries))),
                ),
            )
            for first, queries in blocks
        )
        yield from overlapped(journeys, 1 if recall_target == 1.0 else BLOCKS_UNDER_WAY)

    def _journey(
        self,
        queries: npt.NDArray[Any],
        k: int,
        recall_target: float,
        rerank: Rerank | None,
        deadline: Deadline | None,
        asked: Asked | None = None,
    ) -> Journey[BlockResult]:
        """Carry one block of queries through all segments, abreast, and let a lookaside cache have the answers."""
        result = yield from self._carry(queries, k, recall_target, rerank, deadline)
        if asked is not None:
            result.leave_to(asked, quantize_queries(queries))
        return result

    def _carry(
        self, queries: npt.NDArray[Any], k: int, recall_target: float, rerank: Rerank | None, deadline: Deadline | None
    ) -> Journey[BlockResult]:
        most = self._most(k)
        planned = most if rerank else self.planned(k, recall_target)
        parts = yield from self._abreast(queries, most, recall_target, planned, rerank, deadline)
        result = merged(parts, k)
        asked_again = [(i, which) for i, which in enumerate(self._surprised(parts, result, planned)) if len(which)]
        if not asked_again:
            return result
        again = yield from abreast(
            [
                self.engines[i].journey(queries[which], most[i], recall_target, None, Clock(deadline))
                for i, which in asked_again
            ]
        )
        for (i, which), further in zip(asked_again, again):
            parts[i].replace(which, further)
            for stage, spent in further.seconds.items():
                parts[i].seconds[stage] = parts[i].seconds.get(stage, 0.0) + spent
        return merged(parts, k)

    def _abreast(
        self,
        queries: npt.NDArray[Any],
        most: Sequence[int],
        recall_target: float,
        planned: Sequence[int],
        rerank: Rerank | None = None,
        deadline: Deadline | None = None,
    ) -> Journey[list[BlockResult]]:
        """Ask each segment for the `most` nearest of the rows on pages that are chosen for `planned`."""
        wanted = zip(self.engines, most, planned)
        return abreast(
            [engine.journey(queries, n, recall_target, rerank, Clock(deadline), first) for engine, n, first in wanted]
        )

    def _surprised(
        self, parts: Sequence[BlockResult], result: BlockResult, planned: Sequence[int]
    ) -> list[npt.NDArray[np.int64]]:
        """Give for each segment the queries that it must be asked for anew, with pages for all that it may hold."""
        k = result.ids.shape[1]
        found = []
        for part, share, first in zip(parts, self._shares, planned):
            held = np.count_nonzero(part.distances <= result.distances[:, -1:], axis=1)
            # Where all pages together held fewer than k rows, each segment gives what it has.
            asked = (held >= max(surprise_of(k, share), first + 1)) | result.short
            found.append(np.flatnonzero(asked & ~result.truncated & (first < part.ids.shape[1])))
        return found

    def chosen_for(self, query: npt.NDArray[Any], k: int, recall_target: float) -> list[int]:
        """Give how many of a query's k nearest each segment's pages are chosen for in the end."""
        most, planned = self._most(k), self.planned(k, recall_target)
        parts = carried(self._abreast(query, most, recall_target, planned))
        surprised = self._surprised(parts, merged(parts, k), planned)
        return [n if len(which) else first for n, first, which in zip(most, planned, surprised)]


@lru_cache(4_096)
def planned_of(k: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Give how many of the k nearest to choose pages for in segments of these shares of the rows.

    Shares rounded up; more than k in all, for a query's neighbours are never dealt as evenly as that.
    """
    planned = [ceil(round(k * share, 6)) for share in shares]
    if sum(planned) <= k:
        planned[shares.index(max(shares))] += 1
    return tuple(planned)


@lru_cache(4_096)
def surprise_of(k: int, share: float) -> int:
    """Give how many of the k nearest a segment of this share of the rows rarely holds, were rows dealt at random."""
    beyond = 1.0
    for n in range(k):
        beyond -= comb(k, n) * share**n * (1 - share) ** (k - n)
        if beyond <= _SURPRISE:
            return n + 1
    return k
