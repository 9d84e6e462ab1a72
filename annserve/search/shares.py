"""A call's queries, in blocks that threads share; and one result of all blocks' answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.lookaside.asked import Asked
from annserve.results import SearchResult, SearchStats
from annserve.search.block import BlockResult
from annserve.search.clock import Deadline
from annserve.search.engine import Engine
from annserve.search.rerank import Rerank
from annserve.search.segments import Engines


class Shares:
    """Lets threads share the queries of a call.

    Parameters
    ----------
    engine : Engine or Engines
    n_threads : int
        With one, it is the caller's.
    """

    def __init__(self, engine: Engine | Engines, n_threads: int) -> None:
        self._engine = engine
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, "annserve-search") if n_threads > 1 else None

    def search(
        self,
        vectors: npt.NDArray[Any],
        k: int,
        recall_target: float,
        rerank: Rerank | None,
        deadline: Deadline,
        begun: float,
        asked: Asked | None = None,
    ) -> SearchResult:
        """Search for valid queries in a call that began at ``time.perf_counter()`` `begun`; see ``Engine.search``."""
        size = 1
        if len(vectors) > 1:
            share, wanted = -(-len(vectors) // self._n_threads), rerank.candidates if rerank else k
            size = self._engine.block_queries(share, wanted, recall_target)
        if 0 < len(vectors) <= size:
            alone = self._engine.search(vectors, k, recall_target, rerank=rerank, deadline=deadline, asked=asked)
            return one_result([alone], k, begun, asked)
        blocks = deque((start, vectors[start : start + size]) for start in range(0, len(vectors), size))

        def answer() -> list[tuple[int, BlockResult]]:
            try:
                search = self._engine.search_blocks
                return list(search(_taken(blocks), k, recall_target, rerank=rerank, deadline=deadline, asked=asked))
            except BaseException:
                blocks.clear()  # nobody needs the rest
                raise

        pool = self._pool
        if pool is None or not blocks:
            shares = [answer()]
        else:
            jobs = [pool.submit(answer) for _ in range(min(self._n_threads, len(blocks)))]
            wait(jobs)  # after an error too: none may go on behind the caller's back
            shares = [job.result() for job in jobs]
        return one_result([result for _, result in sorted(chain(*shares), key=itemgetter(0))], k, begun, asked)

    def close(self) -> None:
        """Let the threads go. Whoever searches after that does so in a thread of its own, and finds files closed."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()


def one_result(answers: Sequence[BlockResult], k: int, begun: float, asked: Asked | None = None) -> SearchResult:
    """Make one result of the answers to a call's blocks, in their order."""
    if not answers:
        return SearchResult(np.zeros((0, k), np.uint64), np.zeros((0, k), np.float32), SearchStats())
    if len(answers) == 1:
        (answer,) = answers
        ids, distances, counts, stages = answer.ids, answer.distances, answer.counts, answer.seconds
        truncated = answer.truncated
    else:
        ids = np.concatenate([answer.ids for answer in answers])
        distances = np.concatenate([answer.distances for answer in answers])
        counts = np.concatenate([answer.counts for answer in answers], axis=1)
        truncated = np.concatenate([answer.truncated for answer in answers])
        stages = {}
        for answer in answers:
            for name, spent in answer.seconds.items():
                stages[name] = stages.get(name, 0.0) + spent
    stats = SearchStats.of(counts, stages, time.perf_counter() - begun, asked.grades if asked else None)
    return SearchResult(ids, distances.astype(np.float32, copy=False), stats, truncated)


def _taken(blocks: deque[tuple[int, npt.NDArray[Any]]]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Take blocks one by one until none is left; threads may share them."""
    with suppress(IndexError):
        while True:
            yield blocks.popleft()
