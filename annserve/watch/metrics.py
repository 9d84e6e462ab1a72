"""What a server counts: calls by method and status, and searches, pages, queues and memory by collection.

Series are there from the start, at 0, so that a rate has a beginning. Durations are seconds, sizes bytes, labels few
and never a caller's words. Where ``PROMETHEUS_MULTIPROC_DIR`` was set before this module was loaded, a process writes
its counts to files in that folder, and `exposition` adds up those of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.registry import Collector

from annserve.results import GRADES, SearchStats

REGISTRY = CollectorRegistry()
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

_METHOD = ("grpc_service", "grpc_method")
_CALLS = Counter("grpc_server_handled", "Calls that ended, by status.", (*_METHOD, "grpc_code"), registry=REGISTRY)
_CALL_SECONDS = Histogram(
    "grpc_server_handling_seconds", "From arrival to status.", _METHOD, registry=REGISTRY, buckets=_SECONDS
)

_ONE = ("collection",)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"annserve_{name}", text, (*_ONE, *labels), registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str, mode: Any = "livemax") -> Gauge:
    return Gauge(f"annserve_{name}", text, (*_ONE, *labels), registry=REGISTRY, multiprocess_mode=mode)


_QUERIES = _counter("queries", "Queries answered.")
_SEARCH_SECONDS = Histogram(
    "annserve_search_seconds", "A search call, waiting included.", _ONE, registry=REGISTRY, buckets=_SECONDS
)
_STAGE = Histogram(
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
        n_queries = len(stats.pages_read)
        self._queries.inc(n_queries)
        self._seconds.observe(seconds)
        self._stages["queue"].observe(queued_seconds)
        for stage, spent in stats.stage_seconds.items():
            if spent and stage in self._stages:
                self._stages[stage].observe(spent / max(n_queries, 1))
        for name, counter in self._counts:
            counter.inc(int(getattr(stats, name).sum()))
        for grade, counter in zip(range(1, len(GRADES)), self._grades if len(stats.grades) else ()):
            counter.inc(int((stats.grades == grade).sum()))
        if partial:
            self._partial.inc()

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


@cache
def meter(collection: str) -> Meter:
    """Give the series of a collection, which are there from now on."""
    return Meter(collection)


@cache
def _call_series(method: str, code: str) -> tuple[Counter, Histogram]:
    service, _, name = method.lstrip("/").partition("/")
    return _CALLS.labels(service, name, code), _CALL_SECONDS.labels(service, name)


def declare_methods(methods: tuple[str, ...]) -> None:
    """Let the series of these methods be there, as ``/annserve.v1.SearchService/Search``."""
    for method in methods:
        for code in _CODES:
            _call_series(method, code)


def count_call(method: str, code: str, seconds: float) -> None:
    """Count a call that ended with a status, ``OK`` or another."""
    calls, durations = _call_series(method, code)
    calls.inc()
    durations.observe(seconds)


def exposition(folder: Path | None, *further: Collector) -> bytes:
    """Write all series in Prometheus' text format.

    Parameters
    ----------
    folder : Path or None
        Where processes write their counts; None for those of this process alone.
    *further : Collector
        What is asked when it is written.
    """
    return generate_latest(registry_of(folder, *further))


def registry_of(folder: Path | None, *further: Collector) -> CollectorRegistry:
    """Give a registry to read series from, see `exposition`."""
    registry = CollectorRegistry()
    if folder is None:
        registry.register(REGISTRY)
    else:
        multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    for one in further:
        registry.register(one)
    return registry


def forget_process(pid: int, folder: Path) -> None:
    """Drop the gauges of a process that ended; its counts stay."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
