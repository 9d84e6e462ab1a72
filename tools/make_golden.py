"""Make the golden files of the current format version: two small indexes and the answers that they give.

Run it once per format version; files of a version that was released are never made anew. The tests open them with
today's code and expect yesterday's answers::

    python tools/make_golden.py tests/golden/v1
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import annserve
from annserve.build.options import BuildOptions
from annserve.build.pipeline import build

K = 10
#: Name → (rows, dimensions, type, metric).
INDEXES = {"uint8-l2": (300, 16, "uint8", "l2"), "float32-cosine": (100, 24, "float32", "cosine")}


def make(folder: Path, name: str) -> None:
    """Make one index: its rows, ids and queries, the index itself, and what it answers."""
    n_rows, dim, row_type, metric = INDEXES[name]
    rng = np.random.default_rng(1)
    places = rng.normal(size=(12, dim)) * 50 + 128
    rows = places[rng.integers(0, 12, n_rows)] + 20 * rng.normal(size=(n_rows, dim))
    queries = places[rng.integers(0, 12, 8)] + 30 * rng.normal(size=(8, dim))
    if row_type == "uint8":
        rows, queries = np.rint(rows).clip(0, 255), np.rint(queries).clip(0, 255)
    else:
        rows, queries = rows / 128 - 1, queries / 128 - 1
    folder = folder / name
    folder.mkdir(parents=True)
    np.save(folder / "rows.npy", rows.astype(row_type))
    np.save(folder / "row_ids.npy", rng.choice(10**6, n_rows, replace=False).astype(np.uint64))
    np.save(folder / "queries.npy", queries.astype(row_type))
    options = BuildOptions(metric=metric, ids=folder / "row_ids.npy", calibration_queries=50, threads=1)
    build(folder / "rows.npy", folder / "index", options)
    with annserve.open(folder / "index") as index:
        result = index.search(np.load(folder / "queries.npy"), K, recall_target=1.0)
    np.save(folder / "ids.npy", result.ids)
    np.save(folder / "distances.npy", result.distances)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_golden.py NEW_FOLDER")
    folder = Path(sys.argv[1])
    if folder.exists():
        sys.exit(f"{folder} exists; golden files are never made anew, choose another folder")
    for name in INDEXES:
        make(folder, name)


if __name__ == "__main__":
    main()
