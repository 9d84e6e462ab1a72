"""The two services: decode, ask the collection, encode. What they refuse, they refuse before any work.

A service knows collections by their contract ``Searchable`` alone, so that any engine can stand behind it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import grpc
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from annserve.errors import DeadlineError, InputError, NotFoundError
from annserve.results import SearchResult
from annserve.rpc import admin_pb2, admin_pb2_grpc, search_pb2, search_pb2_grpc
from annserve.serve.convert import answer_bytes, index_of, queries_of, rerank_queries_of, response_of
from annserve.spec import K_MAX, RECALL_TARGET_DEFAULT, check_k
from annserve.version import __version__

#: Neighbours of a query whose request doesn't say, as the proto promises.
K_DEFAULT = 10
#: A deadline further away than this is none: where a caller gave none, gRPC says some 9e18 seconds.
NEVER_SECONDS = 1e9

#: Indexes on one page of a list.
PAGE_SIZE_MAX = 100


class Searchable(Protocol):
    """What a server needs of a collection; ``annserve.collection.Collection`` is one."""

    @property
    def n_rows(self) -> int:
        """Rows that can be found."""

    def search(
        self,
        queries: npt.NDArray[Any],
        k: int = ...,
        *,
        recall_target: float = ...,
        rerank_queries: npt.NDArray[Any] | None = ...,
        rerank_candidates: int | None = ...,
        deadline: float | None = ...,
    ) -> SearchResult:
        """Find the `k` nearest rows of each query, or raise DeadlineError once `deadline` has passed."""

    def info(self) -> dict[str, Any]:
        """Give the facts of the index as plain values."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes
    ----------
    message_bytes : int
        Bytes of a request, and of an answer. gRPC refuses larger requests before they are read.
    queries : int
        Queries in one request.
    k : int
        Neighbours of one query, and candidates that its second vector ranks.
    """

    message_bytes: int = 64 << 20
    queries: int = 16_384
    k: int = K_MAX


class Catalog:
    """The collections of a server, by name."""

    def __init__(self, collections: Mapping[str, Searchable]) -> None:
        self._collections = dict(sorted(collections.items()))

    def names(self) -> list[str]:
        """Give the names in order."""
        return list(self._collections)

    def find(self, name: str) -> tuple[str, Searchable]:
        """Give a collection's name and itself; an empty name means the only one.

        Raises
        ------
        InputError
            If the name is empty and there are several.
        NotFoundError
            If there is none of that name.
        """
        if not name and len(self._collections) == 1:
            return next(iter(self._collections.items()))
        served = ", ".join(self._collections)[:200]
        if not name:
            raise InputError(f"several collections are served; name one of {served}", field="collection")
        if name not in self._collections:
            raise NotFoundError(f"no collection {name[:60]!r} is served here; there is {served}")
        return name, self._collections[name]


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


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Tells what the server is and what it serves."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = admin_pb2.Limits(**asdict(limits))
        self._started = Timestamp()
        self._started.GetCurrentTime()

    def GetServerInfo(  # noqa: N802
        self, request: admin_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetServerInfoResponse:
        """Tell version, limits, and since when the server answers."""
        return admin_pb2.GetServerInfoResponse(version=__version__, start_time=self._started, limits=self._limits)

    def GetIndex(  # noqa: N802
        self, request: admin_pb2.GetIndexRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetIndexResponse:
        """Describe one index."""
        name, collection = self._catalog.find(request.collection)
        return admin_pb2.GetIndexResponse(index=index_of(name, collection.info()))

    def ListIndexes(  # noqa: N802
        self, request: admin_pb2.ListIndexesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListIndexesResponse:
        """Describe the indexes by name, a page at a time; a token is the last name of the page before."""
        if request.page_size < 0:
            raise InputError(f"page_size is {request.page_size}; it can't be negative", field="page_size")
        names = self._catalog.names()
        if request.page_token and request.page_token not in names:
            raise InputError(
                f"page_token {request.page_token[:60]!r} wasn't given by this server; start without one",
                field="page_token",
            )
        left = [name for name in names if name > request.page_token]
        page = left[: min(request.page_size or PAGE_SIZE_MAX, PAGE_SIZE_MAX)]
        return admin_pb2.ListIndexesResponse(
            indexes=[index_of(name, self._catalog.find(name)[1].info()) for name in page],
            next_page_token=page[-1] if len(page) < len(left) else "",
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
