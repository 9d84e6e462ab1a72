"""faiss IndexFlat: exact by definition, the check on everything else."""

from __future__ import annotations

import faiss
import numpy as np

from annserve.compare.peer import Peer, answer, as_float_rows


class Adapter(Peer):
    """Rows as float32; no parameters."""

    def build(self, base, base_path):
        inner = self.metric != "l2"
        index = faiss.IndexFlatIP(base.shape[1]) if inner else faiss.IndexFlatL2(base.shape[1])
        index.add(as_float_rows(base, self.metric))
        faiss.write_index(index, str(self.folder / "flat.faiss"))

    def open(self):
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self.folder / "flat.faiss"))

    def configure(self, point):
        pass

    def search(self, queries, k=10, *, recall_target=0.95):
        values, ids = self._index.search(as_float_rows(queries, self.metric), k)
        return answer(
            ids, values if self.metric == "l2" else -values, rows_scored=np.full(len(ids), self._index.ntotal)
        )
