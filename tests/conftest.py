"""Fixtures that every room's tests share: where real vectors lie, and seeded randomness."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the large real vector sets, beside the repository; skips where it is absent."""
    shared = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"needs the real vector sets in {shared / 'data'}; set ANNSERVE_SHARED to their folder")
    return shared / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20_240_917)
