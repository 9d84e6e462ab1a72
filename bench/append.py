"""What it costs to add rows to an index, and to make one segment of it again.

    python bench/append.py --out bench/results/2026-11-21-append [--set sift] [--ram 32B] [--parts 0.9,0.5]

Of a set, the first share of the rows is built and the rest appended; then the index is compacted. Each time the public
queries are asked, and pages, reads, codes and recall are counted; beside it stands an index of all rows, built at once.
Counts hang on no load of the machine; seconds do, and of those only the ratios of ``cpu_seconds`` mean something. The
set lies in the folder that ANNSERVE_SHARED names (default ../shared), but for stdlib.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from main_job import SETS

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.update.append import AppendOptions, append
from annserve.update.compact import CompactOptions, compact
from annserve.vectors.formats import read_matrix

TARGETS = (0.90, 0.95, 0.98)
KS = (1, 10, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=list(SETS), default="sift")
    parser.add_argument("--ram", default="32B")
    parser.add_argument("--parts", default="0.9,0.5", help="share of the rows that is built first, for each run")
    parser.add_argument("--queries", type=int, default=2_000, help="public queries asked, at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder, base_file, queries_file, truth_file, metric = SETS[options.set]
    base = read_matrix(folder / base_file)
    queries = read_matrix(folder / queries_file)[: options.queries]
    truth = read_matrix(folder / truth_file)[: options.queries].astype(np.int64)
    ks = [k for k in KS if k <= truth.shape[1]]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        np.save(work / "all.npy", base)
        told = BuildOptions(metric=metric, ram=options.ram, threads=options.threads)
        whole = timed(lambda: build(work / "all.npy", work / "whole", told))
        whole |= ask(work / "whole", queries, truth, ks)
        for share in map(float, options.parts.split(",")):
            first = round(share * len(base))
            found = add(work, base, first, told, queries, truth, ks)
            result = {
                "command": shlex.join(["python", "bench/append.py", *sys.argv[1:]]),
                "set": options.set,
                "rows": len(base),
                "rows_appended": len(base) - first,
                "ram": options.ram,
                "threads": options.threads,
                "queries": len(queries),
                "built_at_once": whole,
                **found,
            }
            path = options.out / f"{options.set}-{options.ram}-{share:g}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(path)


def add(
    work: Path, base: np.ndarray, first: int, told: BuildOptions, queries: np.ndarray, truth: np.ndarray, ks: list[int]
) -> dict[str, Any]:
    """Build the first rows, append the rest, compact; ask after each."""
    np.save(work / "old.npy", base[:first])
    np.save(work / "new.npy", base[first:])
    index = work / "index"
    found: dict[str, Any] = {}
    journeys: dict[str, Callable[[], Any]] = {
        "before": lambda: build(work / "old.npy", index, told),
        "appended": lambda: append(index, work / "new.npy", AppendOptions(threads=told.threads)),
        "compacted": lambda: compact(index, CompactOptions(threads=told.threads)),
    }
    for name, journey in journeys.items():
        # Before the append a true neighbour may be none of the rows.
        found[name] = timed(journey) | ask(index, queries, None if name == "before" else truth, ks)
    shutil.rmtree(index)
    return found


def timed(journey: Callable[[], Any]) -> dict[str, Any]:
    """Go on a journey; give its seconds, and those of all CPUs."""
    begun, cpu_begun = time.monotonic(), time.process_time()
    journey()
    cpu_seconds = time.process_time() - cpu_begun
    return {"seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(cpu_seconds, 1)}


def ask(index: Path, queries: np.ndarray, truth: np.ndarray | None, ks: list[int]) -> dict[str, Any]:
    """Ask all queries at each k and target; give counts and recall."""
    rows = []
    with annserve.open(index, threads=2) as opened:
        facts = opened.info()
        for k in ks:
            right = opened.search(queries, k, recall_target=1.0).ids.astype(np.int64) if truth is None else truth[:, :k]
            for target in TARGETS:
                answer = opened.search(queries, k, recall_target=target)
                hits = [np.isin(found, near).mean() for found, near in zip(answer.ids.astype(np.int64), right)]
                means = {name: round(float(getattr(answer.stats, name).mean()), 3) for name in answer.stats.COUNTS}
                rows.append({"k": k, "recall_target": target, "recall": round(float(np.mean(hits)), 4), **means})
    names = ("segments", "count", "pages", "page_fill", "ram_bytes_per_vector", "disk_bytes")
    return {"index": {name: facts[name] for name in names}, "asked": rows}


if __name__ == "__main__":
    main()
