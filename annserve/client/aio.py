"""The same client for asyncio: what ``Client`` does, awaited. Calls of one event loop share it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy.typing as npt

from annserve.client.convert import info_of, joined, result_of, server_info_of
from annserve.client.door import Door, Stubs
from annserve.client.parts import REQUESTS_UNDER_WAY, Batches, Options, Requests
from annserve.client.recall import RecallMeasured, recall_of, recall_request
from annserve.results import SearchResult
from annserve.rpc import admin_pb2, search_pb2


class AsyncClient(Door):
    """Searches on a server, from asyncio. Parameters and errors are those of ``Door``."""

    async def search(
        self, queries: npt.ArrayLike, k: int = 10, *, rerank_queries: npt.ArrayLike | None = None, **options: Any
    ) -> SearchResult:
        """Find the `k` nearest rows of each query; see ``Client.search``."""
        deadline = time.monotonic() + self._timeout
        requests = Requests(queries, rerank_queries, Options(k, **options), self._collection)
        return joined([result async for result in self._answers(requests, deadline)])

    async def search_batches(
        self, batches: Iterable[npt.ArrayLike], k: int = 10, **options: Any
    ) -> AsyncIterator[SearchResult]:
        """Search more queries than one would hold in memory; see ``Client.search_batches``."""
        requests = Batches(batches, Options(k, **options), self._collection)
        async for result in self._answers(requests):
            if (whole := requests.add(result)) is not None:
                yield whole

    async def measure_recall(
        self,
        queries: npt.ArrayLike | None = None,
        k: int = 10,
        *,
        live: int | None = None,
        recall_target: float | None = None,
        confidence: float | None = None,
    ) -> RecallMeasured:
        """Have queries answered, and held against every row; see ``Client.measure_recall``."""
        request = recall_request(
            self._collection, queries, live, k=k, recall_target=recall_target, confidence=confidence
        )
        return recall_of(await self._call(lambda stubs: stubs.search.MeasureRecall, request))

    async def info(self) -> dict[str, Any]:
        """Give the facts of the index under the names of ``Collection.info()``."""
        request = admin_pb2.GetIndexRequest(collection=self._collection)
        return info_of((await self._call(lambda stubs: stubs.admin.GetIndex, request)).index)

    async def server_info(self) -> dict[str, Any]:
        """Give the server's version, its start (UTC), its limits and the number of its processes."""
        request = admin_pb2.GetServerInfoRequest()
        return server_info_of(await self._call(lambda stubs: stubs.admin.GetServerInfo, request))

    async def close(self) -> None:
        """Close the connections; calls that are under way end at once."""
        self._closed = True
        for stubs in self._pool.stubs:
            await stubs.channel.close()

    def _connect(self, number: int) -> Stubs:
        options = self._endpoint.options(number)
        if self._credentials is None:
            return Stubs(grpc.aio.insecure_channel(self.address, options))
        return Stubs(grpc.aio.secure_channel(self.address, self._credentials, options))

    async def _answers(
        self, requests: Iterable[tuple[search_pb2.SearchRequest, int]], deadline: float | None = None
    ) -> AsyncIterator[SearchResult]:
        """Give the answers to requests in their order, some of them under way at once."""

        async def answer(request: search_pb2.SearchRequest, n_queries: int) -> SearchResult:
            return result_of(await self._call(lambda stubs: stubs.search.Search, request, deadline), n_queries)

        under_way: deque[asyncio.Task[SearchResult]] = deque()
        try:
            for asked in requests:
                under_way.append(asyncio.create_task(answer(*asked)))
                if len(under_way) == REQUESTS_UNDER_WAY:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for call in under_way:
                call.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _call(self, method: Callable[[Stubs], Any], request: object, deadline: float | None = None) -> Any:
        """Make a call, again where that may help."""
        made = self._tries(deadline)
        while True:
            if not (delay := made.delay_before()):
                with self._pool.connection() as stubs:
                    try:
                        asked = method(stubs)(request, timeout=made.remaining(), metadata=self._metadata(request))
                        answer = await asked
                    except grpc.RpcError as error:
                        delay = self._delay_after(error, made)
                    else:
                        made.answered()
                        return answer
            await asyncio.sleep(delay)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
