"""annserve for big-ann-benchmarks, track T2: RAM is bounded, rows lie on an SSD, queries come in one batch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from benchmark.algorithms.base import BaseANN
from benchmark.datasets import DATASETS

import annserve.collection
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions

_METRICS = {"euclidean": "l2", "ip": "ip", "angular": "cosine"}
_SUFFIXES = {"uint8": ".u8bin", "int8": ".i8bin", "float32": ".fbin"}


class Annserve(BaseANN):
    """Index arguments: options of ``annserve build``. Query argument: the recall target."""

    def __init__(self, metric, index_params):
        self._metric = _METRICS[metric]
        self._params = dict(index_params)
        self._folder = Path(self._params.pop("folder", "data/indices/annserve"))
        self._recall_target = 0.95
        self._index = None
        self._stats = None
        self._seconds = 0.0
        self.name = "annserve"

    def track(self):
        return "T2"

    def fit(self, dataset):
        found = DATASETS[dataset]()
        place = self._place(dataset)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The suffix says the type; a crop of the harness is called base.1B.u8bin.crop_nb_10000000.
        base = place.parent / f"{dataset}{_SUFFIXES[np.dtype(found.dtype).name]}"
        base.unlink(missing_ok=True)
        base.symlink_to(Path(found.get_dataset_fn()).resolve())
        build(base, place, BuildOptions(metric=self._metric, **self._params))
        base.unlink()
        self._index = annserve.collection.open(place)

    def load_index(self, dataset):
        place = self._place(dataset)
        if not (place / "CURRENT").exists():
            return False
        self._index = annserve.collection.open(place)
        return True

    def index_files_to_store(self, dataset):
        place = self._place(dataset)
        return [str(place), "", [path.name for path in sorted(place.rglob("*")) if path.is_file()]]

    def set_query_arguments(self, query_args):
        self._recall_target = float(query_args)

    def query(self, X, k):
        began = time.perf_counter()
        result = self._index.search(X, k, recall_target=self._recall_target)
        self._seconds = time.perf_counter() - began
        self._stats = result.stats
        self.res = result.ids.astype(np.int32)
        self.res_distances = result.distances

    def range_query(self, X, radius):
        raise NotImplementedError("annserve answers k nearest neighbours, not ranges")

    def get_results(self):
        return self.res

    def get_additional(self):
        if self._stats is None:
            return {}
        return {
            "mean_ssd_ios": float(self._stats.reads.mean()),
            "mean_latency": self._seconds / max(1, len(self.res)) * 1e6,
            "dist_comps": int(self._stats.rows_scored.sum()),
        }

    def done(self):
        if self._index is not None:
            self._index.close()

    def __str__(self):
        return f"annserve(recall_target={self._recall_target})"

    def _place(self, dataset):
        return self._folder / dataset
