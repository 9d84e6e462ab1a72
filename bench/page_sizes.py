"""Measure what larger pages cost and save: reads and bytes of a query at equal recall, by the size of a page.

    annserve build BASE --out I4 --page-bytes 4096 … ; annserve build BASE --out I8 --page-bytes 8192 …
    python bench/page_sizes.py BASE QUERIES I4 I8 … --out bench/results/<date>-io/page-sizes-<set>.json

Indexes of the same rows at the same RAM. Counts are read off at equal delivered recall, between the recall targets that
were asked for. ``read_kib`` is how many KiB a read must cost for the larger page to take the same time of a disk: where
it costs more, the larger page is cheaper.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from annserve import collection
from annserve.spec import RECALL_TARGETS
from annserve.vectors.formats import read_matrix

RECALLS = (0.90, 0.95, 0.98)
COUNTS = ("pages_read", "reads", "bytes_read", "codes_scanned")
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare page sizes.")
    parser.add_argument("base", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("indexes", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="write the numbers here too")
    options = parser.parse_args()

    queries = read_matrix(options.queries)[:1_000]
    truth: np.ndarray | None = None
    report: list[dict[str, Any]] = []
    for path in options.indexes:
        with collection.open(path) as opened:
            if truth is None:
                truth = opened.search(queries, K, recall_target=1.0).ids
                exact = exact_share(read_matrix(options.base), queries, truth, opened.spec.metric)
            report.append({"exact_share": exact, **measure(opened, queries, truth)})
    for row in report:
        print(f"{row['page_bytes'] >> 10} KiB pages, {row['ram_bytes_per_vector']:.1f} B a vector")
        for at, numbers in row["at_recall"].items():
            if numbers:
                kib = numbers["bytes_read"] / 1024
                print(f"  {at}: {numbers['pages_read']:.2f} pages, {numbers['reads']:.2f} reads, {kib:.1f} KiB")
    result = {"k": K, "queries": len(queries), "sizes": report, "break_even": break_even(report)}
    print(json.dumps(result["break_even"], indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def exact_share(base: np.ndarray, queries: np.ndarray, ids: np.ndarray, metric: str) -> float:
    """Give the share of true neighbours among what reading every page finds: below 1 only by INT8."""
    rows, asked = base.astype(np.float32), queries[:200].astype(np.float32)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = (rows**2).sum(axis=1) - 2 * asked @ rows.T
    nearest = np.argpartition(distances, K, axis=1)[:, :K]
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(nearest.tolist(), ids[:200].tolist())]))


def measure(opened: collection.Collection, queries: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    recalls, counts = [], []
    for target in RECALL_TARGETS:
        found = opened.search(queries, K, recall_target=target)
        recalls.append(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.ids.tolist(), truth.tolist())]))
        counts.append([getattr(found.stats, name).mean() for name in COUNTS])
    by_recall = np.array(counts)[np.argsort(recalls)]
    recalls.sort()
    info = opened.info()
    return {
        "page_bytes": info["page_bytes"],
        "page_capacity": info["page_capacity"],
        "ram_bytes_per_vector": info["ram_bytes_per_vector"],
        "delivered": dict(zip(map(str, RECALL_TARGETS), map(float, recalls))),
        "at_recall": {
            str(recall): (
                {name: float(np.interp(recall, recalls, by_recall[:, i])) for i, name in enumerate(COUNTS)}
                if recalls[0] <= recall <= recalls[-1]
                else None
            )
            for recall in RECALLS
        },
    }


def break_even(report: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Compare each larger page with the smallest."""
    first = report[0]
    found: dict[str, dict[str, float]] = {}
    for row in report[1:]:
        for recall in map(str, RECALLS):
            small, large = first["at_recall"][recall], row["at_recall"][recall]
            if small and large:
                saved = small["reads"] - large["reads"]
                added = (large["bytes_read"] - small["bytes_read"]) / 1024
                found[f"{row['page_bytes']} at {recall}"] = {
                    "reads_saved": saved,
                    "kib_added": added,
                    "read_kib": added / saved if saved > 0 else float("inf"),
                }
    return found


if __name__ == "__main__":
    main()
