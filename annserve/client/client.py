"""The client of a server: numpy in and out, typed errors; threads may share it.

A large batch travels in several requests, some of them at once; the time-out covers them all, their repetitions
included (``retry``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy.typing as npt

from annserve.client.convert import info_of, joined, result_of, server_info_of
from annserve.client.door import SyncDoor
from annserve.client.parts import REQUESTS_UNDER_WAY, Batches, Options, Requests
from annserve.client.recall import RecallMeasured, recall_of, recall_request
from annserve.results import SearchResult
from annserve.rpc import admin_pb2, search_pb2


class Client(SyncDoor):
    """Searches on a server; threads may share it. Parameters and errors are those of ``Door``."""

    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__(address, **settings)
        #: For batches of several requests; a thread begins when it is needed.
        self._threads = ThreadPoolExecutor(REQUESTS_UNDER_WAY, "annserve-client")

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        rerank_queries: npt.ArrayLike | None = None,
        **options: Any,
    ) -> SearchResult:
        """Find the `k` nearest rows of each query.

        Parameters
        ----------
        queries : (nq, dim) or (dim,) array
            float32, float16, uint8 and int8 travel as they are, other numbers as float32.
        k : int
            Neighbours wanted, 1 to 1,000.
        rerank_queries : (nq, raw dim) or (raw dim,) array, optional
            The same queries by the other encoder whose vectors the index keeps; they rank the candidates.
        **options
            As of ``Options``: ``recall_target``, ``exact``, ``rerank_candidates``, ``on_deadline``, ``session``,
            ``bypass_cache``, ``approximate_cosine``, ``request_id``.

        Returns
        -------
        SearchResult
            Its ``stats`` are the server's: pages, bytes and stages, and how its cache took part. Under
            ``on_deadline="partial"`` it may be ``partial``; ``truncated`` says of which queries. A batch of more
            requests than go at once (some thousands of queries) isn't, but a DeadlineError, where time is spent before
            the last of them is sent.

        Raises
        ------
        InputError
            If the queries, k, the recall target or what is to be ranked anew are wrong.
        """
        deadline = time.monotonic() + self._timeout
        requests = Requests(queries, rerank_queries, Options(k, **options), self._collection)
        return joined(list(self._answers(requests, len(requests), deadline)))

    def search_batches(self, batches: Iterable[npt.ArrayLike], k: int = 10, **options: Any) -> Iterator[SearchResult]:
        """Search more queries than one would hold in memory.

        Parameters
        ----------
        batches : iterable of (nq, dim) arrays
            Each taken when its turn comes; of a matrix that would be each of its rows.
        k, **options
            As of `search`; the time-out is that of each request.

        Yields
        ------
        SearchResult
            For each batch, in order; some requests are under way meanwhile.
        """
        requests = Batches(batches, Options(k, **options), self._collection)
        for result in self._answers(requests):
            if (whole := requests.add(result)) is not None:
                yield whole

    def measure_recall(
        self,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        *,
        live: int | None = None,
        recall_target: float | None = None,
        confidence: float | None = None,
    ) -> RecallMeasured:
        """Have queries answered, and held against every row of the index.

        Parameters
        ----------
        queries : (nq, dim) or (dim,) array, optional
        k : int
        live : int, optional
            Instead of queries: so many of those that the server was asked of late.
        recall_target : float, optional
            Whose answers are judged; the server's default if absent.
        confidence : float, optional
            How sure the bounds are, 0.95 if absent.

        Returns
        -------
        RecallMeasured
        """
        request = recall_request(
            self._collection, queries, live, k=k, recall_target=recall_target, confidence=confidence
        )
        return recall_of(self._call(lambda stubs: stubs.search.MeasureRecall, request))

    def info(self) -> dict[str, Any]:
        """Give the facts of the index under the names of ``Collection.info()``."""
        request = admin_pb2.GetIndexRequest(collection=self._collection)
        return info_of(self._call(lambda stubs: stubs.admin.GetIndex, request).index)

    def server_info(self) -> dict[str, Any]:
        """Give the server's version, its start (UTC), its limits and the number of its processes."""
        return server_info_of(self._call(lambda stubs: stubs.admin.GetServerInfo, admin_pb2.GetServerInfoRequest()))

    def close(self) -> None:
        """Close the connections; calls that are under way end at once."""
        super().close()
        self._threads.shutdown(cancel_futures=True)

    def _answers(
        self,
        requests: Iterable[tuple[search_pb2.SearchRequest, int]],
        n_requests: int | None = None,
        deadline: float | None = None,
    ) -> Iterator[SearchResult]:
        """Give the answers to requests in their order, some of them under way at once."""

        def answer(request: search_pb2.SearchRequest, n_queries: int) -> SearchResult:
            return result_of(self._call(lambda stubs: stubs.search.Search, request, deadline), n_queries)

        if n_requests == 1:
            yield from (answer(*asked) for asked in requests)
            return
        under_way: deque[Future[SearchResult]] = deque()
        try:
            for asked in requests:
                self._check_open()
                under_way.append(self._threads.submit(answer, *asked))
                if len(under_way) == REQUESTS_UNDER_WAY:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for call in under_way:
                call.cancel()
