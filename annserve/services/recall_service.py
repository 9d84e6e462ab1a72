"""MeasureRecall: queries of the caller, or live ones, answered as ever and held against every row."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import numpy as np
import numpy.typing as npt

from annserve.audit import Auditor, measure_recall
from annserve.catalog.catalog import Catalog, Version
from annserve.confidence import RecallBounds
from annserve.errors import BusyError, DeadlineError, InputError
from annserve.rpc import search_pb2
from annserve.services.convert import queries_of
from annserve.services.limits import K_DEFAULT, Limits
from annserve.services.time_left import seconds_left
from annserve.spec import RECALL_TARGET_DEFAULT, check_recall_target

#: Queries in one call: each is held against every row.
MEASURED_QUERIES_MAX = 1_000
CONFIDENCE_DEFAULT, CONFIDENCE_LEAST, CONFIDENCE_MOST = 0.95, 0.5, 0.9999
#: How long a batch of pages waits for searches to rest.
_PATIENCE_SECONDS = 0.2


class RecallMeter:
    """Measures recall on demand, for one caller at a time.

    Parameters
    ----------
    catalog : Catalog
    auditor : Auditor
        Has live queries, and says what is asked of an index in the place of what callers declare.
    give_way : callable
        Waits until no search waits, at most so many seconds.
    limits : Limits
    """

    def __init__(self, catalog: Catalog, auditor: Auditor, give_way: Callable[[float], bool], limits: Limits) -> None:
        self._catalog, self._auditor, self._give_way, self._limits = catalog, auditor, give_way, limits
        self._alone = threading.Lock()

    def measure(
        self, request: search_pb2.MeasureRecallRequest, context: grpc.ServicerContext
    ) -> search_pb2.MeasureRecallResponse:
        """Answer MeasureRecall.

        Raises
        ------
        InputError
            If the request is wrong, or there are no live queries yet.
        BusyError
            If another caller's measurement runs.
        DeadlineError
            If the caller's time is spent, or it went away.
        """
        confidence = request.confidence if request.HasField("confidence") else CONFIDENCE_DEFAULT
        if not CONFIDENCE_LEAST <= confidence <= CONFIDENCE_MOST:
            raise InputError(
                f"confidence is {confidence}; it must lie between {CONFIDENCE_LEAST} and {CONFIDENCE_MOST}",
                field="confidence",
            )
        target = request.recall_target if request.HasField("recall_target") else RECALL_TARGET_DEFAULT
        check_recall_target(target)
        with self._catalog.lease(request.collection) as version:
            queries = self._queries_of(request, version)
            k = self._limits.check_k(request.k if request.HasField("k") else K_DEFAULT, version.collection.n_rows)
            if not self._alone.acquire(blocking=False):
                raise BusyError("another measurement of recall runs; ask again after it", retry_after_ms=2_000)
            try:
                measured = measure_recall(
                    version.collection,
                    queries,
                    k,
                    self._auditor.asked(version.name, target),
                    confidence=confidence,
                    between=lambda: self._between(context),
                )
            finally:
                self._alone.release()
            return search_pb2.MeasureRecallResponse(
                recall=estimate_of(k, target, measured.bounds),
                query_recalls=measured.query_recalls.tolist(),
                pages_mean=measured.pages_mean,
                snapshot=version.snapshot,
            )

    def _queries_of(self, request: search_pb2.MeasureRecallRequest, version: Version) -> npt.NDArray[np.generic]:
        if request.WhichOneof("queries") == "live":
            if not 1 <= request.live <= MEASURED_QUERIES_MAX:
                raise InputError(f"live is {request.live}; ask for 1 to {MEASURED_QUERIES_MAX}", field="live")
            # A version may have another dimension than the one before it.
            dim = version.info["dim"]
            sampled = self._auditor.live_queries(version.name, MEASURED_QUERIES_MAX)
            live = [query for query in sampled if len(query) == dim][-request.live :]
            if not live:
                raise InputError(
                    f"no query of {version.name!r} has been sampled yet; give some, or ask later", field="live"
                )
            return np.stack(live)
        queries = queries_of(request)
        if not 1 <= len(queries) <= MEASURED_QUERIES_MAX:
            raise InputError(
                f"the request holds {len(queries)} queries; give 1 to {MEASURED_QUERIES_MAX}", field="queries"
            )
        return queries

    def _between(self, context: grpc.ServicerContext) -> None:
        """Let searches go first; end where nobody waits for the answer any more."""
        if not context.is_active() or seconds_left(context) == 0:
            raise DeadlineError(
                "the deadline passed before every row was scored; allow more time, or give fewer queries"
            )
        self._give_way(_PATIENCE_SECONDS)


def estimate_of(k: int, recall_target: float, bounds: RecallBounds) -> search_pb2.RecallEstimate:
    """Give what is known of a recall as a message; a `k` of 0 where several were asked for."""
    return search_pb2.RecallEstimate(
        k=k,
        recall_target=recall_target,
        queries=bounds.queries,
        recall=bounds.recall,
        recall_low=bounds.low,
        recall_high=bounds.high,
        confidence=bounds.confidence,
    )
