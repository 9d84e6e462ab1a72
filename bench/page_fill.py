"""What full pages cost in reads: indexes whose pages are 70, 85 and 98.5 % full, at equal bytes of RAM a vector.

    python bench/page_fill.py --json bench/results/<date>-fill/generated.json [--count 60000]

Rows are generated. Emptier pages leave clusters their natural sizes; full ones are balanced by force.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import annserve
from annserve.build.pipeline import build
from annserve.clusters import bisection
from annserve.design.options import BuildOptions
from annserve.measure.machine import describe_machine
from annserve.vectors.formats import read_matrix, read_truth
from annserve.vectors.synthetic import SyntheticOptions, generate

FILLS = (0.70, 0.85, bisection.FILL)
RECALLS = (0.90, 0.95, 0.98)
_TARGETS = (0.80, 0.85, 0.90, 0.95, 0.97, 0.98, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what full pages cost in reads.")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "set"
        generate(folder, SyntheticOptions(count=options.count, dim=128, dtype="uint8", intrinsic_dim=18.0, k=10))
        queries, (truth, _) = read_matrix(folder / "query.u8bin"), read_truth(folder / "gt.ibin")
        found = []
        for fill in FILLS:
            index = Path(place) / f"fill-{fill}"
            with patch.object(bisection, "FILL", fill):
                build(folder / "base.u8bin", index, BuildOptions(threads=options.threads))
            found.append({"fill_asked": fill, **measure(index, queries, truth)})
            print(json.dumps(found[-1]))
    report = {"rows": options.count, "indexes": found, "machine": describe_machine()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


def measure(index: Path, queries: Any, truth: Any) -> dict[str, Any]:
    """Ask all queries at all targets; pages at equal recall lie between two of them."""
    recalls, pages = [], []
    with annserve.open(index) as opened:
        for target in _TARGETS:
            result = opened.search(queries, 10, recall_target=target)
            hits = (result.ids[:, :, None] == truth[:, None, :10].astype(np.uint64)).any(axis=2)
            recalls.append(float(hits.mean()))
            pages.append(float(result.stats.pages_read.mean()))
        facts = opened.info()
    at = np.exp(np.interp(-np.log1p(-np.array(RECALLS)), -np.log1p(-np.array(recalls)), np.log(pages)))
    return {
        "page_fill": facts["page_fill"],
        "pages_on_disk": facts["pages"],
        "ram_bytes_per_vector": facts["ram_bytes_per_vector"],
        "pages_at_recall": {str(recall): round(float(value), 3) for recall, value in zip(RECALLS, at)},
        "asked": [{"recall": recall, "pages": read} for recall, read in zip(recalls, pages)],
    }


if __name__ == "__main__":
    main()
