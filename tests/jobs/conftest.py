from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from annserve.jobs import DataFolder, Jobs, work

INPUTS = ("rows.npy", "slow.npy", "slow_forever.npy", "bad.npy", "noisy.npy", "ids.npy")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """A data folder with inputs of which only the names matter."""
    made = DataFolder(tmp_path / "data")
    for name in INPUTS:
        (made.path / "inputs" / name).touch()
    for name in ("photos", "other", "one", "two", "three"):
        made.collection(name).mkdir()
    return made


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Let jobs run ``program.py``; give what it was called with."""
    monkeypatch.setattr(work, "PROGRAM", (sys.executable, str(Path(__file__).with_name("program.py"))))
    path = tmp_path / "calls"
    monkeypatch.setenv("PROGRAM_CALLS", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def jobs(folder: DataFolder, calls):
    made = Jobs(folder, threads=1)
    yield made
    made.close()
