"""Time the lookaside cache: look-ups, a repeat from end to end, and what a query that finds nothing pays.

    python bench/lookaside_times.py INDEX QUERIES --out bench/results/<date>-cache/times.json

Microseconds, as the caller sees them: some 3 of each are Python handing arrays to a kernel. Queries without and with a
cache come in turns, each new to both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from annserve import collection
from annserve.lookaside.lookaside import Lookaside, ScoredPages
from annserve.lookaside.near_kernels import BITS_NEAR, RING, find_similar
from annserve.lookaside.store_kernels import NEAR_KEPT
from annserve.pages.rows import quantize_queries
from annserve.vectors.formats import read_matrix

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the lookaside cache.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    queries = read_matrix(options.queries).astype(np.float32)
    queries = queries[np.sort(np.unique(queries, axis=0, return_index=True)[1])]
    report: dict[str, dict[str, float]] = {}
    with collection.open(options.index, threads=1) as off:
        share = off.info()["disk_bytes"] // 10
        for places in (64, 16_384):
            report[f"look-up among {places} recent queries"] = looked_up(off.spec, queries, places)
        with collection.open(options.index, threads=1, cache_bytes=share) as on:
            for _ in range(3):
                on.search(queries[:1], K)
            report["repeat, end to end"] = told([timed(lambda: on.search(queries[:1], K)) for _ in range(2_000)])
            without, misses = [], []
            for i in range(100, min(options.count, len(queries))):
                without.append(timed(lambda i=i: off.search(queries[i : i + 1], K)))
                misses.append(timed(lambda i=i: on.search(queries[i : i + 1], K)))
            report["no cache, end to end"], report["no repeat, end to end"] = told(without), told(misses)
    for name, found in report.items():
        print(f"{name:40} p50 {found['p50_us']:7.1f}  p99 {found['p99_us']:7.1f}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def looked_up(spec: object, queries: np.ndarray, places: int) -> dict[str, float]:
    """Fill so many places with queries, and look for others."""
    cache = Lookaside(max(places * 6_000, 1 << 20), spec)  # type: ignore[arg-type]
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
    spent, out = [], (np.empty(K, np.uint64), np.empty(K, np.float32))
    for query in queries[:2_000]:
        quantized = quantize_queries(query[None])
        arguments = (cache.memory, quantized.elements[0], quantized.scales[0], quantized.norms[0], asked.kind.marks)
        spent.append(timed(lambda a=arguments: find_similar(*a, first, first + places, K, 1e-9, BITS_NEAR, *out)))
    return told(spent)


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def told(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds[len(seconds) // 20 :], (50, 99)) * 1e6
    return {"p50_us": round(float(p50), 2), "p99_us": round(float(p99), 2)}


if __name__ == "__main__":
    main()
