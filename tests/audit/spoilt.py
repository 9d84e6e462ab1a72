"""An index that delivers what it is asked for, and one that doesn't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.index import names
from annserve.index.manifest import read_current
from annserve.index.publish import describe_file, publish
from annserve.index.sealed import read_sealed, write_sealed

DIM, SPREAD = 64, np.arange(1, 65) ** -0.5


def vectors(count: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, DIM)) * SPREAD).astype(np.float32)


def build_index(folder: Path) -> Path:
    """Build an index that delivers what it is asked for."""
    np.save(folder / "rows.npy", vectors(6_000, 1))
    options = BuildOptions(ram="20B", threads=2, calibration_queries=300, rerank="none")
    build(folder / "rows.npy", folder / "index", options)
    return folder / "index"


def spoil(index: Path, copy: Path) -> Path:
    """Copy an index, its plan saying of each recall target what only the second target below takes."""
    copy.mkdir()
    for path in index.rglob("*"):
        if path.is_dir():
            (copy / path.relative_to(index)).mkdir()
        elif path.name != names.PLAN:
            (copy / path.relative_to(index)).hardlink_to(path)
    manifest = read_current(copy)
    (entry,) = manifest.segments
    plan = read_sealed(index / entry.name / names.PLAN)
    for name in ("expected", "heads", "skip_below"):
        plan[name] = [[row[max(i - 2, 0)] for i in range(len(row))] for row in plan[name]]
    path = copy / entry.name / names.PLAN
    write_sealed(path, plan)
    entry = replace(entry, files={**entry.files, names.PLAN: describe_file(path)})
    publish(copy, replace(manifest, segments=(entry,), snapshot=manifest.snapshot + 1))
    return copy
