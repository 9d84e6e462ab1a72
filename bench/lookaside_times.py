"""Time the lookaside cache: look-ups, a repeat from end to end, and what a query that finds nothing pays.

    python bench/lookaside_times.py INDEX QUERIES --out bench/results/<date>-cache/times.json

Microseconds, as the caller sees them: some 3 of each are Python handing arrays to a kernel. Queries without and with a
cache come in turns, each new to both, alone and in batches; what the cache costs is the median of the differences. All
of that is done by several processes, one after another, and the median of theirs is told: what a process gets of
memory and of neighbours changes a few in a hundred.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from annserve import collection
from annserve.collection import Collection
from annserve.lookaside.asked import ScoredPages
from annserve.lookaside.lookaside import Lookaside
from annserve.lookaside.near_kernels import BITS_NEAR, RING, find_similar
from annserve.lookaside.store_kernels import NEAR_KEPT
from annserve.pages.rows import quantize_queries
from annserve.spec import IndexSpec
from annserve.vectors.formats import read_matrix

K = 10
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the lookaside cache.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.processes > 1:
        report = of_processes(options)
        tell(report)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")
        return
    queries = read_matrix(options.queries)
    queries = queries if queries.dtype == np.uint8 else queries.astype(np.float32)
    queries = queries[np.sort(np.unique(queries, axis=0, return_index=True)[1])]
    report: dict[str, dict[str, float]] = {}
    with collection.open(options.index, threads=1) as off:
        share = off.info()["disk_bytes"] // 10
        for places in (64, 16_384):
            report[f"look-up among {places} recent queries"] = looked_up(off.spec, queries, places)
        with collection.open(options.index, threads=1, cache_bytes=share) as on:
            for _ in range(3):
                on.search(queries[:1], K)
            report["a hit among 16 threads and a writer"] = hammered(off.spec, queries)
            report["repeat, end to end"] = told([timed(lambda: on.search(queries[:1], K))[0] for _ in range(2_000)])
            report |= in_turns(off, on, queries[100 : options.count])
    for size in (1, 8, 64):
        report |= batches(options.index, queries[: options.count], size)
    print(json.dumps(report))


def of_processes(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Do it all in processes of their own, and give the median of each figure."""
    command = [sys.executable, __file__, options.index, options.queries, "--count", options.count, "--processes", 1]
    reports = [
        json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
        for _ in range(options.processes)
    ]
    figures: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        for name, found in report.items():
            for key, value in found.items():
                figures.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: round(statistics.median(values), 4) for key, values in found.items()}
        for name, found in figures.items()
    }


def tell(report: dict[str, dict[str, float]]) -> None:
    for name, found in report.items():
        print(f"{name:56}", "  ".join(f"{key} {value:9.2f}" for key, value in found.items()))


def in_turns(off: Collection, on: Collection, queries: np.ndarray) -> dict[str, dict[str, float]]:
    """Ask new queries without and with the cache in turns, either first every second time; then near-duplicates.

    A miss is a query of which the cache held no page. Navigation is what comes before pages, the same either way. A
    near-duplicate comes right after its query, and one of a query that was asked 20 turns before.
    """
    spent: dict[str, list[float]] = {}
    for i in range(len(queries)):
        query, took = queries[i : i + 1], {}
        for index in ((off, on), (on, off))[i % 2]:
            took[index], found = timed(lambda of=index, q=query: of.search(q, K))
            if index is on:
                grade = found.stats.cache[0]
        spent.setdefault(f"{grade}, end to end", []).append(took[on])
        spent.setdefault(f"… the same without a cache, {grade}", []).append(took[off])
        spent.setdefault(f"… what it takes more, {grade}", []).append(took[on] - took[off])
        for when, earlier in (("", queries[max(i - 20, 0)]), (" at once", query[0])):
            near = (earlier * np.float32(1 + 1e-5))[None]
            seconds, found = timed(lambda q=near: on.search(q, K))
            if found.stats.cache[0] == "certified":
                before_pages = sum(found.stats.stage_seconds[stage] for stage in ("navigate", "rate", "choose"))
                spent.setdefault(f"certified near-duplicate{when}, end to end", []).append(seconds)
                spent.setdefault(f"… beside navigation{when}", []).append(seconds - before_pages)
    return {name: told(seconds) for name, seconds in spent.items()}


def batches(path: Path, queries: np.ndarray, size: int) -> dict[str, dict[str, float]]:
    """Ask batches of new queries without and with a cache of a hundredth of the index, so that little is ever held."""
    with collection.open(path, threads=1) as off:
        n_bytes = off.info()["disk_bytes"] // 100
        with collection.open(path, threads=1, cache_bytes=n_bytes) as on:
            spent: dict[Collection, list[float]] = {off: [], on: []}
            held = planned = 0
            for first in range(0, len(queries) - size + 1, size):
                batch = queries[first : first + size]
                for index in ((off, on), (on, off))[first // size % 2]:
                    seconds, found = timed(lambda of=index, q=batch: of.search(q, K))
                    spent[index].append(seconds / size)
                held += int(found.stats.pages_cached.sum())
                planned += int(found.stats.pages_cached.sum() + found.stats.pages_read.sum())
    without, more = np.array(spent[off]), np.array(spent[on]) - np.array(spent[off])
    share = float(np.median(more) / np.median(without))
    return {
        f"a query of a batch of {size} without a cache": told(without.tolist()),
        f"… what a small cache takes more, of {size}": {
            **told(more.tolist()),
            "share": round(share, 4),
            "pages_held": round(held / max(planned, 1), 4),
        },
    }


def hammered(spec: IndexSpec, queries: np.ndarray, seconds: float = 4.0) -> dict[str, float]:
    """Let 16 threads find answers of a cache, in batches of 64, and one more write others; time is that of one answer.

    Answers follow from their queries, so that a torn one is seen. Each thread's share of the processor is a slice, so
    its clock is that of the thread.
    """
    cache, queries, done = Lookaside(8 << 20, spec), queries[:512], threading.Event()
    others = queries[::-1] * np.float32(0.5)
    spent: list[float] = []
    torn = 0

    def keep(which: np.ndarray) -> None:
        asked, none = cache.ask(which, K, 0.95), np.zeros(len(which), np.int64)
        ids, distances = answers_of(which)
        asked.remember(quantize_queries(which), ids, distances, none + 1, none, None)

    def find(seed: int) -> None:
        nonlocal torn
        random, mine = np.random.default_rng(seed), []
        while not done.is_set():
            batch = queries[random.integers(0, len(queries), 64)]
            begun = time.thread_time()
            asked = cache.ask(batch, K, 0.95)
            mine.append((time.thread_time() - begun) / 64)
            ids, distances = answers_of(batch)
            right = (asked.ids == ids).all(axis=1) & (asked.distances == distances.astype(np.float32)).all(axis=1)
            torn += int((asked.found & ~right).sum())
        spent.extend(mine)

    def write() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            keep(others[turn % 400 :][:64] * np.float32(1 + turn % 97 / 100))

    for _ in range(3):
        keep(queries)
    threads = [threading.Thread(target=find, args=(seed,)) for seed in range(16)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    done.set()
    for thread in threads:
        thread.join()
    return {**told(spent), "torn": torn, "answers": 64 * len(spent)}


def answers_of(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make up answers that follow from queries."""
    first = queries.view(np.uint32)[:, :1].astype(np.uint64)
    ids = first + np.arange(K, dtype=np.uint64)
    return ids, (ids % 4_096) / 8.0


def looked_up(spec: IndexSpec, queries: np.ndarray, places: int) -> dict[str, float]:
    """Fill so many places with queries, and look for others."""
    cache = Lookaside(max(places * 6_000, 1 << 20), spec)
    one = np.ones(1, np.int64)
    scored = ScoredPages(np.arange(6, dtype=np.uint32), np.array([0, 6]), np.linspace(0.1, 0.6, 6))
    ids, distances = np.arange(K, dtype=np.uint64)[None], np.linspace(0.1, 0.5, K)[None]
    random = np.random.default_rng(1)
    store = cache.store
    first, stop = RING * (len(store.near_next) - 1), len(store.sketches)
    assert stop - first >= places, stop - first
    for i in range(places):
        query = queries[i % len(queries)][None] + random.normal(0, 0.02, queries.shape[1]).astype(np.float32)
        asked = cache.ask(query, K, 0.95)
        store.totals[NEAR_KEPT] = 0  # every one is kept whole
        asked.remember(quantize_queries(query), ids, distances, one, one, scored)
    spent, out = [], (np.empty(1, np.int64), np.empty(1), np.empty(K, np.uint64), np.empty(K, np.float32))
    for query in queries[:2_000]:
        quantized = quantize_queries(query[None])
        arguments = (cache.memory, quantized.elements[0], quantized.scales[0], quantized.norms[0], asked.kind.marks)
        spent.append(timed(lambda a=arguments: find_similar(*a, first, first + places, K, 1e-9, BITS_NEAR, *out))[0])
    return told(spent)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def told(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds[len(seconds) // 20 :], (50, 99)) * 1e6
    return {"p50_us": round(float(p50), 2), "p99_us": round(float(p99), 2)}


if __name__ == "__main__":
    main()
