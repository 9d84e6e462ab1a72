"""A small published index, made once; tests break copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from annserve.build.pipeline import build
from annserve.design.options import BuildOptions


@pytest.fixture(scope="session")
def whole_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 60 rows of 400 float32 dimensions under l2: seven pages or so, a few heads."""
    folder = tmp_path_factory.mktemp("index")
    rows = np.random.default_rng(8).normal(size=(60, 400)).astype(np.float32)
    np.save(folder / "rows.npy", rows)
    build(folder / "rows.npy", folder / "idx", BuildOptions(rerank="float32", calibration_queries=20, threads=1))
    return folder / "idx"


@pytest.fixture
def copy_index(whole_index: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Give copies of the index, to be broken."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(whole_index, tmp_path / name))

    return copy
