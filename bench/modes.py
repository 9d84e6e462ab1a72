"""Measure what each way to choose pages reads at a budget: codes in RAM, codes on the SSD, heads alone with replicas.

    python bench/modes.py --out bench/results/<date>-auto/modes.json [--only sift-125k …] [--threads 2]

Where the ways' pages cross is what ``--codes auto`` goes by (``design.budget``). Builds with the real pipeline, asks a
set's own queries; counts alone, so load on the machine changes no figure. What is there already isn't measured again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pages_measured import PILOT_PROBES, PILOT_ROWS, Case, generated, measure, place_of, vectors_of

from annserve.measure.truth import Truth
from annserve.vectors.synthetic import intrinsic_dimension
from annserve.vectors.truth import exact_neighbours

DEPTH = 100
#: Ways to choose pages, and their budgets: (codes, replicas, ram), pages of 4 KB.
SIFT = (
    ("ram", 1, "9B"), ("ssd", 1, "3B"), ("none", 8, "3B"), ("none", 1, "3B"), ("ram", 1, "12B"),
    ("none", 8, "1.4B"), ("none", 1, "1.4B"), ("ssd", 1, "1.6B"), ("ram", 1, "8B"), ("ram", 1, "10B"),
    ("ram", 1, "11B"), ("ram", 1, "14B"), ("none", 8, "9B"), ("none", 8, "0.5B"), ("none", 1, "0.5B"),
)  # fmt: skip
WIDE = (
    ("ram", 1, "14B"), ("ssd", 1, "9B"), ("none", 8, "9B"), ("none", 1, "9B"), ("ram", 1, "20B"),
    ("none", 8, "5B"), ("none", 1, "5B"), ("ssd", 1, "5B"), ("ram", 1, "12B"), ("ram", 1, "26B"), ("ram", 1, "32B"),
    ("none", 8, "14B"), ("none", 8, "2B"), ("none", 1, "2B"),
)  # fmt: skip
#: A quarter of the INT8 size of 16 dimensions.
LOW = (("none", 1, "4B"), ("ssd", 1, "4B"), ("none", 8, "4B"))
#: The same, by the size of pages.
SIZES = tuple(
    (codes, replicas, ram, page_bytes)
    for page_bytes in (8_192, 16_384)
    for codes, replicas, ram in (("ram", 1, "20B"), ("ssd", 1, "3B"), ("none", 8, "3B"), ("ram", 1, "12B"))
)
WIDE_SIZES = tuple(
    (codes, replicas, ram, page_bytes)
    for page_bytes in (8_192, 16_384)
    for codes, replicas, ram in (("ram", 1, "48B"), ("ssd", 1, "9B"), ("none", 8, "9B"), ("ram", 1, "20B"))
)
CASES = {
    "sift-31k": (Case("sift-photos", 31_250), (*SIFT, ("ram", 1, "20B"), *SIZES)),
    "sift-125k": (Case("sift-photos", 125_000), SIFT),
    "sift-500k": (Case("sift-photos", 500_000), SIFT[:5]),
    "sgd-32k": (Case("sgd-minilm", 32_000, metric="cosine"), (*WIDE, ("ram", 1, "48B"), *WIDE_SIZES)),
    "squad-12k": (Case("squad-minilm", 12_000, metric="cosine"), WIDE),
    "clinc-18k": (Case("clinc-minilm", 18_000, metric="cosine"), WIDE),
    "gen16-m8-30k": (generated(16, 8, 30_000, (), "float32"), LOW),
    "stdlib-10k": (Case("stdlib-minilm", 10_000, metric="cosine"), WIDE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cases; all by default")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    for name in options.only or CASES:
        case, ways = CASES[name]
        if case.folder and not place_of(case).is_dir():
            continue
        base, queries = vectors_of(case)
        ids, distances = exact_neighbours(base, queries, DEPTH, case.metric, threads=options.threads)
        truth = Truth(ids.astype(np.uint64), distances, 0.0 if base.dtype.kind == "u" else 1e-6)
        probes = np.random.default_rng(0).choice(min(len(base), PILOT_ROWS), PILOT_PROBES, replace=False)
        hardness = {"intrinsic_dim": round(intrinsic_dimension(base[:PILOT_ROWS], probes), 2)}
        for codes, replicas, ram, *page_bytes in ways:
            way = {"case": name, "codes": codes, "replicas": replicas, "ram": ram}
            way["page_bytes"] = page_bytes[0] if page_bytes else 4_096
            if any(way.items() <= run.items() for run in runs):
                continue
            asked = replace(case, codes=codes, replicas=replicas, page_bytes=way["page_bytes"])
            runs.append(way | hardness | measure(base, queries, truth, asked, ram, options.threads))
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
            print(*way.values(), [(row["recall"], row["pages_read_mean"], row["reads_mean"])
                                  for row in runs[-1]["asked"] if row["k"] == 10][1:4], flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
