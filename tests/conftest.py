"""Fixtures that every room's tests share: where real vectors lie, and seeded randomness."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest
from hypothesis import settings
from surface import Built, build_surface
from threadpoolctl import threadpool_limits

# The same examples in every run, so that a red build is about the change. ANNSERVE_FUZZ=1 looks for new ones.
# No deadline: the first example of a kernel compiles it.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("fuzz", print_blob=True, deadline=None)
settings.load_profile("fuzz" if os.environ.get("ANNSERVE_FUZZ") else "steady")

# Workers of a run share the processors; threads of products would wait for each other (annserve/blas.py).
os.environ["OPENBLAS_NUM_THREADS"] = "1"
threadpool_limits(1, "blas")

# In a shell's background Ctrl-C is ignored, by whom we start too: they would be waited for until they are killed.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Files that take longest, which begin first: what begins last shouldn't be what all wait for.
LONGEST = (
    "promises/test_readme.py",
    "journeys/test_journey.py",
    "compare/test_gate.py",
    "journeys/test_relations.py",
    "faults/test_build_faults.py",
    "serve/test_fuzz.py",
    "serve/test_search_service.py",
    "journeys/test_lookaside.py",
    "compare/test_broken_engine.py",
    "serve/test_lifecycle.py",
    "serve/test_workers.py",
    "index/test_broken_indexes.py",
    "serve/test_shown.py",
    "update/test_append.py",
)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and among the others, all stays in order."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in rank), "a file was moved: LONGEST is to follow"
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the large real vector sets, beside the repository; skips where it is absent."""
    shared = Path(os.environ.get("ANNSERVE_SHARED", ROOT.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"needs the real vector sets in {shared / 'data'}; set ANNSERVE_SHARED to their folder")
    return shared / "data"


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    """A headless Chromium without a network; skips where none is installed."""
    program = chromium.find()
    if program is None:
        pytest.skip("needs a Chromium on the PATH, or ANNSERVE_CHROMIUM")
    opened = chromium.Chromium(program, str(tmp_path_factory.mktemp("profile")))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An index with codes, built once, its rows, and queries that it has never seen."""
    return build_surface(tmp_path_factory.mktemp("built"))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20_240_917)
