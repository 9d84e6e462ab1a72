"""faiss IndexHNSWSQ: the graph of hnswlib over rows of one byte a dimension."""

from __future__ import annotations

import faiss
import numpy as np

from annserve.compare.peer import Peer, answer, as_float_rows


class Adapter(Peer):
    """Parameters M and ef_construction; setting ef."""

    def build(self, base, base_path):
        faiss.omp_set_num_threads(self.threads)
        direct = base.dtype == np.uint8 and self.metric == "l2"
        kind = faiss.ScalarQuantizer.QT_8bit_direct if direct else faiss.ScalarQuantizer.QT_8bit
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(base.shape[1], kind, self.parameters["M"], metric)
        index.hnsw.efConstruction = self.parameters["ef_construction"]
        sample = np.sort(np.random.default_rng(1).choice(len(base), min(len(base), 100_000), replace=False))
        index.train(as_float_rows(base[sample], self.metric))
        for start in range(0, len(base), 100_000):
            index.add(as_float_rows(base[start : start + 100_000], self.metric))
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def open(self):
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self.folder / "index.faiss"))

    def configure(self, point):
        self._index.hnsw.efSearch = point["ef"]

    def search(self, queries, k=10, *, recall_target=0.95):
        values, ids = self._index.search(as_float_rows(queries, self.metric), k)
        return answer(ids, values if self.metric == "l2" else -values)
