"""The last minutes of each collection, read off the counters every few seconds: what the status page draws."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

#: Seconds between two looks, and looks that are kept: ten minutes.
LOOK_SECONDS = 2.0
LOOKS_KEPT = 300
#: Rates and quantiles are of this many looks together, so that a quiet server's figures don't jump.
_SPAN = 5

_WANTED = {
    "annserve_queries_total": "queries",
    "annserve_pages_read_total": "pages",
    "annserve_pages_cached_total": "cached",
    "annserve_rejected_total": "rejected",
    "annserve_search_seconds_count": "calls",
    "annserve_queue_calls": "queue",
    "annserve_cache_pages_saved_total": "saved",
    "annserve_cache_evictions_total": "evicted",
}
_GRADED = "annserve_cache_answers_total"
_BUCKET = "annserve_search_seconds_bucket"


@dataclass(frozen=True)
class Point:
    """What a collection did in the seconds before a moment; None where nothing was asked of it.

    Attributes
    ----------
    at : float
        Seconds since 1970.
    queries_per_second, calls_per_second, rejected_per_second : float
    p50_seconds, p99_seconds : float or None
        Of search calls, within the width of a histogram's bucket.
    pages_per_query, cached_per_query : float or None
    queue_calls : float
        That wait, at the moment.
    saved_per_query : float or None
        Pages that answers and proofs of the cache made needless.
    evictions_per_second : float
    cache_shares : dict or None
        Share of the answers in which the cache took part in a way, by its grade; None where none did.
    """

    at: float
    queries_per_second: float
    calls_per_second: float
    rejected_per_second: float
    p50_seconds: float | None
    p99_seconds: float | None
    pages_per_query: float | None
    cached_per_query: float | None
    queue_calls: float
    saved_per_query: float | None
    evictions_per_second: float
    cache_shares: dict[str, float] | None


@dataclass
class _Look:
    """Counters of one collection at a moment, answers by grade, and its cumulative histogram: upper bound → calls."""

    at: float
    counts: dict[str, float] = field(default_factory=dict)
    grades: dict[str, float] = field(default_factory=dict)
    buckets: dict[float, float] = field(default_factory=dict)


class History:
    """Points of each collection; one thread looks, others read.

    Parameters
    ----------
    registry : callable
        Gives what to read the counters from.
    """

    def __init__(self, registry: Callable[[], CollectorRegistry]) -> None:
        self._registry = registry
        self._looks: dict[str, deque[_Look]] = {}
        self._points: dict[str, deque[Point]] = {}

    def look(self) -> None:
        """Read the counters once."""
        for name, look in _read(self._registry().collect(), time.time()).items():
            looks = self._looks.setdefault(name, deque(maxlen=_SPAN + 1))
            points = self._points.setdefault(name, deque(maxlen=LOOKS_KEPT))
            if looks:
                points.append(_between(looks[0], look))
            looks.append(look)

    def points(self, collection: str) -> list[dict[str, Any]]:
        """Give the points of a collection, oldest first, as plain values."""
        return [asdict(point) for point in list(self._points.get(collection, ()))]


def _read(metrics: Iterable[Metric], now: float) -> dict[str, _Look]:
    looks: dict[str, _Look] = {}
    for metric in metrics:
        for sample in metric.samples:
            name, labels, value = sample.name, sample.labels, sample.value
            wanted = _WANTED.get(name)
            if not wanted and name not in (_GRADED, _BUCKET):
                continue
            look = looks.setdefault(labels["collection"], _Look(now))
            if wanted:
                look.counts[wanted] = look.counts.get(wanted, 0.0) + value
            elif name == _GRADED:
                look.grades[labels["grade"]] = value
            else:
                look.buckets[float(labels["le"])] = value
    return looks


def _between(before: _Look, after: _Look) -> Point:
    seconds = max(after.at - before.at, 1e-3)

    def grown(name: str) -> float:
        return max(after.counts.get(name, 0.0) - before.counts.get(name, 0.0), 0.0)

    queries = grown("queries")
    calls = {bound: count - before.buckets.get(bound, 0.0) for bound, count in after.buckets.items()}
    graded = {grade: count - before.grades.get(grade, 0.0) for grade, count in after.grades.items()}
    answers = sum(graded.values())
    return Point(
        at=round(after.at, 1),
        queries_per_second=queries / seconds,
        calls_per_second=grown("calls") / seconds,
        rejected_per_second=grown("rejected") / seconds,
        p50_seconds=quantile(calls, 0.50),
        p99_seconds=quantile(calls, 0.99),
        pages_per_query=grown("pages") / queries if queries else None,
        cached_per_query=grown("cached") / queries if queries else None,
        queue_calls=after.counts.get("queue", 0.0),
        saved_per_query=grown("saved") / queries if queries else None,
        evictions_per_second=grown("evicted") / seconds,
        cache_shares={grade: count / answers for grade, count in graded.items()} if answers > 0 else None,
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Read a quantile off a cumulative histogram; None of an empty one.

    Parameters
    ----------
    buckets : mapping
        Upper bound, infinity among them → values up to it.
    share : float
        0.5 is the median.
    """
    bounds: Sequence[float] = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if math.isinf(bound):
                return low  # beyond the last bound nothing is known
            inside = buckets[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside else 1.0)
        low, below = bound, buckets[bound]
    return low
