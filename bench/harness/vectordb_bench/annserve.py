"""The client class: rows are gathered in files, ``optimize`` builds, every process opens the index for itself."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..api import VectorDB


class AnnserveClient(VectorDB):
    """An embedded index. Instances are pickled into processes, so nothing is open before ``init``."""

    name = "annserve"
    thread_safe = True

    def __init__(self, dim, db_config, db_case_config, collection_name="vdbbench", drop_old=False, **kwargs):
        self._dim = dim
        self._case = db_case_config
        self._folder = Path(db_config["folder"]) / collection_name
        self._index = None
        if drop_old:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def init(self):
        import annserve.collection

        if (self._folder / "index" / "CURRENT").exists():
            self._index = annserve.collection.open(self._folder / "index", threads=1)
        try:
            yield
        finally:
            if self._index is not None:
                self._index.close()
            self._index = None

    def need_normalize_cosine(self):
        return False

    def insert_embeddings(self, embeddings, metadata, **kwargs):
        rows = np.ascontiguousarray(embeddings, np.float32)
        if rows.shape != (len(metadata), self._dim):
            return 0, ValueError(f"rows have shape {rows.shape}; expected {(len(metadata), self._dim)}")
        with (self._folder / "rows.f32").open("ab") as file:
            file.write(rows.tobytes())
        with (self._folder / "ids.i64").open("ab") as file:
            file.write(np.asarray(metadata, np.int64).tobytes())
        return len(rows), None

    def optimize(self, data_size=None):
        from annserve.build.pipeline import build
        from annserve.design.options import BuildOptions

        ids = np.fromfile(self._folder / "ids.i64", np.int64)
        rows = np.memmap(self._folder / "rows.f32", np.float32, "r", shape=(len(ids), self._dim))
        np.save(self._folder / "rows.npy", rows)
        np.save(self._folder / "ids.npy", ids)
        shutil.rmtree(self._folder / "index", ignore_errors=True)
        options = BuildOptions(ids=self._folder / "ids.npy", **self._case.index_param())
        build(self._folder / "rows.npy", self._folder / "index", options)
        for name in ("rows.npy", "ids.npy"):
            (self._folder / name).unlink()

    def search_embedding(self, query, k=100, filters=None, timeout=None, **kwargs):
        if filters:
            raise NotImplementedError("annserve has no filters yet")
        result = self._index.search(np.asarray(query, np.float32), k, **self._case.search_param())
        return result.ids[0].astype(np.int64).tolist()
