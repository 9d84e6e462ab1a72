"""Rows on a curved surface of few dimensions, as real vectors lie, and an index of some."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.build.pipeline import build
from annserve.design.options import BuildOptions

DIM = 64


class Built(NamedTuple):
    """An index, the rows in it, and queries of the same kind that no build has seen."""

    folder: Path
    rows: npt.NDArray[np.uint8]
    queries: npt.NDArray[np.uint8]


def surface_rows(count: int, dim: int, seed: int) -> npt.NDArray[np.uint8]:
    """Give rows of 100 clusters of eight latent dimensions, carried into `dim` by a smooth map."""
    rng = np.random.default_rng(seed)
    first, shift = 0.5 * rng.normal(size=(8, 64)), rng.uniform(0, 6, 64)
    second = rng.normal(size=(64, dim)) / np.sqrt(10)
    latent = rng.normal(size=(100, 8))[rng.integers(0, 100, count)] + 0.8 * rng.normal(size=(count, 8))
    return np.rint(128 + 25 * np.sin(latent @ first + shift) @ second).clip(0, 255).astype(np.uint8)


def build_surface(folder: Path) -> Built:
    """Build 5,000 rows in some 90 pages, with codes of a quarter of their size."""
    made = surface_rows(6_000, DIM, seed=1)
    rows, queries = made[:5_000], made[5_000:]
    np.save(folder / "rows.npy", rows)
    build(folder / "rows.npy", folder / "index", BuildOptions(threads=2, calibration_queries=1_200))
    return Built(folder / "index", rows, queries)
