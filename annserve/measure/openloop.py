"""Open-loop runs: queries arrive at a rate that doesn't care how fast the answers come.

Invariants
----------
- Arrival times are fixed before the first query. A latency runs from the intended arrival to the answer, so that
  time spent waiting behind slow answers is in it: no coordinated omission [1].
- Callers take the next arrival whenever they are free. If all are busy, arrivals queue; none is dropped.
- What is asked is the whole schedule, however late: an overloaded target shows as latency that grows without end,
  and as `achieved` throughput below the rate.

References
----------
[1] Schroeder, Wierman, Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError
from annserve.measure.counters import usage_now
from annserve.measure.runner import Load, Pass, Recorder
from annserve.measure.target import SearchTarget

ARRIVALS = ("poisson", "fixed")


@dataclass(frozen=True)
class Schedule:
    """When queries arrive.

    Parameters
    ----------
    rate : float
        Arrivals a second on average.
    count : int
        Arrivals in all.
    arrivals : str
        ``poisson`` (independent, as users are) or ``fixed`` (evenly spaced).
    seed : int
        Of the Poisson process.
    """

    rate: float
    count: int
    arrivals: str = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rate > 0 or self.count < 1:
            raise InputError(f"rate is {self.rate} and count {self.count}; both must be above 0", field="rate")
        if self.arrivals not in ARRIVALS:
            raise InputError(f"arrivals is {self.arrivals!r}; use one of {', '.join(ARRIVALS)}", field="arrivals")

    def times_ns(self) -> npt.NDArray[np.int64]:
        """Give the (count,) moments of arrival, ascending, nanoseconds after the start."""
        if self.arrivals == "fixed":
            gaps = np.full(self.count, 1e9 / self.rate)
        else:
            gaps = np.random.default_rng(self.seed).exponential(1e9 / self.rate, self.count)
        return np.cumsum(gaps).astype(np.int64)


def rows_asked(schedule: Schedule, n_queries: int) -> npt.NDArray[np.int64]:
    """Say which query each arrival asks: all in turn, over and over."""
    return np.arange(schedule.count, dtype=np.int64) % n_queries


def run_open_pass(target: SearchTarget, queries: npt.NDArray[Any], load: Load, schedule: Schedule, *, k: int) -> Pass:
    """Ask on schedule, with ``load.threads`` callers at hand.

    Returns
    -------
    Pass
        One entry for each arrival, of query ``rows_asked``. `latency_us` counts from the intended arrival.

    Raises
    ------
    AnnserveError
        The first error of the target; the other callers stop at their next query.
    """
    times = schedule.times_ns()
    rows = rows_asked(schedule, len(queries))
    recorder = Recorder(schedule.count, k)
    turns = itertools.count()
    gate = threading.Barrier(load.threads + 1)
    stop = threading.Event()
    failures: list[BaseException] = []
    began_ns = 0

    def ask() -> None:
        try:
            gate.wait()
            gate.wait()
            # next() on a count is one step of the interpreter: no two callers get the same turn.
            while (turn := next(turns)) < schedule.count and not stop.is_set():
                intended = began_ns + int(times[turn])
                ahead = intended - time.perf_counter_ns()
                if ahead > 0:
                    time.sleep(ahead / 1e9)
                row = int(rows[turn])
                result = target.search(queries[row : row + 1], k, recall_target=load.recall_target)
                recorder.keep(turn, intended, time.perf_counter_ns(), result.ids, result.distances, result.stats)
        except BaseException as error:  # handed to the thread that joins us, below
            failures.append(error)
            stop.set()

    gc.collect()
    callers = [threading.Thread(target=ask, daemon=True) for _ in range(load.threads)]
    for caller in callers:
        caller.start()
    gate.wait()
    before = usage_now()
    began_ns = time.perf_counter_ns()
    gate.wait()
    try:
        for caller in callers:
            caller.join()
    finally:
        stop.set()
    if failures:
        raise failures[0]
    return recorder.finish(before, usage_now())
