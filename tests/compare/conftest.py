"""A small data set, and systems that are a few lines long: right, broken, greedy, crashing."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from annserve.compare.execute import Places, run_job
from annserve.compare.job import read_job

ADAPTER = """
import os, sys, time
import numpy as np
from annserve.compare.peer import Peer, answer

class Adapter(Peer):
    def build(self, base, base_path):
        print("libraries print what they like")
        np.save(self.folder / "rows.npy", base)

    def open(self):
        self.rows = np.load(self.folder / "rows.npy").astype(np.int64)

    def configure(self, point):
        self.share = point.get("share", 1.0)

    def search(self, queries, k=10, *, recall_target=0.95):
        rows = self.rows[: max(k, int(len(self.rows) * self.share))]
        distances = ((queries[:, None].astype(np.int64) - rows) ** 2).sum(axis=2)
        ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(distances, ids, axis=1)
        pages = len(rows) // 30 + 1
        return self.spoil(ids, distances, pages)

    def spoil(self, ids, distances, pages):
        counts = {"pages_read": pages, "reads": pages, "bytes_read": 4096 * pages, "rows_scored": len(self.rows)}
        return answer(ids, distances, **counts)
"""

SPOILED = {
    "shuffled": "def spoil(self, ids, distances, pages):\n"
    "    order = np.random.default_rng(int(ids.sum())).permutation(ids.shape[1])\n"
    "    return answer(ids[:, order], distances[:, order], pages_read=pages)",
    "mislabelled": "def spoil(self, ids, distances, pages):\n"
    "    order = np.random.default_rng(int(ids.sum())).permutation(ids.shape[1])\n"
    "    return answer(ids[:, order], distances, pages_read=pages)",
    "doubled": "def spoil(self, ids, distances, pages):\n"
    "    return answer(ids, distances, pages_read=2 * pages, reads=2 * pages, bytes_read=8192 * pages)",
    "wrong": "def spoil(self, ids, distances, pages):\n"
    "    ids[:, -1] = np.where(ids.sum() % 10 == 0, len(self.rows) + 7, ids[:, -1])\n"
    "    return answer(ids, distances, pages_read=pages)",
    "crashing": "def spoil(self, *_):\n    print('the last words', file=sys.stderr)\n    os.abort()",
    "raising": "def open(self):\n    raise RuntimeError('no such index')",
    "hanging": "def build(self, base, base_path):\n    time.sleep(60)",
    "greedy": "def build(self, base, base_path):\n    self.hog = np.ones(200_000_000)\n    time.sleep(30)",
}


@pytest.fixture(scope="session")
def peers(tmp_path_factory):
    """Folder of systems: exact, the same said to read past the page cache, and each way to spoil it."""
    folder = tmp_path_factory.mktemp("peers")
    for name, method in {"exact": "", "direct": "", **SPOILED}.items():
        place = folder / name
        place.mkdir()
        (place / "adapter.py").write_text(ADAPTER + "\n" + textwrap.indent(method, "    "))
        (place / "peer.toml").write_text(
            f'name = "{name}"\nabout = "brute force"\nrow_types = ["uint8"]\nmetrics = ["l2"]\n'
            f'lies = "{"disk" if name == "direct" else "mapped"}"\n[search]\nshare = [0.25, 0.5, 1.0]\n'
        )
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder with a set called small: 400 rows, 50 queries, no truth."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    (folder / "small").mkdir()
    np.save(folder / "small/base.npy", random.integers(0, 256, (400, 8), dtype=np.uint8))
    np.save(folder / "small/queries.npy", random.integers(0, 256, (50, 8), dtype=np.uint8))
    return folder


@pytest.fixture
def run(tmp_path, peers, data):
    """Give a function that runs a job's text and gives (outcome, folder of results)."""

    def run_text(text, name="job", **how):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        where = {"results": tmp_path / "results", "work": tmp_path / "work", "cache": tmp_path / "cache"}
        return run_job(read_job(path), Places(**where, peers=peers, data=(data,)), **how), where["results"]

    return run_text
