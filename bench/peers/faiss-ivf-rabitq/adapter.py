"""faiss IndexIVFRaBitQ behind a random rotation, its candidates re-ranked on 8-bit rows."""

from __future__ import annotations

import faiss
import numpy as np

from annserve.compare.peer import Peer, answer, as_float_rows


class Adapter(Peer):
    """Parameter lists_per_root: lists per square root of the number of rows; settings nprobe and k_factor."""

    def build(self, base, base_path):
        faiss.omp_set_num_threads(self.threads)
        count, dim = base.shape
        n_lists = max(1, min(int(self.parameters["lists_per_root"] * count**0.5), count // 39))
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(dim, f"RR{dim},IVF{n_lists},RaBitQ,Refine(SQ8)", metric)
        sample = np.sort(np.random.default_rng(1).choice(count, min(count, 100 * n_lists), replace=False))
        index.train(as_float_rows(base[sample], self.metric))
        for start in range(0, count, 100_000):
            index.add(as_float_rows(base[start : start + 100_000], self.metric))
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def open(self):
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self.folder / "index.faiss"))

    def configure(self, point):
        inner = faiss.SearchParametersPreTransform(index_params=faiss.IVFRaBitQSearchParameters(nprobe=point["nprobe"]))
        self._settings = faiss.IndexRefineSearchParameters(k_factor=point["k_factor"], base_index_params=inner)

    def search(self, queries, k=10, *, recall_target=0.95):
        values, ids = self._index.search(as_float_rows(queries, self.metric), k, params=self._settings)
        return answer(ids, values if self.metric == "l2" else -values)
