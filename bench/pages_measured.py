"""Measure what queries read, over sets, sizes and budgets: what the model behind ``annserve plan`` is fitted to.

    python bench/pages_measured.py --out bench/results/<date>-plan/pages.json [--only sift-31k …]

Every case builds an index with the real pipeline and asks it the set's own queries, at each k and recall target. Rows
are shuffled first, so a prefix is a sample. Sets lie in the repository, in the folder that ANNSERVE_SHARED names
(default ../shared; left out where it is absent), or are generated. What is there already is not measured again.
``bench/pages_fitted.py`` fits the model to the file that this writes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.measure.recall import recall_k_at_k
from annserve.measure.truth import Truth
from annserve.vectors.formats import read_matrix
from annserve.vectors.synthetic import Model, SyntheticOptions, intrinsic_dimension
from annserve.vectors.truth import exact_neighbours

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared")) / "data"
KS = (1, 10, 100)
TARGETS = (0.80, 0.90, 0.95, 0.98, 0.99)
QUERIES_MAX = 1_000
PILOT_ROWS, PILOT_PROBES = 30_000, 400


@dataclass(frozen=True)
class Case:
    """A set, how much of it, and the budgets that it is built with."""

    folder: str
    n_rows: int
    budgets: tuple[str, ...] = ()
    metric: str = "l2"
    dim: int = 0
    intrinsic_dim: float = 0.0
    dtype: str = "uint8"
    codes: str = "auto"
    replicas: int = 1
    page_bytes: int = 0


def generated(dim: int, intrinsic_dim: float, n_rows: int, budgets: tuple[str, ...], dtype: str = "uint8") -> Case:
    return Case("", n_rows, budgets, "l2", dim, intrinsic_dim, dtype)


CASES = {
    "sift-31k": Case("sift-photos", 31_250, ("12B", "16B", "20B", "32B", "64B")),
    "sgd-32k": Case("sgd-minilm", 32_000, ("32B", "48B", "64B", "96B"), "cosine"),
    "gen128-m10-30k": generated(128, 10, 30_000, ("12B", "20B", "32B")),
    "gen128-m25-30k": generated(128, 25, 30_000, ("12B", "20B")),
    "sift-31k-none": Case("sift-photos", 31_250, ("8B", "2B"), codes="none"),
    "sift-125k-none": Case("sift-photos", 125_000, ("8B", "2B"), codes="none"),
    "sgd-8k": Case("sgd-minilm", 8_000, ("48B", "96B"), "cosine"),
    "squad-12k": Case("squad-minilm", 12_000, ("48B", "64B"), "cosine"),
    "clinc-18k": Case("clinc-minilm", 18_000, ("48B",), "cosine"),
    "gen128-m10-120k": generated(128, 10, 120_000, ("20B",)),
    "sgd-32k-none": Case("sgd-minilm", 32_000, ("40B", "8B"), "cosine", codes="none"),
    "gen128-m10-30k-none": Case("", 30_000, ("8B", "2B"), "l2", 128, 10, "uint8", "none"),
    "gen768-m20-20k": generated(768, 20, 20_000, ("96B",), "float32"),
    "stdlib-10k": Case("stdlib-minilm", 10_000, ("64B",), "cosine"),
    "gen64-m12-60k": generated(64, 12, 60_000, ("12B", "20B"), "float32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cases; all by default")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    for name in options.only or CASES:
        case = CASES[name]
        budgets = [ram for ram in case.budgets if not any((run["case"], run["ram"]) == (name, ram) for run in runs)]
        if not budgets or (case.folder and not place_of(case).is_dir()):
            continue
        base, queries = vectors_of(case)
        depth = max(k for k in KS if k <= len(base))
        ids, distances = exact_neighbours(base, queries, depth, case.metric, threads=options.threads)
        truth = Truth(ids.astype(np.uint64), distances, 0.0 if base.dtype.kind == "u" else 1e-6)
        probes = np.random.default_rng(0).choice(min(len(base), PILOT_ROWS), PILOT_PROBES, replace=False)
        facts = {"case": name, "intrinsic_dim": round(intrinsic_dimension(base[:PILOT_ROWS], probes), 2)}
        for ram in budgets:
            runs.append(facts | {"ram": ram} | measure(base, queries, truth, case, ram, options.threads))
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
            print(name, ram, runs[-1]["code_bytes"], runs[-1]["asked"][5], flush=True)


def place_of(case: Case) -> Path:
    return ROOT / "datasets" / case.folder if case.folder.startswith("stdlib") else SHARED / case.folder


def vectors_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Give a random sample of the set's rows, and its own queries."""
    if not case.folder:
        shape = {"count": case.n_rows, "dim": case.dim, "dtype": case.dtype, "queries": QUERIES_MAX}
        model = Model.fitted(SyntheticOptions(**shape, intrinsic_dim=case.intrinsic_dim))
        return np.asarray(model.base().read(0, case.n_rows)), np.asarray(model.queries().read(0, QUERIES_MAX))
    place = place_of(case)
    plain = (place / "base.u8bin").exists()
    base = read_matrix(place / ("base.u8bin" if plain else "base.f16.npy"))
    queries = read_matrix(place / ("query.u8bin" if plain else "queries.f16.npy"))
    random = np.random.default_rng(0)
    chosen = random.permutation(len(base))[: case.n_rows]
    asked = np.sort(random.permutation(len(queries))[:QUERIES_MAX])
    return np.asarray(base)[chosen], np.asarray(queries)[asked]


def measure(base: np.ndarray, queries: np.ndarray, truth: Truth, case: Case, ram: str, threads: int) -> dict[str, Any]:
    """Build, ask at every k and target, and write down what was read."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "base.npy", base)
        settings = BuildOptions(
            metric=case.metric,
            ram=ram,
            codes=case.codes,
            replicas=case.replicas,
            page_bytes=case.page_bytes,
            threads=threads,
        )
        build(Path(folder) / "base.npy", Path(folder) / "index", settings)
        with annserve.open(Path(folder) / "index", threads=threads) as index:
            report, info = index.report, index.info()
            asked = [costs(index, queries, truth, k, target) for k in KS if k <= truth.depth for target in TARGETS]
    return {
        "n_rows": len(base),
        "dim": base.shape[1],
        "row_type": info["row_type"],
        "metric": case.metric,
        "page_bytes": info["page_bytes"],
        "page_capacity": info["page_capacity"],
        "pages": info["pages"],
        "heads": info["heads"],
        "code_bytes": report["code_bytes"],
        "ram_bytes_per_vector": info["ram_bytes_per_vector"],
        "disk_bytes": info["disk_bytes"],
        "stage_seconds": report["stage_seconds"],
        "peak_rss_bytes": report["peak_rss_bytes"],
        "asked": asked,
    }


def costs(index: annserve.Collection, queries: np.ndarray, truth: Truth, k: int, target: float) -> dict[str, Any]:
    result = index.search(queries, k, recall_target=target)
    stats = result.stats
    return {
        "k": k,
        "recall_target": target,
        "recall": round(float(recall_k_at_k(result.ids, truth, k).mean()), 4),
        "postings": index.postings_planned(k, target),
        **{f"{name}_mean": round(float(getattr(stats, name).mean()), 3)
           for name in ("pages_read", "reads", "heads_visited", "codes_scanned", "rows_scored")},
        "pages_read_p95": float(np.percentile(stats.pages_read, 95)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
