"""What a server counts: calls by method and status, and searches, pages, queues and memory by collection.

Series are there from the start, at 0, so that a rate has a beginning. Durations are seconds, sizes bytes, labels few
and never a caller's words. Where ``PROMETHEUS_MULTIPROC_DIR`` was set before this module was loaded, a process writes
its counts to files in that folder, and `exposition` adds up those of all processes.

What searches and calls count is taken note of at once and written to the series later, many at a time (`write_counts`):
written one by one, it was the dearest step of a call beside the search.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from annserve.results import GRADES, SearchStats

T = TypeVar("T")

REGISTRY = CollectorRegistry()
#: Searches of a collection, and calls, that are noted before whoever adds one writes them.
_NOTED_MOST = 4_096
#: Seconds; five a decade, so that a quantile read off between two of them is within some 10 %.
_SECONDS = (*(round(m * 10.0**e, 6) for e in range(-4, 1) for m in (1, 1.6, 2.5, 4, 6.3)), 10.0, 30.0)
_STAGE_SECONDS = (*(round(m * 10.0**e, 6) for e in range(-5, 0) for m in (1, 2.5, 5)), 1.0, 10.0)

STAGES = ("queue", "navigate", "rate", "choose", "read", "score", "rerank")
STATES = ("empty", "opening", "ready", "quarantined")
#: Why a search wasn't answered: too many waited, or its deadline passed first.
REASONS = ("busy", "late")
#: Statuses whose series are there from the start.
_CODES = (
    "OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "ABORTED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe each of these."""
        if amounts:
            self._sum.inc(sum(amounts))
            counts = np.bincount(np.searchsorted(self._upper_bounds, amounts), minlength=len(self._buckets))
            for i in np.flatnonzero(counts).tolist():
                self._buckets[i].inc(int(counts[i]))


_METHOD = ("grpc_service", "grpc_method")
_CALLS = Counter("grpc_server_handled", "Calls that ended, by status.", (*_METHOD, "grpc_code"), registry=REGISTRY)
_CALL_SECONDS = _Histogram(
    "grpc_server_handling_seconds", "From arrival to status.", _METHOD, registry=REGISTRY, buckets=_SECONDS
)

_ONE = ("collection",)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"annserve_{name}", text, (*_ONE, *labels), registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str, mode: Any = "livemax") -> Gauge:
    return Gauge(f"annserve_{name}", text, (*_ONE, *labels), registry=REGISTRY, multiprocess_mode=mode)


_QUERIES = _counter("queries", "Queries answered.")
_SEARCH_SECONDS = _Histogram(
    "annserve_search_seconds", "A search call, waiting included.", _ONE, registry=REGISTRY, buckets=_SECONDS
)
_STAGE = _Histogram(
    "annserve_stage_seconds",
    "A query's share of a stage of its call.",
    (*_ONE, "stage"),
    registry=REGISTRY,
    buckets=_STAGE_SECONDS,
)
#: Counts of a search, by their name in its statistics.
_COUNTS = {
    "pages_read": _counter("pages_read", "Pages read from the device."),
    "reads": _counter("reads", "Read operations on the device."),
    "bytes_read": _counter("read_bytes", "Bytes read from the device."),
    "pages_cached": _counter("pages_cached", "Pages that the page cache held."),
    "rows_scored": _counter("rows_scored", "Rows whose exact distance was computed."),
}
_GRADES = _counter("cache_answers", "Answers by how the lookaside cache took part; none without one.", "grade")
_SAVED = _counter("cache_pages_saved", "Pages that answers and proofs of a cache made needless.")
_EVICTED = _counter("cache_evictions", "What made room in a cache.", "kind")
_CACHE_BYTES = _gauge("cache_bytes", "Memory of caches, of all workers together.", mode="livesum")
_PARTIAL = _counter("partial_answers", "Calls answered in part, at their deadline.")
_REJECTED = _counter("rejected", "Searches that weren't answered for want of time or room.", "reason")
_QUEUE = _gauge("queue_calls", "Searches that wait.", mode="livesum")
_AUDITED = _counter("audited_queries", "Live queries held against all rows.")
_STATE = _gauge("collection_workers", "Workers to which a collection is in a state.", "state", mode="livesum")
_ROWS = _gauge("rows", "Rows that can be found.")
_VERSION = _gauge("index_version", "Version that is open.")
_RAM = _gauge("ram_bytes", "Memory of an index; but for its cache, which each has, workers share it.", "tier")
_DISK = _gauge("disk_bytes", "Bytes of an index on the device.")


class Meter:
    """The series of one collection; `meter` gives it. Threads may share it."""

    def __init__(self, collection: str) -> None:
        self._name = collection
        self._queries = _QUERIES.labels(collection)
        self._seconds = _SEARCH_SECONDS.labels(collection)
        self._stages = {stage: _STAGE.labels(collection, stage) for stage in STAGES}
        self._counts = [(name, counter.labels(collection)) for name, counter in _COUNTS.items()]
        self._grades = [_GRADES.labels(collection, grade) for grade in GRADES[1:]]
        self._saved = _SAVED.labels(collection)
        self._evicted = {kind: _EVICTED.labels(collection, kind) for kind in ("answer", "page")}
        self._partial = _PARTIAL.labels(collection)
        self._rejected = {reason: _REJECTED.labels(collection, reason) for reason in REASONS}
        self._queue = _QUEUE.labels(collection)
        self._audited = _AUDITED.labels(collection)
        self._noted: deque[tuple[SearchStats, float, float, bool]] = deque()
        self._tiers: set[str] = set()
        self.state("opening")

    def searched(
        self, stats: SearchStats, seconds: float, *, queued_seconds: float = 0.0, partial: bool = False
    ) -> None:
        """Count a call that was answered.

        Parameters
        ----------
        stats : SearchStats
            What its queries cost.
        seconds : float
            From its admission to its answer.
        queued_seconds : float
            Of them, those that it waited.
        partial : bool
            Whether the answer is declared to be partial.
        """
        self._noted.append((stats, seconds, queued_seconds, partial))
        if len(self._noted) >= _NOTED_MOST:
            self.write()

    def write(self) -> None:
        """Write what was noted of searches to the series."""
        noted = list(_taken(self._noted))
        if not noted:
            return
        searches, seconds, queued, partial = zip(*noted)
        self._seconds.observe_all(seconds)
        self._stages["queue"].observe_all(queued)
        self._partial.inc(sum(partial))
        sizes = [len(stats.pages_read) for stats in searches]
        self._queries.inc(sum(sizes))
        for stage in STAGES[1:]:
            spent = [(stats.stage_seconds.get(stage, 0.0), max(size, 1)) for stats, size in zip(searches, sizes)]
            self._stages[stage].observe_all([all_of_it / size for all_of_it, size in spent if all_of_it])
        for name, counter in self._counts:
            counter.inc(int(np.concatenate([getattr(stats, name) for stats in searches]).sum()))
        grades = np.bincount(np.concatenate([stats.grades for stats in searches]), minlength=len(GRADES))
        for count, counter in zip(grades[1:].tolist(), self._grades):
            counter.inc(count)

    def rejected(self, reason: str) -> None:
        """Count a search that wasn't answered for want of time or room; `reason` is one of `REASONS`."""
        self._rejected[reason].inc()

    def waiting(self, calls: int) -> None:
        """Tell how many searches wait in this process."""
        self._queue.set(calls)

    def audited(self, queries: int) -> None:
        """Count queries that were held against all rows."""
        self._audited.inc(queries)

    def cache_did(self, *, pages_saved: int, answers_evicted: int, pages_evicted: int) -> None:
        """Count what a cache did since it was last asked."""
        self._saved.inc(pages_saved)
        self._evicted["answer"].inc(answers_evicted)
        self._evicted["page"].inc(pages_evicted)

    def state(self, state: str) -> None:
        """Tell the state of the collection in this process, one of `STATES`."""
        for one in STATES:
            _STATE.labels(self._name, one).set(one == state)

    def gone(self) -> None:
        """Tell that the collection is served no longer, and holds nothing."""
        self.state("")
        self._holds(rows=0, disk_bytes=0, tiers={})

    def opened(self, info: Mapping[str, Any]) -> None:
        """Tell of the version that was opened.

        Parameters
        ----------
        info : mapping
            As ``Collection.info``.
        """
        _VERSION.labels(self._name).set(info["snapshot"])
        self._holds(rows=info["count"], disk_bytes=info["disk_bytes"], tiers=info["ram_tiers"])
        self.state("ready")

    def _holds(self, *, rows: int, disk_bytes: int, tiers: Mapping[str, int]) -> None:
        _ROWS.labels(self._name).set(rows)
        _DISK.labels(self._name).set(disk_bytes)
        _CACHE_BYTES.labels(self._name).set(tiers.get("cache", 0))
        for tier, n_bytes in (dict.fromkeys(self._tiers, 0) | dict(tiers)).items():
            _RAM.labels(self._name, tier).set(n_bytes)
        self._tiers |= set(tiers)


_METERS: dict[str, Meter] = {}


def meter(collection: str) -> Meter:
    """Give the series of a collection, which are there from now on."""
    return _METERS.get(collection) or _METERS.setdefault(collection, Meter(collection))


@cache
def _call_series(method: str, code: str) -> tuple[Counter, _Histogram]:
    service, _, name = method.lstrip("/").partition("/")
    return _CALLS.labels(service, name, code), _CALL_SECONDS.labels(service, name)


def declare_methods(methods: tuple[str, ...]) -> None:
    """Let the series of these methods be there, as ``/annserve.v1.SearchService/Search``."""
    for method in methods:
        for code in _CODES:
            _call_series(method, code)


def count_call(method: str, code: str, seconds: float) -> None:
    """Count a call that ended with a status, ``OK`` or another."""
    _CALLS_NOTED.append((method, code, seconds))
    if len(_CALLS_NOTED) >= _NOTED_MOST:
        _write_calls()


_CALLS_NOTED: deque[tuple[str, str, float]] = deque()


def _write_calls() -> None:
    by_series: dict[tuple[str, str], list[float]] = defaultdict(list)
    for method, code, seconds in _taken(_CALLS_NOTED):
        by_series[method, code].append(seconds)
    for (method, code), durations in by_series.items():
        calls, histogram = _call_series(method, code)
        calls.inc(len(durations))
        histogram.observe_all(durations)


def write_counts() -> None:
    """Write what this process has noted to the series. Threads may do so side by side: each count is written once."""
    for one in list(_METERS.values()):
        one.write()
    _write_calls()


def _taken(noted: deque[T]) -> Iterator[T]:
    """Take what is there, while others may add to it."""
    for _ in range(len(noted)):
        try:
            yield noted.popleft()
        except IndexError:  # another thread was faster
            return


class _Served(Collector):
    """The series of a collector but for those of collections that are gone: no process can take back its own."""

    def __init__(self, counted: Collector, served: Container[str]) -> None:
        self._counted, self._served = counted, served

    def collect(self) -> Iterator[Metric]:
        """Give the series."""
        for metric in self._counted.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if "collection" not in sample.labels or sample.labels["collection"] in self._served
            ]
            yield metric

    def describe(self) -> list[Metric]:
        """Give nothing, so that registering reads nothing."""
        return []


def exposition(folder: Path | None, *further: Collector, served: Container[str] | None = None) -> bytes:
    """Write all series in Prometheus' text format.

    Parameters
    ----------
    folder : Path or None
        Where processes write their counts; None for those of this process alone.
    *further : Collector
        What is asked when it is written.
    served : container of str, optional
        Collections whose series are written; by default all that there ever were.
    """
    return generate_latest(registry_of(folder, *further, served=served))


def registry_of(folder: Path | None, *further: Collector, served: Container[str] | None = None) -> CollectorRegistry:
    """Give a registry to read series from, see `exposition`; what this process has noted is written first."""
    write_counts()
    registry = CollectorRegistry()
    counted: Collector = REGISTRY
    if folder is not None:
        counted = multiprocess.MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    registry.register(counted if served is None else _Served(counted, served))
    for one in further:
        registry.register(one)
    return registry


def forget_process(pid: int, folder: Path) -> None:
    """Drop the gauges of a process that ended; its counts stay."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
