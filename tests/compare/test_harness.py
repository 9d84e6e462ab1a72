"""The modules for other harnesses run where those harnesses would put them, against stubs of their interfaces."""

from __future__ import annotations

import importlib
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

HARNESS = Path(__file__).resolve().parent.parent.parent / "bench/harness"
N, DIM = 600, 8

BASE_ANN = "class BaseANN:\n    def done(self): pass\n"
BIG_ANN_DATASETS = """
import numpy as np
class Small:
    dtype, d = "uint8", 8
    def get_dataset_fn(self): return {path!r}
    def distance(self): return "euclidean"
DATASETS = {{"small": Small}}
"""
VECTORDB_API = """
from abc import ABC
from enum import Enum
from pydantic import BaseModel
class MetricType(str, Enum):
    L2 = "L2"; IP = "IP"; COSINE = "COSINE"
class DBConfig(ABC, BaseModel):
    db_label: str = ""
class DBCaseConfig(ABC): pass
class VectorDB(ABC): pass
"""
PYDANTIC = """
class BaseModel:
    def __init__(self, **fields):
        for name, value in fields.items():
            assert hasattr(type(self), name), name
            setattr(self, name, value)
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Give a function that lays files out as a harness would, importable until the test ends."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "tree")

    def lay_out(files):
        for name, content in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, path)
            else:
                path.write_text(content)
        for folder in (path for path in (tmp_path / "tree").rglob("*") if path.is_dir()):
            (folder / "__init__.py").touch()
        importlib.invalidate_caches()

    yield lay_out
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("ann_benchmarks", "benchmark", "vectordb_bench", "pydantic"):
            del sys.modules[name]


@pytest.fixture
def vectors(rng):
    return rng.integers(0, 256, (N, DIM), dtype=np.uint8)


def nearest(base, query, k):
    return np.argsort(((base.astype(np.int64) - query.astype(np.int64)) ** 2).sum(axis=1), kind="stable")[:k]


def recall(ids, base, queries, k=10):
    return np.mean([len(np.intersect1d(row, nearest(base, query, k))) / k for row, query in zip(ids, queries)])


@pytest.mark.slow
def test_ann_benchmarks_fits_queries_and_tells(tree, vectors):
    tree(
        {
            "ann_benchmarks/algorithms/base/module.py": BASE_ANN,
            "ann_benchmarks/algorithms/annserve/module.py": HARNESS / "ann_benchmarks/module.py",
        }
    )
    module = importlib.import_module("ann_benchmarks.algorithms.annserve.module")
    algorithm = module.Annserve("euclidean", {"calibration_queries": 50})
    algorithm.fit(vectors.astype(np.float32))
    algorithm.set_query_arguments(0.95)
    queries = vectors[:20].astype(np.float32)
    one_by_one = [algorithm.query(query, 10) for query in queries]
    assert recall(one_by_one, vectors, vectors[:20]) > 0.9
    assert algorithm.get_additional()["mean_ssd_ios"] > 0
    algorithm.batch_query(queries, 10)
    assert np.array_equal(algorithm.res, one_by_one)
    assert "0.95" in algorithm.name
    algorithm.done()


@pytest.mark.slow
def test_big_ann_builds_from_its_crop_and_loads_again(tree, vectors, tmp_path):
    crop = tmp_path / f"base.1B.u8bin.crop_nb_{N}"
    crop.write_bytes(np.array(vectors.shape, "<u4").tobytes() + vectors.tobytes())
    tree(
        {
            "benchmark/algorithms/base.py": BASE_ANN,
            "benchmark/algorithms/annserve_t2.py": HARNESS / "big_ann/annserve_t2.py",
            "benchmark/datasets.py": BIG_ANN_DATASETS.format(path=str(crop)),
        }
    )
    module = importlib.import_module("benchmark.algorithms.annserve_t2")
    parameters = {"folder": str(tmp_path / "indices"), "calibration_queries": 50}
    algorithm = module.Annserve("euclidean", parameters)
    assert not algorithm.load_index("small")
    algorithm.fit("small")
    algorithm.done()
    again = module.Annserve("euclidean", parameters)
    assert again.load_index("small")
    again.set_query_arguments("0.98")
    again.query(vectors[:20], 10)
    assert recall(again.get_results(), vectors, vectors[:20]) > 0.9
    told = again.get_additional()
    assert told["mean_ssd_ios"] > 0
    assert told["mean_latency"] > 0
    assert "CURRENT" in again.index_files_to_store("small")[2]
    again.done()


@pytest.mark.slow
def test_vectordb_bench_inserts_optimizes_and_searches_by_its_ids(tree, vectors, tmp_path):
    client_folder = "vectordb_bench/backend/clients"
    files = {path.name: path for path in (HARNESS / "vectordb_bench").glob("*.py")}
    tree(
        {"pydantic.py": PYDANTIC, f"{client_folder}/api.py": VECTORDB_API}
        | {f"{client_folder}/annserve/{name}": path for name, path in files.items()}
    )
    api = importlib.import_module("vectordb_bench.backend.clients.api")
    config = importlib.import_module("vectordb_bench.backend.clients.annserve.config")
    client = importlib.import_module("vectordb_bench.backend.clients.annserve.annserve")
    database = client.AnnserveClient(
        DIM,
        config.AnnserveConfig(folder=str(tmp_path / "db")).to_dict(),
        config.AnnserveCaseConfig(metric_type=api.MetricType.L2, recall_target=0.98),
        drop_old=True,
    )
    labels = np.random.default_rng(1).permutation(N) + 5_000
    with database.init():
        for start in range(0, N, 250):
            part = slice(start, start + 250)
            inserted, error = database.insert_embeddings(vectors[part].tolist(), labels[part].tolist())
            assert (inserted, error) == (len(labels[part]), None)
        assert database.insert_embeddings([[1.0]], [3])[0] == 0
        database.optimize(N)
    copied = pickle.loads(pickle.dumps(database))
    with copied.init():
        found = [copied.search_embedding(query.tolist(), k=10) for query in vectors[:20].astype(float)]
        with pytest.raises(NotImplementedError):
            copied.search_embedding([0.0] * DIM, filters={"id": 1})
    rows = [np.flatnonzero(np.isin(labels, row)) for row in found]
    assert recall(rows, vectors, vectors[:20]) > 0.9
