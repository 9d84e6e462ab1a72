"""SearchService: decode, ask the collection, encode. What it refuses, it refuses before any work."""

from __future__ import annotations

import time

import grpc

from annserve.errors import DeadlineError, InputError
from annserve.rpc import search_pb2, search_pb2_grpc
from annserve.serve.catalog import Catalog
from annserve.serve.convert import answer_bytes, queries_of, rerank_queries_of, response_of
from annserve.serve.limits import Limits
from annserve.spec import RECALL_TARGET_DEFAULT, check_k

#: Neighbours of a query whose request doesn't say, as the proto promises.
K_DEFAULT = 10
#: A deadline further away than this is none: where a caller gave none, gRPC says some 9e18 seconds.
NEVER_SECONDS = 1e9


class SearchService(search_pb2_grpc.SearchServiceServicer):
    """Answers queries."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = limits

    def Search(  # noqa: N802 - the name of the method in the proto
        self, request: search_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> search_pb2.SearchResponse:
        """Search one collection for a batch of queries."""
        deadline = deadline_of(context)
        _, collection = self._catalog.find(request.collection)
        queries = queries_of(request)
        k = check_k(request.k if request.HasField("k") else K_DEFAULT, collection.n_rows)
        self._check_size(len(queries), k)
        target = request.recall_target if request.HasField("recall_target") else RECALL_TARGET_DEFAULT
        candidates = request.rerank_candidates if request.HasField("rerank_candidates") else None
        self._check_candidates(candidates)
        result = collection.search(
            queries,
            k,
            recall_target=target,
            rerank_queries=rerank_queries_of(request),
            rerank_candidates=candidates,
            deadline=deadline,
        )
        return response_of(result, readable=request.WhichOneof("queries") == "vector")

    def _check_candidates(self, candidates: int | None) -> None:
        if candidates is not None and candidates > self._limits.k:
            raise InputError(
                f"rerank_candidates is {candidates}; this server ranks at most {self._limits.k}",
                field="rerank_candidates",
            )

    def _check_size(self, n_queries: int, k: int) -> None:
        limits = self._limits
        if n_queries > limits.queries:
            raise InputError(
                f"the request holds {n_queries} queries; at most {limits.queries} fit in one, send several",
                field="queries",
            )
        if k > limits.k:
            raise InputError(f"k is {k}; this server gives at most {limits.k}", field="k")
        size = answer_bytes(n_queries, k)
        if size > limits.message_bytes:
            raise InputError(
                f"the answer to {n_queries} queries with k = {k} takes up to {size} bytes, but a message may "
                f"have {limits.message_bytes}; send fewer queries at once",
                field="queries",
            )


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """Give the time (`time.monotonic`) by which the caller wants its answer; None if it will wait.

    Raises
    ------
    DeadlineError
        If it has passed already, while the call waited for a thread.
    """
    remaining = context.time_remaining()
    if remaining is None or remaining > NEVER_SECONDS:
        return None
    if remaining <= 0:
        raise DeadlineError("the deadline passed before the search began; allow more time")
    return time.monotonic() + remaining
