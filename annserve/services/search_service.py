"""SearchService: decode, search in turn, encode. What it refuses, it refuses before any work."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from annserve.audit import Auditor
from annserve.catalog.catalog import Catalog, Version
from annserve.catalog.schedule import Ask, Scheduler
from annserve.door.status import refusal_of
from annserve.errors import AnnserveError, BusyError, DeadlineError, InputError
from annserve.results import SearchResult
from annserve.rpc import search_pb2, search_pb2_grpc
from annserve.search.aside import AS_IT_COMES, CacheUse
from annserve.search.clock import Deadline
from annserve.services.convert import answer_bytes, queries_of, rerank_queries_of, response_of
from annserve.services.limits import K_DEFAULT, Limits
from annserve.services.recall_service import RecallMeter
from annserve.services.time_left import seconds_left
from annserve.spec import RECALL_TARGET_DEFAULT, check_cosine, check_request_id, check_session
from annserve.watch.calls import current_tenant, describe_call, name_call
from annserve.watch.metrics import meter

_ON_DEADLINE = frozenset(search_pb2.OnDeadline.values())


class SearchService(search_pb2_grpc.SearchServiceServicer):
    """Answers queries.

    Parameters
    ----------
    catalog : Catalog
    scheduler : Scheduler
        Runs the searches.
    limits : Limits
    auditor : Auditor
        Samples what is answered, and says what to ask of an index so that a declared recall is delivered.
    """

    def __init__(self, catalog: Catalog, scheduler: Scheduler, limits: Limits, auditor: Auditor) -> None:
        self._catalog = catalog
        self._scheduler = scheduler
        self._limits = limits
        self._auditor = auditor
        self._recall = RecallMeter(catalog, auditor, scheduler.give_way, limits)

    def Search(  # noqa: N802 - the name of the method in the proto
        self, request: search_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> search_pb2.SearchResponse:
        """Search one collection for a batch of queries."""
        name_call(check_request_id(request.request_id))
        return self._answer(request, context)

    def _answer(self, request: search_pb2.SearchRequest, context: grpc.ServicerContext) -> search_pb2.SearchResponse:
        begun = time.perf_counter()
        deadline = deadline_of(request, context)
        with self._catalog.lease(request.collection) as version:
            declared = self._ask_of(request, version)
            asked = self._auditor.asked(version.name, declared.recall_target)
            ask = declared if asked == declared.recall_target else declared._replace(recall_target=asked)
            describe_call(collection=version.name, queries=len(ask.queries))
            result = self._search(version, ask, deadline, context, begun)
            exact = ask.rerank_queries is None and ask.cache.approximate_cosine is None
            if exact and not result.partial:
                self._auditor.observe(version.name, version.snapshot, ask.queries, declared.recall_target, result)
            return response_of(request, result, version.snapshot)

    def _search(
        self, version: Version, ask: Ask, deadline: Deadline, context: grpc.ServicerContext, begun: float
    ) -> SearchResult:
        """Search in turn, and count what became of it; `begun` is when the call came (`time.perf_counter`)."""
        told = meter(version.name)
        try:
            result = self._scheduler.search(version, ask, deadline, context.add_callback)
        except BusyError:
            told.rejected("busy")
            raise
        except DeadlineError:
            told.rejected("late")
            raise
        seconds = time.perf_counter() - begun
        queued = max(seconds - result.stats.seconds, 0.0)
        told.searched(result.stats, seconds, queued_seconds=queued, partial=result.partial)
        return result

    def MeasureRecall(  # noqa: N802
        self, request: search_pb2.MeasureRecallRequest, context: grpc.ServicerContext
    ) -> search_pb2.MeasureRecallResponse:
        """Hold answers to queries against every row."""
        return self._recall.measure(request, context)

    def SearchStream(  # noqa: N802
        self, requests: Iterator[search_pb2.SearchStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[search_pb2.SearchStreamResponse]:
        """Answer requests as they come, in their order; a refused one is told, and the next is answered."""
        for one in requests:
            try:
                check_request_id(one.search.request_id)
                found = self._answer(one.search, context)
            except AnnserveError as error:
                refused = refusal_of(error)
                yield search_pb2.SearchStreamResponse(sequence=one.sequence, refused=refused)
            else:
                yield search_pb2.SearchStreamResponse(sequence=one.sequence, found=found)

    def _ask_of(self, request: search_pb2.SearchRequest, version: Version) -> Ask:
        """Read what is asked, within limits."""
        queries = queries_of(request)
        k = self._limits.check_k(request.k if request.HasField("k") else K_DEFAULT, version.collection.n_rows)
        self._check_size(len(queries), k)
        target = request.recall_target if request.HasField("recall_target") else RECALL_TARGET_DEFAULT
        if request.exact:
            if request.HasField("recall_target") and request.recall_target != 1.0:
                raise InputError("exact is asked for beside a recall_target below 1; leave one out", field="exact")
            target = 1.0
        candidates = request.rerank_candidates if request.HasField("rerank_candidates") else None
        self._check_candidates(candidates)
        return Ask(queries, k, target, rerank_queries_of(request), candidates, _cache_use_of(request, version))

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
        size = answer_bytes(n_queries, k)
        if size > limits.message_bytes:
            raise InputError(
                f"the answer to {n_queries} queries with k = {k} takes up to {size} bytes, but a message may "
                f"have {limits.message_bytes}; send fewer queries at once",
                field="queries",
            )


def _cache_use_of(request: search_pb2.SearchRequest, version: Version) -> CacheUse:
    """Read what is asked of the cache; who shows another key is another tenant."""
    session = check_session(request.session)
    cosine = check_cosine(request.approximate_cosine if request.HasField("approximate_cosine") else None)
    if "cache" not in version.info.get("ram_tiers", {}):
        # Calls that ask the same of a cache may share a batch: without one, all do.
        return AS_IT_COMES
    return CacheUse(session, current_tenant().encode(), request.bypass_cache, cosine)


def deadline_of(request: search_pb2.SearchRequest, context: grpc.ServicerContext) -> Deadline:
    """Give the time by which the caller wants its answer.

    Raises
    ------
    InputError
        If what is to be done then is unknown.
    DeadlineError
        If it has passed already, while the call waited for a thread.
    """
    if request.on_deadline not in _ON_DEADLINE:
        raise InputError(f"on_deadline {request.on_deadline} is unknown; use ERROR or PARTIAL", field="on_deadline")
    partial = request.on_deadline == search_pb2.ON_DEADLINE_PARTIAL
    remaining = seconds_left(context)
    if remaining is None:
        return Deadline(partial=partial)
    if remaining <= 0:
        raise DeadlineError("the deadline passed before the search began; allow more time")
    return Deadline(time.monotonic() + remaining, partial=partial)
