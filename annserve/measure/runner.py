"""Closed-loop runs: threads that each send one query, wait for its answer, and send the next.

Invariants
----------
- Every load is warmed up before the first clock starts, and repeated; repetitions are interleaved (A B A B),
  so that a machine that slows down hurts all loads alike.
- A latency is the time of one ``search`` call as its thread saw it. In a closed loop a slow answer delays the
  next question, so these latencies hold for this number of callers, not for a fixed rate of arrival.
- Every sample is kept until the end; statistics are made from them in ``annserve.measure.summary``.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.measure.counters import Usage, Witness, usage_now
from annserve.measure.target import NO_ID, SearchTarget
from annserve.results import SearchStats

#: Queries that warm up each load: enough to compile, connect and touch the RAM tiers.
WARM_UP_QUERIES = 50
#: Stands for a count that the target doesn't keep.
NO_COUNT = -1


@dataclass(frozen=True)
class Load:
    """What is asked of the target: a recall target, by so many callers at once."""

    recall_target: float
    threads: int


@dataclass(frozen=True)
class Pass:
    """All queries asked once under one load.

    Attributes
    ----------
    seconds : float
        From the first question to the last answer.
    latency_us : (nq,) float64
        Of each call, microseconds.
    ids : (nq, k) uint64
        Answers; `NO_ID` fills what is missing.
    distances : (nq, k) float32
        As the target gave them; NaN where missing.
    counts : dict of (nq,) int64
        `SearchStats.COUNTS` of each query, `NO_COUNT` where the target keeps none.
    cpu_seconds : float or None
        CPU time of the process that the witness looks at: the engine's, wherever it is.
    device_bytes_read : int or None
        Bytes that the kernel fetched from devices for that process.
    """

    seconds: float
    latency_us: npt.NDArray[np.float64]
    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float32]
    counts: dict[str, npt.NDArray[np.int64]]
    cpu_seconds: float | None
    device_bytes_read: int | None


def run_loads(
    target: SearchTarget,
    queries: npt.NDArray[Any],
    loads: Sequence[Load],
    *,
    k: int,
    repetitions: int = 3,
    witness: Witness = usage_now,
    listener: Listener = ignore,
) -> dict[Load, list[Pass]]:
    """Ask all queries under every load, several times over.

    Parameters
    ----------
    target : SearchTarget
        Called from as many threads as the load says.
    queries : (nq, dim) array, nq ≥ 1
        Each is one call.
    loads : sequence of Load
        Repeated in turn.
    k : int
        Results per query.
    repetitions : int
        Passes of each load, at least 1.
    witness : callable
        Reads the counters of the engine's process.
    listener : Listener
        Told of every pass.

    Returns
    -------
    dict
        `repetitions` passes for each load, in the order of `loads`.

    Raises
    ------
    InputError
        If there is nothing to ask, or fewer than one repetition or thread.
    AnnserveError
        The first error of the target, as it raised it.
    """
    if len(queries) == 0:
        raise InputError("there are no queries to ask; give at least one", field="queries")
    if repetitions < 1:
        raise InputError(f"repetitions is {repetitions}; it must be at least 1", field="repetitions")
    for load in loads:
        if load.threads < 1:
            raise InputError(f"threads is {load.threads}; it must be at least 1", field="threads")
        run_pass(target, queries[:WARM_UP_QUERIES], load, k=k)
    passes: dict[Load, list[Pass]] = {load: [] for load in loads}
    began = time.monotonic()
    listener(StageStarted("measure", len(loads) * repetitions * len(queries), "queries"))
    done = 0
    for _ in range(repetitions):
        for load in loads:
            passes[load].append(run_pass(target, queries, load, k=k, witness=witness))
            done += len(queries)
            listener(StageProgressed("measure", done))
    listener(StageFinished("measure", time.monotonic() - began))
    return passes


def run_pass(
    target: SearchTarget, queries: npt.NDArray[Any], load: Load, *, k: int, witness: Witness = usage_now
) -> Pass:
    """Ask every query once, thread t taking queries t, t + threads, …

    Raises
    ------
    AnnserveError
        The first error of the target; the other threads stop at their next query.
    """
    recorder = Recorder(len(queries), k)
    gate = threading.Barrier(load.threads)
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask(first: int) -> None:
        try:
            gate.wait()
            for row in range(first, len(queries), load.threads):
                if stop.is_set():
                    return
                query = queries[row : row + 1]
                asked = time.perf_counter_ns()
                result = target.search(query, k, recall_target=load.recall_target)
                recorder.keep(row, asked, time.perf_counter_ns(), result.ids, result.distances, result.stats)
        except BaseException as error:  # handed to the thread that joins us, below
            failures.append(error)
            stop.set()

    # A collection of earlier garbage must not fall into somebody's latency.
    gc.collect()
    callers = [threading.Thread(target=ask, args=(first,), daemon=True) for first in range(load.threads)]
    before = witness()
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        stop.set()
    after = witness()
    if failures:
        raise failures[0]
    return recorder.finish(before, after)


class Recorder:
    """Arrays that the callers write into, each its own rows, without a lock."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._asked_ns = np.zeros(n_queries, np.int64)
        self._answered_ns = np.zeros(n_queries, np.int64)
        self._ids = np.full((n_queries, k), NO_ID, np.uint64)
        self._distances = np.full((n_queries, k), np.nan, np.float32)
        self._counts = np.full((len(SearchStats.COUNTS), n_queries), NO_COUNT, np.int64)

    def keep(
        self,
        row: int,
        asked_ns: int,
        answered_ns: int,
        ids: npt.NDArray[np.uint64],
        distances: npt.NDArray[np.float32],
        stats: SearchStats,
    ) -> None:
        """Store one answer; an answer that is too narrow leaves the rest as missing."""
        self._asked_ns[row], self._answered_ns[row] = asked_ns, answered_ns
        width = min(ids.shape[1], self._ids.shape[1])
        self._ids[row, :width] = ids[0, :width]
        self._distances[row, :width] = distances[0, :width]
        for count, name in zip(self._counts, SearchStats.COUNTS):
            values = getattr(stats, name)
            if len(values):
                count[row] = values[0]

    def finish(self, before: Usage, after: Usage) -> Pass:
        """Give what was kept, once all callers have ended."""
        spent = after.since(before)
        return Pass(
            seconds=float(self._answered_ns.max() - self._asked_ns.min()) / 1e9,
            latency_us=(self._answered_ns - self._asked_ns) / 1e3,
            ids=self._ids,
            distances=self._distances,
            counts=dict(zip(SearchStats.COUNTS, self._counts)),
            cpu_seconds=spent.cpu_seconds,
            device_bytes_read=spent.device_bytes_read,
        )
