"""What is known of a running server, for the status page and for ``/metrics``: collections, jobs, processes."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from annserve.version import __version__
from annserve.watch.history import LOOK_SECONDS, History
from annserve.watch.metrics import exposition, registry_of, write_counts

LOG = logging.getLogger("annserve.watch")

#: Jobs that are shown, newest first.
_JOBS_SHOWN = 20
_MEMORY = {"RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}


@dataclass(frozen=True)
class Sources:
    """Whom to ask.

    Attributes
    ----------
    collections : callable
        Gives for each collection a mapping of ``name``, ``state``, ``reason``, ``info`` (as ``Collection.info``, or
        None where no version is open) and ``recall`` (``low``, ``recall``, ``queries``; None where none was audited).
    jobs : callable
        Gives for each job a mapping of ``job_id``, ``collection``, ``kind``, ``state``, ``stage``, ``done``, ``total``,
        ``unit``, ``seconds`` and ``outcome``, newest first.
    processes : callable
        Gives the number of each process by its name, as ``worker-0``.
    folder : Path or None
        Where processes write their counts; None for those of this process alone.
    address : str
        Where gRPC is answered.
    write : callable
        Has all processes write what they have counted.
    restarts : callable
        Gives how many workers were started anew.
    started : float
        Seconds since 1970.
    """

    collections: Callable[[], Sequence[Mapping[str, Any]]]
    jobs: Callable[[], Sequence[Mapping[str, Any]]] = lambda: ()
    processes: Callable[[], Mapping[str, int]] = lambda: {"server": os.getpid()}
    folder: Path | None = None
    address: str = ""
    write: Callable[[], None] = write_counts
    restarts: Callable[[], int] = lambda: 0
    started: float = field(default_factory=time.time)


class Board(Collector):
    """Answers what the page and ``/metrics`` ask; threads may share it. As a context, it keeps a history."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._history = History(self._registry)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="history", daemon=True)

    def status(self) -> dict[str, Any]:
        """Give everything as plain values, for the page."""
        sources = self._sources
        return {
            "server": {
                "version": __version__,
                "address": sources.address,
                "started": sources.started,
                "now": time.time(),
                "processes": [
                    {"name": name, "pid": pid, "memory": memory_of(pid)} for name, pid in sources.processes().items()
                ],
                "restarts": sources.restarts(),
            },
            "collections": [
                {**facts, "points": _shortened(self._history.points(facts["name"]))} for facts in sources.collections()
            ],
            "jobs": list(sources.jobs())[:_JOBS_SHOWN],
        }

    def metrics(self) -> bytes:
        """Give the series of all that is served in Prometheus' text format; what was answered before is in them."""
        self._sources.write()
        served = {facts["name"] for facts in self._sources.collections()}
        return exposition(self._sources.folder, self, served=served)

    def collect(self) -> Iterator[Metric]:
        """Give the series that are of no one process: processes, jobs, faults and recall of collections."""
        sources = self._sources
        info = GaugeMetricFamily("annserve_info", "Version of the server.", labels=["version"])
        info.add_metric([__version__], 1)
        memory = GaugeMetricFamily(
            "annserve_process_resident_bytes", "Memory of a process, by what backs it.", labels=["process", "kind"]
        )
        cpu = CounterMetricFamily("annserve_process_cpu_seconds", "Processor time of a process.", labels=["process"])
        for name, pid in sources.processes().items():
            for kind, n_bytes in memory_of(pid).items():
                memory.add_metric([name, kind], n_bytes)
            cpu.add_metric([name], _cpu_seconds(pid))
        yield from (info, memory, cpu)
        yield CounterMetricFamily(
            "annserve_worker_restarts", "Workers that were started anew.", value=sources.restarts()
        )
        faults = GaugeMetricFamily(
            "annserve_collection_fault", "1 where the newest version can't be served.", labels=["collection"]
        )
        recall = GaugeMetricFamily(
            "annserve_recall_lower_bound",
            "Lower bound of the recall of live queries, of all workers; NaN before it is measured.",
            labels=["collection"],
        )
        for facts in sources.collections():
            faults.add_metric([facts["name"]], float(bool(facts["reason"]) and facts["state"] != "opening"))
            recall.add_metric([facts["name"]], facts["recall"]["low"] if facts["recall"] else math.nan)
        jobs = GaugeMetricFamily("annserve_jobs", "Jobs by state.", labels=["state"])
        states = [job["state"] for job in sources.jobs()]
        for state in ("waiting", "running", "succeeded", "failed", "cancelled", "interrupted"):
            jobs.add_metric([state], states.count(state))
        yield from (faults, recall, jobs)

    def describe(self) -> list[Metric]:
        """Give nothing, so that registering asks nobody."""
        return []

    def _registry(self) -> CollectorRegistry:
        return registry_of(self._sources.folder)

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                self._history.look()
            except Exception:  # the next look may fare better; the thread must live
                LOG.exception("the counts of this moment can't be read")
            self._ended.wait(LOOK_SECONDS)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def memory_of(pid: int) -> dict[str, int]:
    """Give the resident bytes of a process that are its own, mapped from files, and shared; none once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {_MEMORY[name]: int(value.split()[0]) << 10 for name, value in pairs if name in _MEMORY}


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return math.nan
    return float(times.user + times.system)


def _shortened(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write floats short: the page draws some hundred points of each collection."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(one) for name, one in value.items()}
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return [{name: value if name == "at" else short(value) for name, value in one.items()} for one in points]
