"""Measure what a query costs the CPU, and whether few threads keep up with the disk.

    python bench/engine.py INDEX QUERIES --json bench/results/<date>-engine/sift-32B.json

For one index in this process, past the page cache: CPU time of a query in a batch, what a call costs
beside (a query alone against one in a batch; and Python's part of it, with every kernel replaced by its last answer),
queries a second of a batch on one and more threads against what disk
and CPU allow, and latencies when queries arrive one by one, half as many as so many callers get answered. Loads take
turns, round after round;
medians count. What the disk gives is measured in the same rounds, on the index's own pages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import annserve
from annserve.index.snapshot import open_snapshot
from annserve.measure.counters import usage_now
from annserve.measure.machine import describe_machine
from annserve.measure.openloop import Schedule, run_open_pass
from annserve.measure.runner import Load, run_pass
from annserve.pages import kernels as page_kernels
from annserve.search import choose_codes
from annserve.storage import kernels as storage_kernels
from annserve.storage.probe import measure_reads
from annserve.storage.reader import open_reader
from annserve.vectors.formats import read_matrix

#: Pages in flight when the disk is asked for all that it has.
_DEPTH = 512
_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure CPU, overhead and throughput of an index.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--recall-target", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()

    queries = read_matrix(options.queries)
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    for turn in range(options.rounds + 1):
        for name, record in one_round(options, queries).items():
            if turn:  # the first one warms up
                rounds[name].append(record)
    medians = {
        name: {field: statistics.median(record[field] for record in records) for field in records[0]}
        for name, records in rounds.items()
    }
    report = {
        "machine": describe_machine(options.index),
        "options": {name: str(value) for name, value in vars(options).items() if name != "json"},
        "medians": medians,
        "rounds": rounds,
        "judged": judge(medians, options.threads),
    }
    print(json.dumps({"medians": medians, "judged": report["judged"]}, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def one_round(options: argparse.Namespace, queries: np.ndarray) -> dict[str, dict[str, float]]:
    """Measure everything once."""
    ask = {"k": options.k, "recall_target": options.recall_target}
    records = {"disk": disk(options.index)}
    with annserve.open(options.index, threads=1) as index:
        records["batch, 1 thread"] = batch(index, queries, ask)
        records["one by one"] = one_by_one(index, queries[:300], ask) | {
            "python_us": python_us(index, queries[:1], ask)
        }
    with annserve.open(options.index, threads=options.threads) as index:
        records[f"batch, {options.threads} threads"] = batch(index, queries, ask)
    with annserve.open(options.index, threads=1) as index:
        load = Load(options.recall_target, options.threads)
        closed = run_pass(index, queries, load, k=options.k)
        rate = len(queries) / closed.seconds / 2
        schedule = Schedule(rate, max(200, int(rate * _SECONDS)))
        answered = run_open_pass(index, queries, load, schedule, k=options.k)
        p50, p99 = np.percentile(answered.latency_us, (50, 99))
        records["half load"] = {"rate": rate, "p50_us": float(p50), "p99_us": float(p99)}
    return records


def batch(index: Any, queries: np.ndarray, ask: dict[str, Any]) -> dict[str, float]:
    """Ask all queries in one call, again and again for a while."""
    n_calls = 0
    before, begun = usage_now(), time.perf_counter()
    while n_calls == 0 or time.perf_counter() - begun < _SECONDS:
        result = index.search(queries, **ask)
        n_calls += 1
    elapsed, spent = time.perf_counter() - begun, usage_now().since(before)
    asked = n_calls * len(queries)
    return {
        "queries_per_second": asked / elapsed,
        "cpu_us": 1e6 * (spent.cpu_seconds or 0) / asked,
        "pages": float(result.stats.pages_read.mean()),
        "reads": float(result.stats.reads.mean()),
        "codes": float(result.stats.codes_scanned.mean()),
    }


def one_by_one(index: Any, queries: np.ndarray, ask: dict[str, Any]) -> dict[str, float]:
    """Ask each query in a call of its own."""
    before, begun = usage_now(), time.perf_counter()
    for i in range(len(queries)):
        index.search(queries[i : i + 1], **ask)
    elapsed, spent = time.perf_counter() - begun, usage_now().since(before)
    return {"latency_us": 1e6 * elapsed / len(queries), "cpu_us": 1e6 * (spent.cpu_seconds or 0) / len(queries)}


def python_us(index: Any, query: np.ndarray, ask: dict[str, Any]) -> float:
    """Ask one query again and again while every long kernel gives its last answer: what is left is Python and NumPy.

    What the stand-ins take by themselves is taken off. What a kernel's call takes to hand its arguments over isn't in
    it: some 10 µs for all of them, on a 3 GHz core. Short kernels, which count and check, are.
    """
    stand_ins = []
    with ExitStack() as patches:
        for module, name, n_outs in (
            (choose_codes, "choose_pages", 4),
            (page_kernels, "score_pages", 3),
            (storage_kernels, "uring_start", 0),
            (storage_kernels, "uring_finish", 0),
        ):
            stand_ins.append(Replaying(getattr(module, name), n_outs))
            patches.enter_context(patch.object(module, name, stand_ins[-1]))

        def stand_ins_alone() -> None:
            for one in stand_ins:
                one(*one.arguments)

        index.search(query, **ask)
        with_them = cpu_us_of(lambda: index.search(query, **ask))
        return with_them - cpu_us_of(stand_ins_alone)


def cpu_us_of(call: Callable[[], object]) -> float:
    """Give the thread's CPU time of one of a hundred calls, the least of twenty rounds."""
    rounds = []
    for _ in range(20):
        begun = time.thread_time()
        for _ in range(100):
            call()
        rounds.append(1e4 * (time.thread_time() - begun))
    return min(rounds)


class Replaying:
    """A stand-in that calls a kernel once, and then gives its answer and its last `n_outs` arrays again."""

    def __init__(self, kernel: Any, n_outs: int) -> None:
        self.arguments: tuple[Any, ...] = ()
        self._kernel = kernel
        self._n_outs = n_outs
        self._kept: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        outs = arguments[len(arguments) - self._n_outs :]
        if not self._kept:
            self.arguments = arguments
            self._kept = [self._kernel(*arguments), *(out.copy() for out in outs)]
        for out, values in zip(outs, self._kept[1:]):
            out[...] = values
        return self._kept[0]


def disk(folder: Path) -> dict[str, float]:
    """Read pages of the index at random, as many in flight as the disk takes."""
    segment = open_snapshot(folder).segments[0]
    reader = open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    ids = np.tile(np.random.default_rng().permutation(segment.n_pages).astype(np.uint32), 8)
    reads, _, cpu_us = measure_reads(reader, ids, min(_DEPTH, segment.n_pages), _SECONDS)
    reader.close()
    return {"reads_per_second": reads, "cpu_us_per_read": cpu_us}


def judge(medians: dict[str, dict[str, float]], threads: int) -> dict[str, float]:
    """Set the figures beside what disk and CPU allow."""
    alone, full, single = medians["batch, 1 thread"], medians[f"batch, {threads} threads"], medians["one by one"]
    by_disk = medians["disk"]["reads_per_second"] / full["reads"]
    by_cpu = threads * 1e6 / alone["cpu_us"]
    return {
        "queries_per_second_by_disk": by_disk,
        "queries_per_second_by_cpu": by_cpu,
        "share_of_what_is_possible": full["queries_per_second"] / min(by_disk, by_cpu),
        "cpu_us_of_a_call": single["cpu_us"] - alone["cpu_us"],
        "python_us_of_a_call": single["python_us"],
        "p99_over_p50_at_half_load": medians["half load"]["p99_us"] / medians["half load"]["p50_us"],
    }


if __name__ == "__main__":
    main()
