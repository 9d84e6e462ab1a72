"""Servers that tests share, and the rows behind them.

Tests of ``collections`` run twice: before the fake engine, and before the real one once it can be built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fake
import grpc
import numpy as np
import pytest
from running import RunningServer, run, serving

from annserve.rpc import search_pb2_grpc

#: Collections of the shared server: rows of each type, all metrics.
METRICS = {"uint8": "l2", "int8": "l2", "float16": "ip", "float32": "cosine"}
N_ROWS, DIM = 400, 24


def rows_of(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    if dtype == "uint8":
        return rng.integers(0, 256, (N_ROWS, DIM)).astype(np.uint8)
    if dtype == "int8":
        return rng.integers(-128, 128, (N_ROWS, DIM)).astype(np.int8)
    return rng.normal(size=(N_ROWS, DIM)).astype(dtype)


@dataclass(frozen=True)
class Served:
    """A server with one collection per row type, named after it."""

    server: RunningServer
    rows: dict[str, np.ndarray]
    engine: str

    @property
    def address(self) -> str:
        return self.server.address


@pytest.fixture(scope="session", params=["fake", "real"])
def collections(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shared server: one collection per row type, fake engine or real."""
    folder = tmp_path_factory.mktemp(f"served-{request.param}")
    rows = {dtype: rows_of(dtype) for dtype in METRICS}
    folders = [index(folder / dtype, rows[dtype], METRICS[dtype], request.param) for dtype in METRICS]
    with serving(*folders, engine=request.param) as server:
        yield Served(server, rows, request.param)


@pytest.fixture
def stub(collections: Served) -> Iterator[search_pb2_grpc.SearchServiceStub]:
    """The bare service, for requests that no client of ours would send."""
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(collections.address, options=options) as channel:
        yield search_pb2_grpc.SearchServiceStub(channel)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small index of the fake engine."""
    return fake.write(tmp_path_factory.mktemp("one") / "photos", rows_of("uint8"))


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the fake engine whose every search takes 0.4 s."""
    return fake.write(tmp_path_factory.mktemp("one") / "slow", rows_of("uint8"), seconds=0.4)


@pytest.fixture(scope="session")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the fake engine whose every search takes 1.5 s."""
    return fake.write(tmp_path_factory.mktemp("one") / "slower", rows_of("uint8"), seconds=1.5)


def index(path: Path, rows: np.ndarray, metric: str, engine: str) -> Path:
    if engine == "fake":
        return fake.write(path, rows, metric)
    source = path.with_suffix(".npy")
    np.save(source, rows)
    built = run("build", str(source), "--out", str(path), "--metric", metric, engine="real")
    assert built.returncode == 0, built.stderr
    return path
