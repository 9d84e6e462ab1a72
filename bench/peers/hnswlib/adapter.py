"""hnswlib: the reference implementation of HNSW."""

from __future__ import annotations

import json

import hnswlib
import numpy as np

from annserve.compare.peer import Peer, answer

_SPACES = {"l2": "l2", "ip": "ip", "cosine": "cosine"}


class Adapter(Peer):
    """Parameters M and ef_construction; setting ef."""

    def build(self, base, base_path):
        count, dim = base.shape
        index = hnswlib.Index(_SPACES[self.metric], dim)
        index.init_index(
            count, M=self.parameters["M"], ef_construction=self.parameters["ef_construction"], random_seed=1
        )
        index.set_num_threads(self.threads)
        for start in range(0, count, 100_000):
            rows = np.asarray(base[start : start + 100_000], np.float32)
            index.add_items(rows, np.arange(start, start + len(rows)))
        index.save_index(str(self.folder / "index.bin"))
        (self.folder / "shape.json").write_text(json.dumps([count, dim]))

    def open(self):
        count, dim = json.loads((self.folder / "shape.json").read_text())
        self._index = hnswlib.Index(_SPACES[self.metric], dim)
        self._index.load_index(str(self.folder / "index.bin"), max_elements=count)
        self._index.set_num_threads(1)

    def configure(self, point):
        self._ef = point["ef"]
        self._index.set_ef(self._ef)

    def search(self, queries, k=10, *, recall_target=0.95):
        if self._ef < k:
            # It would raise; a beam that is narrower than the answer is no setting for this k.
            self._index.set_ef(k)
        ids, distances = self._index.knn_query(np.asarray(queries, np.float32), k, num_threads=1)
        return answer(ids, distances)
