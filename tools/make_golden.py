"""Make the golden files of the current format version: small indexes and the answers that they give.

Run it once per format version, and for an index that is new in it; files that exist are never made anew. The tests
open them with today's code and expect yesterday's answers::

    python tools/make_golden.py tests/golden/v1
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.update.append import AppendOptions, append

K, N_QUERIES = 10, 8
#: Recall target at which the codes decide what is read, and what it may be off by without another answer.
TARGET, NEARBY = 0.95, (0.94, 0.96)


class Index(NamedTuple):
    """What a golden index holds, and how it is built."""

    n_rows: int
    dim: int
    row_type: str
    metric: str
    ram: str
    codes: str
    rerank: str = "none"
    replicas: int = 1
    #: Rows, of those above, that are appended.
    n_appended: int = 0


INDEXES = {
    "uint8-l2": Index(600, 32, "uint8", "l2", "50%", "auto"),
    "float32-cosine": Index(300, 40, "float32", "cosine", "50%", "auto"),
    "uint8-l2-codes-on-ssd": Index(600, 32, "uint8", "l2", "50%", "ssd"),
    "int8-ip-without-codes": Index(300, 64, "int8", "ip", "100%", "none"),
    "float16-cosine-raw": Index(200, 40, "float16", "cosine", "50%", "auto", "float16"),
    "float32-l2-replicas": Index(300, 100, "float32", "l2", "50%", "none", replicas=4),
    "float32-ip-segments": Index(500, 40, "float32", "ip", "80%", "auto", n_appended=150),
}


def make(folder: Path, name: str) -> None:
    """Make one index: its rows, ids and queries, the index itself, and what it answers."""
    index = INDEXES[name]
    rng = np.random.default_rng(1)
    places = rng.normal(size=(12, index.dim)) * 50
    rows = places[rng.integers(0, 12, index.n_rows)] + 20 * rng.normal(size=(index.n_rows, index.dim))
    queries = places[rng.integers(0, 12, 60)] + 30 * rng.normal(size=(60, index.dim))
    folder = folder / name
    folder.mkdir(parents=True)
    row_ids = rng.choice(10**6, index.n_rows, replace=False).astype(np.uint64)
    # Rows that are appended are longer: under inner product their index space is another.
    rows[index.n_rows - index.n_appended :] *= 1.2
    np.save(folder / "rows.npy", as_type(rows, index.row_type))
    np.save(folder / "row_ids.npy", row_ids)
    options = BuildOptions(
        metric=index.metric,
        ids=folder / "row_ids.npy",
        ram=index.ram,
        codes=index.codes,
        rerank=index.rerank,
        replicas=index.replicas,
        calibration_queries=200,
        threads=1,
    )
    build_index(folder, options, index.n_rows - index.n_appended)
    with annserve.open(folder / "index") as opened:
        asked = as_type(queries, index.row_type)
        # Only queries whose answer hangs on no rounding, which another processor may do otherwise.
        answers = [opened.search(asked, K, recall_target=target).ids for target in (TARGET, *NEARBY)]
        steady = (answers[0] == answers[1]).all(axis=1) & (answers[0] == answers[2]).all(axis=1)
        kept = asked[steady][:N_QUERIES]
        if len(kept) < N_QUERIES:
            sys.exit(f"{name}: only {len(kept)} of {len(asked)} queries have a steady answer")
        everything = opened.search(kept, K, recall_target=1.0)
        np.save(folder / "queries.npy", kept)
        np.save(folder / "ids.npy", everything.ids)
        np.save(folder / "distances.npy", everything.distances)
        np.save(folder / "ids_at_95.npy", answers[0][steady][:N_QUERIES])


def build_index(folder: Path, options: BuildOptions, n_built: int) -> None:
    """Build an index of the first rows, and append the rest."""
    rows, row_ids = np.load(folder / "rows.npy"), np.load(folder / "row_ids.npy")
    if n_built == len(rows):
        build(folder / "rows.npy", folder / "index", options)
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for part, which in (("old", slice(n_built)), ("new", slice(n_built, None))):
            np.save(work / f"{part}.npy", rows[which])
            np.save(work / f"{part}_ids.npy", row_ids[which])
        build(work / "old.npy", folder / "index", replace(options, ids=work / "old_ids.npy"))
        append(folder / "index", work / "new.npy", AppendOptions(ids=work / "new_ids.npy", threads=1))


def as_type(values: np.ndarray, row_type: str) -> np.ndarray:
    """Give values around 0, of some 50 in size, as the type of the rows."""
    if row_type.startswith("float"):
        return (values / 128).astype(row_type)
    info = np.iinfo(row_type)
    return np.rint(values + (128 if row_type == "uint8" else 0)).clip(info.min, info.max).astype(row_type)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_golden.py FOLDER")
    folder = Path(sys.argv[1])
    missing = [name for name in INDEXES if not (folder / name).exists()]
    if not missing:
        sys.exit(f"{folder} has them all; golden files are never made anew, choose another folder")
    for name in missing:
        make(folder, name)


if __name__ == "__main__":
    main()
