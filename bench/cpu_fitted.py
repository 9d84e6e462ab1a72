"""Measure the CPU of queries and fit its prices: what ``annserve plan`` reckons a query's work with.

    python bench/cpu_fitted.py --out bench/results/<date>-plan/cpu.json INDEX=QUERIES …

Each index is asked its queries in one batch on one thread, at several k and recall targets. CPU time of the process,
the least of some rounds, is fitted by prices of what was looked at, none below zero. On a busy machine cores are
shared and caches cold, so prices come out too high rather than too low.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.measure.machine import describe_machine
from annserve.vectors.formats import read_matrix

KS, TARGETS, ROUNDS, QUERIES_MAX = (10, 100), (0.80, 0.90, 0.95, 0.98, 0.99), 4, 500
#: What is paid for; see ``design.forecast``.
NAMES = ("fixed", "head", "row", "row_code", "page_code", "page")
#: Prices that the kernels' own timings give (a distance of 128 dimensions takes 7 ns): heads go with page codes and
#: rows with pages, so that a fit can't tell them apart.
KNOWN = {"head": 0.01, "row": 0.0074}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="INDEX=QUERIES")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    points = [point for pair in options.pairs for point in measure(*pair.split("="))]
    prices = fit(points)
    errors = [sum(p * w for p, w in zip(prices, point["work"])) / point["cpu_us"] - 1 for point in points]
    report = {
        "machine": describe_machine(),
        "prices_us": dict(zip(NAMES, (round(float(price), 4) for price in prices))),
        "error_median": round(float(np.median(np.abs(errors))), 3),
        "error_max": round(float(np.abs(errors).max()), 3),
        "points": points,
    }
    print(json.dumps({name: value for name, value in report.items() if name != "points"}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def measure(index: str, queries: str) -> list[dict[str, Any]]:
    asked = np.asarray(read_matrix(queries))[:QUERIES_MAX]
    points = []
    with annserve.open(index, threads=1) as opened:
        facts, code_bytes = opened.info(), opened.report["code_bytes"]
        for k, target in product(KS, TARGETS):
            opened.search(asked, k, recall_target=target)
            least, stats = np.inf, None
            for _ in range(ROUNDS):
                begun = time.process_time()
                stats = opened.search(asked, k, recall_target=target).stats
                least = min(least, time.process_time() - begun)
            assert stats is not None
            page_codes = 16 * opened.postings_planned(k, target)[1] if code_bytes else 0
            row_codes = max(stats.codes_scanned.mean() - page_codes, 0)
            width = facts["dim"] / 128
            work = (
                1.0,
                stats.heads_visited.mean() * width,
                stats.rows_scored.mean() * width,
                row_codes * (0.5 + 0.5 * code_bytes / 16),
                page_codes,
                stats.pages_read.mean(),
            )
            facts_of = {"rows": facts["count"], "dim": facts["dim"], "k": k, "recall_target": target}
            points.append(facts_of | {"cpu_us": 1e6 * least / len(asked), "work": [round(float(w), 2) for w in work]})
            print(facts_of, round(points[-1]["cpu_us"]), points[-1]["work"], flush=True)
    return points


def fit(points: list[dict[str, Any]]) -> np.ndarray:
    """Least squares of relative errors, by cyclic descent with every price at or above zero."""
    columns = np.array([point["work"] for point in points]) / np.array([[point["cpu_us"]] for point in points])
    prices = np.array([KNOWN.get(name, 1e-3) for name in NAMES])
    for _ in range(20_000):
        for j in (j for j, name in enumerate(NAMES) if name not in KNOWN):
            rest = 1 - columns @ prices + columns[:, j] * prices[j]
            prices[j] = max(float(columns[:, j] @ rest / (columns[:, j] @ columns[:, j] + 1e-30)), 0.0)
    return prices


if __name__ == "__main__":
    main()
