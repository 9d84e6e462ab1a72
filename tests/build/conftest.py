"""An index with codes, built once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from surface import surface_rows

from annserve.build.options import BuildOptions
from annserve.build.pipeline import build

DIM = 64


class Built(NamedTuple):
    """An index, the rows in it, and queries of the same kind that no build has seen."""

    folder: Path
    rows: npt.NDArray[np.uint8]
    queries: npt.NDArray[np.uint8]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """5,000 rows in some 90 pages, with codes of a quarter of their size."""
    folder = tmp_path_factory.mktemp("built")
    made = surface_rows(6_000, DIM, seed=1)
    rows, queries = made[:5_000], made[5_000:]
    np.save(folder / "rows.npy", rows)
    build(folder / "rows.npy", folder / "index", BuildOptions(threads=2, calibration_queries=1_200))
    return Built(folder / "index", rows, queries)
