"""Indexes that the journeys share: each built once, by the command line, in a process of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, annserve_process

from annserve.vectors import bundled
from annserve.vectors.formats import read_matrix, read_truth

PHOTO_ROWS = 20_000


@dataclass(frozen=True)
class Journey:
    """A set of vectors and the index that was built from it.

    Attributes
    ----------
    base : (n, d) array
    queries : (nq, d) array
        Never seen by the build.
    truth : (nq, 10) integers
        Rows that are nearest, exactly.
    index, source, query_file, truth_file : Path
    metric : str
    """

    base: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    index: Path
    source: Path
    query_file: Path
    truth_file: Path
    metric: str


@pytest.fixture(
    scope="session",
    params=["docstrings", pytest.param("photos", marks=pytest.mark.needs_shared), "synthetic"],
)
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """Real embeddings under cosine, real photo descriptors under l2, synthetic vectors under inner product."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "docstrings":
        where = bundled.locate("stdlib-minilm")
        return _built(folder, where / "base.f16.npy", where / "queries.f16.npy", where / "gt.ids.npy", "cosine")
    if request.param == "photos":
        where = request.getfixturevalue("shared_data") / "sift-photos"
        for name, rows in (("base", PHOTO_ROWS), ("query", 400)):
            arguments = (where / f"{name}.u8bin", folder / f"{name}.u8bin", "--rows", f"0:{rows}")
            assert annserve("convert", *arguments).code == 0
        base, queries = read_matrix(folder / "base.u8bin"), read_matrix(folder / "query.u8bin")
        np.save(folder / "gt.npy", nearest_by_l2(base, queries, 10))
        return _built(folder, folder / "base.u8bin", folder / "query.u8bin", folder / "gt.npy", "l2")
    shape = ("--count", 15_000, "--dim", 48, "--clusters", 100, "--queries", 400, "--intrinsic-dim", 12)
    ended = annserve("generate", folder / "set", *shape, "--metric", "ip", "-k", 10)
    assert ended.code == 0, ended.err
    where = folder / "set"
    return _built(folder, where / "base.fbin", where / "query.fbin", where / "gt.ibin", "ip")


def _built(folder: Path, source: Path, queries: Path, truth: Path, metric: str) -> Journey:
    index = folder / "index"
    ended = annserve_process("build", source, "--out", index, "--metric", metric, "--threads", 2)
    assert ended.code == 0, ended.err
    ids = read_truth(truth)[0][:, :10].astype(np.int64)
    return Journey(read_matrix(source), read_matrix(queries), ids, index, source, queries, truth, metric)


def nearest_by_l2(base: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Give the ids of the k nearest rows in exact whole numbers, ties by id."""
    rows, asked = base.astype(np.float64), queries.astype(np.float64)
    distances = (asked**2).sum(1)[:, None] - 2 * asked @ rows.T + (rows**2).sum(1)
    return np.argsort(distances, axis=1, kind="stable")[:, :k].astype(np.int32)


@pytest.fixture(scope="session")
def small_rows() -> np.ndarray:
    """600 vectors in clusters, 24 dimensions, some of them twice."""
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(12, 24))[rng.integers(0, 12, 600)] + 0.4 * rng.normal(size=(600, 24))
    rows[590:] = rows[:10]
    return rows.astype(np.float32)


@pytest.fixture(scope="session")
def small_file(small_rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small rows as a file."""
    path = tmp_path_factory.mktemp("small") / "rows.npy"
    np.save(path, small_rows)
    return path


@pytest.fixture(scope="session")
def small_index(small_file: Path) -> Path:
    """An index of the small rows; tests that change it take a copy."""
    folder = small_file.parent / "index"
    ended = annserve("build", small_file, "--out", folder, "--threads", 2)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def copied_index(small_index: Path, tmp_path: Path) -> Path:
    """A copy of the small index, to be damaged."""
    return Path(shutil.copytree(small_index, tmp_path / "copy"))
