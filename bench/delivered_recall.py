"""What a recall target delivers: without any query of a user, and with a sample of them to calibrate with.

    python bench/delivered_recall.py --indexes FOLDER --out bench/results/2026-11-21-calibration [--only sift-20B …]

The indexes are those that ``bench/main_job.py --keep FOLDER`` leaves, or any of its cases' names built by hand. Each is
calibrated anew from its base rows by the code as it stands. Then its public queries choose pages, and the pages are
counted and looked up; nothing is read, so load on the machine changes no figure. For samples, 300 queries are drawn,
the plan is refined by them, and the rest are asked; many draws give mean and spread.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from main_job import CASES, SETS

from annserve.calibrate.expected_recall import Curves
from annserve.calibrate.heldout import NEIGHBOURS, hold_out
from annserve.calibrate.reads import Placement, calibrate_reads, rated_curves
from annserve.calibrate.sample import limit_worth
from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.index.snapshot import open_snapshot
from annserve.metric import queries_to_space
from annserve.pages.check import check_pages
from annserve.search.choose_codes import CodeChooser
from annserve.storage.container import open_container
from annserve.vectors.formats import read_matrix
from annserve.vectors.truth import exact_neighbours

K = 10
TARGETS = (0.90, 0.95, 0.98)
SAMPLE, DRAWS = 300, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(CASES))
    parser.add_argument("--queries", type=int, default=3_000, help="public queries asked, at most")
    parser.add_argument("--calibration-queries", type=int, default=3_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in arguments.only or CASES:
        if (arguments.indexes / case).is_dir() and SETS[CASES[case][0]][0].is_dir():
            found = measure(arguments.indexes / case, CASES[case][0], arguments)
            (arguments.out / f"{case}.json").write_text(json.dumps({"case": case, **found}, indent=1) + "\n")
            print(case, *(f"{row['target']}: {row['recall']:.4f}, {row['pages']:.2f} pages;" for row in found["rows"]))


def measure(index: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    snapshot = open_snapshot(index)
    segment, norm_max = snapshot.segments[0], snapshot.manifest.norm_max
    folder, base, queries_file, truth_file, _ = SETS[name]
    rows = read_matrix(folder / base)
    queries = read_matrix(folder / queries_file)[: options.queries]
    truth = read_matrix(folder / truth_file)[: options.queries].astype(np.int64)
    placement = place(segment, len(rows))

    held_out = hold_out(rows, segment.spec, options.calibration_queries, 0)
    nearest, _ = exact_neighbours(
        rows, held_out.queries, NEIGHBOURS, segment.spec.metric, exclude=held_out.rows, threads=options.threads
    )
    plan = calibrate_reads(held_out, nearest, rows, placement, segment, norm_max, options.threads)

    chooser = CodeChooser(segment, segment.codes, plan)
    kept = ranks_as_stored(queries.astype(np.float32), truth, rows, segment.spec)[:, :K] < K
    pages = np.where(kept, placement.page[truth[:, :K]], -1)
    space = queries_to_space(queries, segment.spec, norm_max)
    found = []
    for target in TARGETS:
        heads, skip = plan.heads_wanted(K, target, segment.heads.n_heads), plan.skip(K, target)
        curves = rated_curves(chooser, space, None, pages, K, heads, skip, options.threads, plan.head_skip(K, target))
        stop = plan.stop(K, target)
        recall, read = delivered(curves, stop.evenness, stop.expected, np.inf)
        found.append(
            {
                "target": target,
                "recall": float(recall.mean()),
                "recall_standard_error": float(recall.std() / np.sqrt(len(recall))),
                "recall_p5": float(np.quantile(recall, 0.05)),
                "pages": float(read.mean()),
                "pages_p50_p95_p99": np.quantile(read, (0.5, 0.95, 0.99)).tolist(),
                "expected": stop.expected.tolist(),
                "with_sample": with_samples(curves, stop.evenness, stop.expected, target),
            }
        )
    return {"set": name, "public_queries": len(queries), "evenness": plan.evenness.tolist(), "rows": found}


def with_samples(curves: Curves, evenness: Any, expected: Any, target: float) -> dict[str, Any]:
    """Draw samples, refine by them, ask the rest; under the plan as it was too, on the same queries."""
    rng = np.random.default_rng(1)
    outcomes = []
    size = min(SAMPLE, len(curves) // 2)
    for _ in range(DRAWS):
        order = rng.permutation(len(curves))
        sample, rest = take(curves, order[:size]), take(curves, order[size:])
        least, enough = limit_worth(sample, evenness, expected, target)
        recall, read = delivered(rest, evenness, least, enough)
        plain, plain_read = delivered(rest, evenness, expected, np.inf)
        outcomes.append((recall.mean(), read.mean(), plain.mean(), plain_read.mean()))
    recalls, reads, plains, plain_reads = np.array(outcomes).T
    return {
        "sample": size,
        "draws": DRAWS,
        "recall_mean": float(recalls.mean()),
        "recall_spread": float(recalls.std()),
        "off_target_rms": float(np.sqrt(np.mean((recalls - target) ** 2))),
        "pages": float(reads.mean()),
        "without_sample_recall_mean": float(plains.mean()),
        "without_sample_pages": float(plain_reads.mean()),
    }


def delivered(curves: Curves, evenness: Any, expected: Any, worth_enough: float) -> tuple[Any, Any]:
    """Give recall and pages of each query."""
    wanted = np.interp(curves.evenness, evenness, expected)
    recall, read = np.empty((2, len(curves)))
    for i, (start, stop) in enumerate(zip(curves.starts[:-1], curves.starts[1:])):
        promised = curves.promised[start:stop]
        worths = np.diff(promised, prepend=0.0) * K
        taken = min(int(np.searchsorted(promised, wanted[i])) + 1, len(promised))
        read[i] = max(taken, int((worths > worth_enough).sum()))
        recall[i] = curves.found[start + int(read[i]) - 1]
    return recall, read


def take(curves: Curves, queries: Any) -> Curves:
    """Give the curves of some queries."""
    sizes = np.diff(curves.starts)[queries]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    entries = np.repeat(curves.starts[queries] - starts[:-1], sizes) + np.arange(starts[-1])
    return Curves(starts, curves.promised[entries], curves.found[entries], curves.evenness[queries], K)


def place(segment: Any, n_rows: int) -> Placement:
    """Read back where each row lies; ids are row numbers."""
    with open_container(segment.pages_path, b"ANNPAGES") as file:
        stored = np.array(file.section("pages"))
    ids, problems = check_pages(stored, np.arange(len(stored), dtype=np.uint32), segment.layout, segment.salt)
    assert not problems, problems
    counts = stored[:, 8:10].copy().view("<u2")[:, 0].astype(np.int64)
    page_of = np.repeat(np.arange(len(stored)), counts)
    head_of = np.repeat(np.arange(segment.heads.n_heads), np.diff(segment.page_offsets.astype(np.int64)))
    page, slot = np.empty((2, n_rows), np.int64)
    page[ids.astype(np.int64)] = page_of
    slot[ids.astype(np.int64)] = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Placement(page, slot, head_of[page])


if __name__ == "__main__":
    main()
