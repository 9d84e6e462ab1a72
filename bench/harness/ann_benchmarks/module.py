"""annserve for ann-benchmarks: an index on disk, searched in this process, one query a call."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import annserve.collection
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions

from ..base.module import BaseANN

_METRICS = {"euclidean": "l2", "angular": "cosine"}


class Annserve(BaseANN):
    """Constructor: metric, and options of ``annserve build``. Query argument: the recall target."""

    def __init__(self, metric, options):
        self._options = BuildOptions(metric=_METRICS[metric], **options)
        self._folder = tempfile.TemporaryDirectory(prefix="annserve-")
        self._recall_target = 0.95
        self._index = None
        self._pages = []
        self.name = f"annserve({options})"

    def fit(self, X):
        folder = Path(self._folder.name)
        np.save(folder / "base.npy", X)
        build(folder / "base.npy", folder / "index", self._options)
        (folder / "base.npy").unlink()
        self._index = annserve.collection.open(folder / "index")

    def set_query_arguments(self, recall_target):
        self._recall_target = recall_target
        self._pages = []
        self.name = f"annserve(recall_target={recall_target})"

    def query(self, q, n):
        result = self._index.search(q, n, recall_target=self._recall_target)
        self._pages.append(result.stats.pages_read)
        return result.ids[0].astype(np.int64)

    def batch_query(self, X, n):
        result = self._index.search(X, n, recall_target=self._recall_target)
        self._pages.append(result.stats.pages_read)
        self.res = result.ids.astype(np.int64)

    def get_additional(self):
        pages = np.concatenate(self._pages) if self._pages else np.zeros(0)
        return {"mean_ssd_ios": float(pages.mean())} if len(pages) else {}

    def done(self):
        if self._index is not None:
            self._index.close()
        self._folder.cleanup()
