"""An engine of a few lines with the contract of ``annserve.collection``: exact search, and faults on demand.

A folder holds ``rows.npy`` and ``fake.json`` (metric, seconds that each search takes).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from annserve.errors import BusyError, CorruptionError, DeadlineError
from annserve.results import SearchResult, SearchStats
from annserve.spec import IndexSpec, check_k, check_recall_target, check_vectors

#: Values of k that make a search fail, so that a test can plant a fault from outside.
K_BUG, K_CORRUPTION, K_BUSY = 391, 392, 393


def write(folder: Path, rows: np.ndarray, metric: str = "l2", seconds: float = 0.0) -> Path:
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    (folder / "fake.json").write_text(json.dumps({"metric": metric, "seconds": seconds}))
    (folder / "CURRENT").write_text("1")
    return folder


def publish(folder: Path, rows: np.ndarray, snapshot: int) -> None:
    """Replace the rows, as a build publishes a version; 0 makes one that can't be opened."""
    np.save(folder / "new.npy", rows)
    (folder / "new.npy").replace(folder / "rows.npy")
    (folder / "NEXT").write_text(str(snapshot))
    (folder / "NEXT").replace(folder / "CURRENT")


def open(
    path: str | Path,
    *,
    io: str = "auto",
    threads: int | None = None,
    cache_bytes: object = 0,
    cache_packed: bool = False,
) -> FakeCollection:
    return FakeCollection(Path(path))


class FakeCollection:
    def __init__(self, path: Path) -> None:
        settings = json.loads((path / "fake.json").read_text())
        self.snapshot = int((path / "CURRENT").read_text())
        if not self.snapshot:
            raise CorruptionError(f"{path} is damaged", path=path)
        self._rows = np.load(path / "rows.npy")
        self.closed = False
        self._seconds = settings["seconds"]
        self.n_searches = 0
        self.n_rows, dim = self._rows.shape
        self.spec = IndexSpec(dim, self._rows.dtype.name, settings["metric"])

    def search_exact(self, queries, k=10, *, between):
        between()
        return self.search(queries, k)

    def search(
        self, queries, k=10, *, recall_target=0.95, rerank_queries=None, rerank_candidates=None, deadline=None, **use
    ):
        vectors = check_vectors(queries, self.spec)
        k = check_k(k, self.n_rows)
        check_recall_target(recall_target)
        if k == K_BUG:
            raise RuntimeError("planted\nbug")
        if k == K_CORRUPTION:
            raise CorruptionError("page checksum mismatch", path=Path("pages.bin"), offset=8192)
        if k == K_BUSY:
            raise BusyError("no room", retry_after_ms=250)
        assert not self.closed, "searched after it was closed"
        begun, self.n_searches = time.monotonic(), self.n_searches + 1
        # The first search is the one with which a server warms up.
        while self.n_searches > 1 and time.monotonic() - begun < self._seconds:
            if deadline is not None and time.monotonic() > deadline.at:
                raise DeadlineError("the search ran out of time")
            time.sleep(0.005)
        distances = exact_distances(vectors, self._rows, self.spec.metric)
        ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
        nearest = np.take_along_axis(distances, ids, axis=1).astype(np.float32)
        counts = {name: np.full(len(vectors), 3 + i) for i, name in enumerate(SearchStats.COUNTS)}
        stats = SearchStats(**counts, stage_seconds={"score": 0.25}, seconds=0.5)
        return SearchResult(ids.astype(np.uint64), nearest, stats)

    def info(self):
        return {
            "count": self.n_rows,
            "dim": self.spec.dim,
            "row_type": self.spec.row_type,
            "metric": self.spec.metric,
            "page_bytes": self.spec.page_bytes,
            "page_capacity": self.spec.page_capacity,
            "heads": 1,
            "pages": -(-self.n_rows // self.spec.page_capacity),
            "page_fill": self.n_rows / (-(-self.n_rows // self.spec.page_capacity) * self.spec.page_capacity),
            "ram_tiers": {"heads": 4096, "codes": 128},
            "ram_bytes": 4224,
            "ram_bytes_per_vector": 4224 / self.n_rows,
            "disk_bytes": 123_456_789_012,
            "build_seconds": 1.5,
            "recall_targets": [0.8, 0.95],
            "format_version": 1,
            "snapshot": self.snapshot,
            "io": "fake",
            "raw_rows": None,
        }

    def cache_counts(self):
        return {}

    def close(self):
        self.closed = True


def exact_distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances (nq, n) as annserve reports them, in float64."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return ((a[:, None] - b[None]) ** 2).sum(axis=2)
    if metric == "cosine":
        a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
        return 1 - a @ b.T
    return -(a @ b.T)
