"""Measure how the engine reads: blocks that overlap, gaps between pages, pages that queries of a block share.

    python bench/engine_io.py INDEX QUERIES --out bench/results/<date>-io/engine-<set>.json

Variants take turns in every round of one run, so that a busy machine slows all alike; times are medians over rounds
with the least beside them, and CPU is that of the whole process. Counts don't depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from annserve import collection
from annserve.metric import queries_to_space
from annserve.search import engine
from annserve.search.clock import Clock
from annserve.spec import check_vectors
from annserve.storage.reader import aligned_frames
from annserve.vectors.formats import read_matrix

UNDER_WAY = (1, 2, 3)
GAPS = (0, 1, 2, 3, 5)
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the engine reads.")
    parser.add_argument("index", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the numbers here too")
    options = parser.parse_args()

    queries = read_matrix(options.queries)[:1_000]
    with collection.open(options.index, threads=1) as opened:
        report: dict[str, Any] = {
            "rows": opened.n_rows,
            "queries": len(queries),
            "recall_target": options.recall,
            "reader": opened.info()["io"],
            "blocks_under_way": measure_overlap(opened, queries, options.recall, options.rounds),
            "gaps_bridged": measure_gaps(opened, queries, options.recall, options.rounds),
        }
    for name in ("blocks_under_way", "gaps_bridged"):
        print(name)
        for variant, numbers in report[name].items():
            print(f"  {variant:>8}: " + ", ".join(f"{key} {value:.2f}" for key, value in numbers.items()))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def measure_overlap(
    opened: collection.Collection, queries: np.ndarray, recall_target: float, rounds: int
) -> dict[str, dict[str, float]]:
    """One thread, all queries in one call, by the blocks that it has under way."""

    def search(under_way: int) -> dict[str, float]:
        engine.BLOCKS_UNDER_WAY = under_way
        result = opened.search(queries, K, recall_target=recall_target)
        answers.append((result.ids, result.distances))
        return {"waiting_us": 1e6 * result.stats.stage_seconds["read"] / len(queries)}

    answers: list[tuple[np.ndarray, np.ndarray]] = []
    found = interleaved({str(width): lambda width=width: search(width) for width in UNDER_WAY}, len(queries), rounds)
    assert all(np.array_equal(one, other) for pair in answers[1:] for one, other in zip(pair, answers[0]))
    return found


def measure_gaps(
    opened: collection.Collection, queries: np.ndarray, recall_target: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Reading alone: pages between two that are wanted are read too where the gap isn't wider."""
    blocks = blocks_of(opened, queries, recall_target)
    requests = {
        gap: [np.concatenate([bridged(pages, gap) for pages in block]).astype(np.uint32) for block in blocks]
        for gap in GAPS
    }
    reader = opened._engine.reader
    frames = aligned_frames(max(len(page_ids) for page_ids in requests[GAPS[-1]]), opened.spec.page_bytes)

    def read(gap: int) -> dict[str, float]:
        n_reads = sum(reader.read(page_ids, frames) for page_ids in requests[gap])
        return {
            "pages": sum(len(page_ids) for page_ids in requests[gap]) / len(queries),
            "reads": n_reads / len(queries),
        }

    found = interleaved({str(gap): lambda gap=gap: read(gap) for gap in GAPS}, len(queries), rounds)
    together = [np.unique(np.concatenate(block)) for block in blocks]
    found["shared"] = {  # each page of a block once, neighbours of different queries together
        "pages": sum(len(pages) for pages in together) / len(queries),
        "reads": sum(1 + int((np.diff(pages.astype(np.int64)) != 1).sum()) for pages in together) / len(queries),
    }
    return found


def blocks_of(opened: collection.Collection, queries: np.ndarray, recall_target: float) -> list[list[np.ndarray]]:
    """Give the pages of each query, block by block."""
    found = []
    for start in range(0, len(queries), engine.BLOCK_QUERIES):
        block = check_vectors(queries[start : start + engine.BLOCK_QUERIES], opened.spec)
        space = queries_to_space(block, opened.spec, opened._engine.norm_max)
        selection = opened._engine.chooser.choose(space, K, recall_target, Clock()).selection
        found.append(np.split(selection.page_ids, selection.offsets[1:-1]))
    return found


def bridged(pages: np.ndarray, gap: int) -> np.ndarray:
    """Add the pages between two that are at most `gap` pages apart."""
    wide = pages.astype(np.int64)
    runs = np.split(wide, np.flatnonzero(np.diff(wide) > gap + 1) + 1)
    return np.concatenate([np.arange(run[0], run[-1] + 1) for run in runs])


def interleaved(
    variants: dict[str, Callable[[], dict[str, float]]], n_queries: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Run each variant once in every round; give medians, and the least time."""
    for run in variants.values():
        run()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            began, cpu = time.perf_counter(), time.process_time()
            numbers = run()
            numbers["us"] = 1e6 * (time.perf_counter() - began) / n_queries
            numbers["cpu_us"] = 1e6 * (time.process_time() - cpu) / n_queries
            seen[name].append(numbers)
    return {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        | {"us_least": min(one["us"] for one in runs)}
        for name, runs in seen.items()
    }


if __name__ == "__main__":
    main()
