"""DiskANN, by its own Python package.

It reads past the page cache and tells no counts, so the kernel's count of bytes is that of its pages.
"""

from __future__ import annotations

import json

import diskannpy
import numpy as np

from annserve.compare.peer import Peer, answer, as_float_rows

_GIB = 1 << 30


class Adapter(Peer):
    """Parameters graph_degree, complexity, code_bytes (RAM for each row); settings complexity, beam_width."""

    def build(self, base, base_path):
        diskannpy.build_disk_index(
            data=self._rows(base),
            distance_metric="mips" if self.metric == "ip" else "l2",
            index_directory=str(self.folder),
            complexity=self.parameters["complexity"],
            graph_degree=self.parameters["graph_degree"],
            # The package takes the size of a row's code from the memory that all of them may take, rounded down: half a
            # byte more, or rows get a byte less than they were promised.
            search_memory_maximum=(self.parameters["code_bytes"] + 0.5) * len(base) / _GIB,
            build_memory_maximum=8,
            num_threads=self.threads,
            pq_disk_bytes=0,
            index_prefix="ann",
        )
        (self.folder / "dtype.json").write_text(json.dumps(str(self._rows(base[:1]).dtype)))

    def open(self):
        self._dtype = json.loads((self.folder / "dtype.json").read_text())
        self._index = diskannpy.StaticDiskIndex(
            index_directory=str(self.folder),
            # With one thread it waits for itself.
            num_threads=max(2, self.threads),
            num_nodes_to_cache=0,
            # By default it asks a tenth of the rows to find which nodes to cache, though it is to cache none.
            cache_mechanism=0,
            index_prefix="ann",
        )

    def configure(self, point):
        self._point = point

    def search(self, queries, k=10, *, recall_target=0.95):
        found = self._index.search(
            self._rows(queries)[0], k, max(k, self._point["complexity"]), beam_width=self._point["beam_width"]
        )
        return answer(found.identifiers.astype(np.int64), found.distances)

    def close(self):
        del self._index

    def _rows(self, rows):
        """Bytes stay bytes under l2; under cosine, rows of unit length have the order of l2."""
        if self.metric == "l2" and rows.dtype in (np.uint8, np.int8):
            return np.ascontiguousarray(rows)
        return as_float_rows(rows, self.metric)
