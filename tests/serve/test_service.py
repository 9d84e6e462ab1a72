"""What the services decide by themselves, without a network."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from annserve.catalog.auditing import auditor_of
from annserve.catalog.catalog import Catalog
from annserve.catalog.schedule import Scheduler
from annserve.errors import DeadlineError, InputError
from annserve.results import SearchResult, SearchStats
from annserve.rpc import search_pb2
from annserve.services.convert import answer_bytes, response_of
from annserve.services.limits import Limits
from annserve.services.search_service import SearchService, deadline_of

PLAIN = search_pb2.SearchRequest()


def served(collection, scheduler: Scheduler, limits: Limits) -> SearchService:
    catalog = Catalog({"one": collection})
    return SearchService(catalog, scheduler, limits, auditor_of(catalog, scheduler))


class Context:
    def __init__(self, remaining: float | None = None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining

    def add_callback(self, callback) -> bool:
        return True


@pytest.fixture
def service():
    """Makes a service before one collection."""
    scheduler = Scheduler(1, 10)
    yield lambda collection, limits=None: served(collection, scheduler, limits or Limits())
    scheduler.close()


class Recorder:
    """A collection that notes how it is asked."""

    n_rows = 100

    def info(self):
        return {}

    def close(self):
        pass

    def search(self, queries, k=10, **asked):
        self.asked = {"queries": queries, "k": k, **asked}
        shape = (len(queries), k)
        return SearchResult(np.zeros(shape, np.uint64), np.zeros(shape, np.float32), SearchStats())


@pytest.mark.parametrize("remaining", [None, 9.2e18])
def test_no_deadline_of_the_caller_is_none_for_the_search(remaining):
    assert deadline_of(PLAIN, Context(remaining)).at == math.inf


def test_a_deadline_is_passed_on_as_a_time_of_the_monotonic_clock():
    assert deadline_of(PLAIN, Context(5.0)).at == pytest.approx(time.monotonic() + 5, abs=0.5)


def test_a_deadline_that_has_passed_is_an_error_before_any_work():
    with pytest.raises(DeadlineError, match="before the search began"):
        deadline_of(PLAIN, Context(0.0))


def test_what_a_request_leaves_out_takes_the_defaults_that_the_proto_promises(service):
    collection = Recorder()
    request = search_pb2.SearchRequest(vector=search_pb2.Vector(values=[1, 2]))
    service(collection).Search(request, Context())
    queries = collection.asked.pop("queries")
    assert (queries.shape, queries.dtype) == ((1, 2), np.float32)
    deadline = collection.asked.pop("deadline")
    assert (deadline.at, deadline.partial) == (math.inf, False)
    nothing = {"rerank_queries": None, "rerank_candidates": None}
    cache = {"session": b"", "tenant": b"", "bypass_cache": False, "approximate_cosine": None}
    assert collection.asked == {"k": 10, "recall_target": 0.95, **nothing, **cache}


def test_queries_are_views_of_the_request_and_not_copies(service):
    collection = Recorder()
    data = np.arange(6, dtype=np.uint8).tobytes()
    matrix = search_pb2.Matrix(row_type=search_pb2.ROW_TYPE_UINT8, dim=3, data=data)
    request = search_pb2.SearchRequest(matrix=matrix, k=1)
    service(collection).Search(request, Context())
    queries = collection.asked["queries"]
    assert not queries.flags.owndata
    np.testing.assert_array_equal(queries, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(queries=2), "3 queries; at most 2"),
        (Limits(k=4), "k is 5; this server gives at most 4"),
        (Limits(message_bytes=300), "send fewer queries"),
    ],
)
def test_each_limit_is_kept(service, limits, message):
    matrix = search_pb2.Matrix(row_type=search_pb2.ROW_TYPE_UINT8, dim=1, data=bytes(3))
    with pytest.raises(InputError, match=message):
        service(Recorder(), limits).Search(search_pb2.SearchRequest(matrix=matrix, k=5), Context())


@pytest.mark.parametrize(("n_queries", "k"), [(1, 1), (7, 3), (500, 100)])
def test_no_answer_is_larger_than_was_reckoned(n_queries, k):
    """With the counts as large as they can be; the slack is for tags, lengths and stage times."""
    counts = {name: np.full(n_queries, 2**63 - 1) for name in SearchStats.COUNTS}
    stages = dict.fromkeys(("navigate", "plan", "read", "score"), 1.5)
    result = SearchResult(
        np.full((n_queries, k), 2**64 - 1, np.uint64),
        np.ones((n_queries, k), np.float32),
        SearchStats(**counts, stage_seconds=stages, seconds=2.5),
    )
    size = len(response_of(PLAIN, result, 1).SerializeToString())
    assert size <= answer_bytes(n_queries, k) + 256
