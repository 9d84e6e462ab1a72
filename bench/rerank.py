"""Measure what raw rows give and take: recall and reads without and with them, and with another encoder's.

    python bench/rerank.py --out bench/results/<date>-rerank/rerank.json [--only squad-minilm …] [--threads 2]

Two indexes of each set, alike but for raw rows, answer the set's own queries at each recall target; calibration saw
none of them. In the case ``components`` the first encoder is the first principal components of the vectors, and the
vectors themselves are the second, stronger one; the case ``limits`` scans all rows and needs no index. Counts only; the
sets lie in the folder that ANNSERVE_SHARED names (default ../shared).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.measure.recall import recall_k_at_k
from annserve.measure.truth import Truth
from annserve.pages.rows import quantize_rows
from annserve.results import SearchResult
from annserve.spec import IndexSpec
from annserve.storage.atomic import write_atomically
from annserve.vectors.formats import read_matrix, read_truth

SHARED = Path(os.environ.get("ANNSERVE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SETS = ("squad-minilm", "clinc-minilm", "sgd-minilm")
TARGETS = (0.90, 0.95, 0.98, 0.99, 1.0)
RAM, K = "64B", 10
#: Queries; fewer where every page is read.
QUERIES, QUERIES_OF_ALL_PAGES = 2_000, 200
COMPONENTS, CANDIDATES = 128, (10, 20, 50, 100)
#: Typical errors that limits allow for; the last is the worst case.
ERRORS_ALLOWED = (0.5, 1, 1.5, 2, 3, 4, 384**0.5)
QUERIES_OF_LIMITS = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = CASES[name](Path(folder), name, arguments.threads)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.out, json.dumps(found, indent=1).encode() + b"\n")


def of_set(folder: Path, name: str, threads: int) -> dict[str, Any]:
    queries, truth = read_matrix(SHARED / name / "queries.f16.npy")[:QUERIES], truth_of(name)
    found = {}
    for rerank in ("none", "float16"):
        options = BuildOptions(metric="cosine", ram=RAM, rerank=rerank, threads=threads)
        build(SHARED / name / "base.f16.npy", folder / rerank, options)
        with annserve.open(folder / rerank, threads=threads or None) as index:
            rows = []
            for target in TARGETS:
                some = len(queries) if target < 1 else QUERIES_OF_ALL_PAGES
                result = index.search(queries[:some], K, recall_target=target)
                rows.append({"target": target, **told(result, truth.of(np.arange(some)))})
            found[rerank] = {
                "neighbours_lost_to_int8": round(index.report["neighbours_lost_to_int8"], 5),
                "raw_rows": index.info()["raw_rows"],
                "disk_bytes_per_vector": round(index.info()["disk_bytes"] / index.n_rows, 1),
                "results": rows,
            }
    return found


def of_components(folder: Path, name: str, threads: int) -> dict[str, Any]:
    """A cheap first encoder and a strong second one: principal components, and the vectors that they are of."""
    where = SHARED / "squad-minilm"
    base, queries = read_matrix(where / "base.f16.npy"), read_matrix(where / "queries.f16.npy")
    centred = base.astype(np.float32) - base.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = axes[:, ::-1][:, :COMPONENTS].astype(np.float32)
    np.save(folder / "components.npy", base.astype(np.float32) @ axes)
    options = BuildOptions(metric="cosine", ram=RAM, rerank_with=where / "base.f16.npy", threads=threads)
    build(folder / "components.npy", folder / "index", options)
    truth = truth_of("squad-minilm")
    first = queries.astype(np.float32) @ axes
    rows = []
    with annserve.open(folder / "index", threads=threads or None) as index:
        for target in TARGETS[:-1]:
            alone = index.search(first, K, recall_target=target)
            rows.append({"target": target, "candidates": 0, **told(alone, truth)})
            for candidates in CANDIDATES:
                result = index.search(
                    first, K, recall_target=target, rerank_queries=queries, rerank_candidates=candidates
                )
                rows.append({"target": target, "candidates": candidates, **told(result, truth)})
        info = index.info()
    return {"components": COMPONENTS, "raw_rows": info["raw_rows"], "results": rows}


def of_limits(folder: Path, name: str, threads: int) -> dict[str, Any]:
    """Rows that limits leave undecided, and recall once those are settled, all rows scanned; no index."""
    return {one: [_limits(one, errors) for errors in ERRORS_ALLOWED] for one in SETS}


def _limits(name: str, errors_allowed: float) -> dict[str, float]:
    base, queries = (read_matrix(SHARED / name / f"{part}.f16.npy") for part in ("base", "queries"))
    queries, truth = queries[:QUERIES_OF_LIMITS].astype(np.float64), truth_of(name).ids
    stored = quantize_rows(base, IndexSpec(base.shape[1], "float16", "cosine"))
    errors, rows = stored.errors.astype(np.float64), base.astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    true = queries @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    cosines = queries @ (stored.elements * stored.scales[:, None].astype(np.float64)).T
    half = errors_allowed / base.shape[1] ** 0.5 * errors * np.sqrt(np.maximum(1 - cosines**2, 0))
    middle = 1 - cosines * np.sqrt(1 - errors**2)
    read, hits = 0, 0
    for low, high, exact, nearest in zip(middle - half, middle + half, 1 - true, truth):
        candidates = np.flatnonzero(low <= np.partition(high, K - 1)[K - 1])
        decided = high[candidates] < np.partition(low, K)[K]
        sure, others = candidates[decided], candidates[~decided]
        best = others[np.argsort(exact[others], kind="stable")[: K - len(sure)]]
        read += len(others)
        hits += len({*sure.tolist(), *best.tolist()} & set(nearest[:K].tolist()))
    count = len(queries)
    return {"errors_allowed": round(errors_allowed, 2), "rows_read": read / count, "recall": hits / count / K}


def truth_of(name: str) -> Truth:
    """Ids alone: of rows at the same distance the smaller id counts."""
    return Truth(read_truth(SHARED / name / "gt.ids.npy")[0][:QUERIES].astype(np.uint64))


def told(result: SearchResult, truth: Truth) -> dict[str, float]:
    stats = result.stats
    recall = recall_k_at_k(result.ids, truth, K)
    pages = stats.pages_read
    return {
        "recall": round(float(recall.mean()), 5),
        "pages": round(float(pages.mean()), 3),
        "pages_p95": float(np.percentile(pages, 95)),
        "reads": round(float(stats.reads.mean()), 3),
        "kilobytes": round(float(stats.bytes_read.mean()) / 1_024, 1),
        "rows_reranked": round(float(stats.rows_reranked.mean()), 3),
    }


CASES = {**dict.fromkeys(SETS, of_set), "components": of_components, "limits": of_limits}

if __name__ == "__main__":
    main()
