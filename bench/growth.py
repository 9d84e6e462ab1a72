"""How the cost of a query grows with the rows at fixed bytes a vector: pages, reads, codes at equal delivered recall.

    python bench/growth.py --out bench/results/2026-11-21-growth                   # sift-photos, by prefixes
    python bench/growth.py --out bench/results/2026-11-21-growth --set generated   # rows that anyone can make again

Each index is built from the first rows of one shuffled (or generated) set and asked the same queries; exact neighbours
are found anew for every prefix. Recall targets from 0.80 to 0.99 are asked, and every count is interpolated along the
recall that was *delivered*, linearly in log(1 − recall), so that sizes are compared at the same recall and not at the
same promise. Exponents are slopes of least squares in log–log; `predicted` continues that line.

One JSON per index, and `<set>-fit.json` over all indexes of the set that lie in --out: sizes may be added later.
7 million generated rows take half an hour a budget on two threads, and 15 GiB; --counts leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from annserve.index.snapshot import open_snapshot
from annserve.measure.machine import describe_machine, describe_software
from annserve.measure.recall import recall_k_at_k
from annserve.measure.truth import check_truth
from annserve.metric import queries_to_space
from annserve.search.choose_codes import CodeChooser
from annserve.search.clock import Clock
from annserve.search.engine import Engine
from annserve.storage.reader import open_reader
from annserve.vectors.convert import convert
from annserve.vectors.formats import read_matrix
from annserve.vectors.synthetic import Model, SyntheticOptions
from annserve.vectors.truth import exact_neighbours

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared")) / "data"
COUNTS = {
    "sift": (31_250, 62_500, 125_000, 250_000, 500_000),
    "generated": (87_500, 175_000, 350_000, 700_000, 7_000_000),
}
BUDGETS = ("20B", "32B")
TARGETS = (0.80, 0.85, 0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
RECALLS = (0.90, 0.95, 0.98)
COSTS = ("pages", "reads", "page_codes", "row_codes", "codes", "heads_walked")
PREDICTED = (10**7, 10**8, 10**9)
SHUFFLE_SEED = 5
K = 10
Rows = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=list(COUNTS), default="sift")
    parser.add_argument("--counts", type=int, nargs="*", help="rows; by default " + str(COUNTS))
    parser.add_argument("--ram", nargs="*", default=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=2, help="of the build")
    parser.add_argument("--keep", type=Path, help="keep the indexes here, and use those that are there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    counts = options.counts or COUNTS[options.set]
    folder = options.keep or Path(tempfile.mkdtemp(prefix=".growth-", dir=options.out))
    folder.mkdir(parents=True, exist_ok=True)
    rows, queries = SETS[options.set](max(counts), folder)
    for count in counts:
        ids, distances = exact_neighbours(rows[:count], queries, 100, "l2", threads=options.threads)
        truth = check_truth(ids, distances, n_queries=len(queries), k=K)
        for ram in options.ram:
            case = f"{options.set}-{count}-{ram}"
            index = folder / case
            if not index.exists():
                build(rows[:count], index, ram, options.threads)
            points = measure(index, queries, truth)
            report = {
                "set": options.set,
                "rows": count,
                "ram": ram,
                "machine": describe_machine(),
                "software": describe_software(),
                "points": points,
                "at_recall": {str(recall): at_recall(points, recall) for recall in RECALLS},
            }
            write(options.out / f"{case}.json", report)
            print_at(case, report["at_recall"])
            if not options.keep:
                shutil.rmtree(index)
    if not options.keep:
        shutil.rmtree(folder)
    write(options.out / f"{options.set}-fit.json", fit(options.out, options.set))


def sift(count: int, folder: Path) -> tuple[Rows, Rows]:
    """Give `count` rows of sift-photos in a seeded order, and its public queries."""
    base = read_matrix(SHARED / "sift-photos/base.u8bin")
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(base))
    return base[order[:count]], read_matrix(SHARED / "sift-photos/query.u8bin")


def generated(count: int, folder: Path) -> tuple[Rows, Rows]:
    """Generate `count` rows, as hard as SIFT descriptors; the first of them don't depend on their number.

    They lie in a file and are mapped, so that memory doesn't grow with them.
    """
    model = Model.fitted(SyntheticOptions(count=count, dim=128, dtype="uint8", intrinsic_dim=18.0))
    path = folder / f"generated-{count}.npy"
    if not path.exists():
        convert(model.base(), path)
    queries = model.queries()
    return np.load(path, mmap_mode="r"), queries.read(0, queries.count)


SETS = {"sift": sift, "generated": generated}


def build(rows: Rows, index: Path, ram: str, threads: int) -> None:
    """Build in a process of its own, so that its memory is given back."""
    source = index.with_suffix(".npy")
    np.save(source, rows)
    command = [sys.executable, "-m", "annserve", "build", str(source), "--out", str(index), "--ram", ram]
    subprocess.run([*command, "--threads", str(threads)], check=True, stderr=subprocess.DEVNULL)
    source.unlink()


def measure(folder: Path, queries: Rows, truth: Any) -> list[dict[str, float]]:
    """Ask all queries at every target; give delivered recall and mean counts of each."""
    snapshot = open_snapshot(folder)
    segment = snapshot.segments[0]
    reader = open_reader(segment.pages_path, segment.pages_offset, segment.spec.page_bytes, segment.n_pages)
    engine = Engine(segment, reader, snapshot.manifest.norm_max)
    assert isinstance(engine.chooser, CodeChooser), "the budget must have room for codes"
    space = queries_to_space(queries, segment.spec, snapshot.manifest.norm_max)
    points = []
    for target in TARGETS:
        ids, costs = [], []
        size = engine.block_queries(len(queries), K, target)
        for first in range(0, len(queries), size):
            block = slice(first, first + size)
            found = engine.search(queries[block], K, target)
            evidence = engine.chooser.choose(space[block], K, target, Clock()).evidence
            assert evidence is not None, "pages are chosen by codes"
            rating = evidence().rating
            ids.append(found.ids)
            counts = (found.count("pages_read"), found.count("reads"), rating.page_codes, rating.row_codes)
            costs.append(np.stack((*counts, found.codes_scanned, found.heads_visited), axis=1))
        by_query = np.concatenate(costs)
        recall = recall_k_at_k(np.concatenate(ids), truth, K)
        points.append(
            {
                "target": target,
                "recall": round(float(recall.mean()), 5),
                **{name: round(float(values.mean()), 2) for name, values in zip(COSTS, by_query.T)},
                "pages_p50_p95_p99": [float(v) for v in np.percentile(by_query[:, 0], (50, 95, 99))],
                "recall_p5": float(np.percentile(recall, 5)),
            }
        )
    reader.close()
    return points


def at_recall(points: list[dict[str, Any]], recall: float) -> dict[str, float]:
    """Interpolate costs at a delivered recall: log cost against log of the recall missed."""
    missed = -np.log1p(-np.array([point["recall"] for point in points]))
    order = np.argsort(missed)
    return {
        name: float(np.exp(np.interp(-np.log1p(-recall), missed[order], np.log([points[i][name] for i in order]))))
        for name in COSTS
    }


def fit(folder: Path, name: str) -> dict[str, Any]:
    """Fit cost = a · rows^b over all indexes of a set that were measured, by budget and recall."""
    reports = [json.loads(path.read_text()) for path in folder.glob(f"{name}-*B.json")]
    fits: dict[str, Any] = {"set": name, "rows": sorted({report["rows"] for report in reports}), "fits": {}}
    for ram in sorted({report["ram"] for report in reports}):
        own = sorted((r for r in reports if r["ram"] == ram), key=lambda r: int(r["rows"]))
        if len(own) < 2:
            continue
        log_rows = np.log([report["rows"] for report in own])
        for recall in map(str, RECALLS):
            for cost in COSTS:
                values = [report["at_recall"][recall][cost] for report in own]
                slope, level = np.polyfit(log_rows, np.log(values), 1)
                fits["fits"].setdefault(ram, {}).setdefault(recall, {})[cost] = {
                    "by_rows": [round(value, 1) for value in values],
                    "exponent": round(float(slope), 3),
                    "predicted": {f"{n:.0e}": round(float(np.exp(level + slope * np.log(n)))) for n in PREDICTED},
                }
            found = fits["fits"][ram][recall]
            print(f"{name} {ram} at {recall}: " + ", ".join(f"{c} n^{found[c]['exponent']}" for c in COSTS), flush=True)
    return fits


def print_at(case: str, at: dict[str, dict[str, float]]) -> None:
    for recall, costs in at.items():
        print(f"{case} at {recall}: " + ", ".join(f"{name} {value:.1f}" for name, value in costs.items()), flush=True)


def write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
