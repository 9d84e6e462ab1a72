from __future__ import annotations

from pathlib import Path

import pytest
from audit.spoilt import build_index, spoil


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("audited"))


@pytest.fixture
def spoilt(index: Path, tmp_path: Path) -> Path:
    return spoil(index, tmp_path / "spoilt")
