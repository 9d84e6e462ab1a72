"""usearch, viewed in place: the file is mapped, and pages come as the graph is walked."""

from __future__ import annotations

import numpy as np
from usearch.index import Index

from annserve.compare.peer import Peer, answer, as_float_rows

_METRICS = {"l2": "l2sq", "ip": "ip", "cosine": "cos"}


class Adapter(Peer):
    """Parameters connectivity and expansion_add; setting expansion."""

    def build(self, base, base_path):
        index = Index(
            ndim=base.shape[1],
            metric=_METRICS[self.metric],
            dtype="f16",  # holds every uint8 exactly
            connectivity=self.parameters["connectivity"],
            expansion_add=self.parameters["expansion_add"],
        )
        for start in range(0, len(base), 100_000):
            rows = as_float_rows(base[start : start + 100_000], "l2")
            index.add(np.arange(start, start + len(rows)), rows, threads=self.threads)
        index.save(str(self.folder / "index.usearch"))

    def open(self):
        self._index = Index.restore(str(self.folder / "index.usearch"), view=True)

    def configure(self, point):
        self._index.expansion_search = point["expansion"]

    def search(self, queries, k=10, *, recall_target=0.95):
        found = self._index.search(as_float_rows(queries, "l2"), k, threads=1)
        return answer(found.keys, found.distances)

    def close(self):
        self._index.reset()
