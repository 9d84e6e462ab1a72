"""LanceDB, embedded: one table, one vector index, its own defaults where nothing is said."""

from __future__ import annotations

import lancedb
import numpy as np
import pyarrow as pa

from annserve.compare.peer import Peer, answer, as_float_rows

_METRICS = {"l2": "l2", "ip": "dot", "cosine": "cosine"}


class Adapter(Peer):
    """Parameters index_type and code_bytes (of a row's product code, at most); settings nprobes and refine_factor."""

    def build(self, base, base_path):
        dim = base.shape[1]
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])

        def batches():
            for start in range(0, len(base), 50_000):
                rows = as_float_rows(base[start : start + 50_000], "l2")
                values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim)
                yield pa.RecordBatch.from_arrays([pa.array(np.arange(start, start + len(rows))), values], schema=schema)

        table = lancedb.connect(str(self.folder)).create_table("rows", batches(), schema=schema)
        # A byte for each part of a row, and all parts have the same number of dimensions.
        code_bytes = max(n for n in range(1, self.parameters["code_bytes"] + 1) if dim % n == 0)
        index_type = self.parameters["index_type"]
        table.create_index(metric=_METRICS[self.metric], index_type=index_type, num_sub_vectors=code_bytes)

    def open(self):
        self._table = lancedb.connect(str(self.folder)).open_table("rows")

    def configure(self, point):
        self._point = point

    def search(self, queries, k=10, *, recall_target=0.95):
        query = self._table.search(as_float_rows(queries, "l2")[0]).distance_type(_METRICS[self.metric]).limit(k)
        query = query.nprobes(self._point["nprobes"]).refine_factor(self._point["refine_factor"]).select(["id"])
        found = query.to_arrow()
        ids = np.full(k, -1, np.int64)
        distances = np.full(k, np.inf, np.float32)
        ids[: len(found)], distances[: len(found)] = found["id"].to_numpy(), found["_distance"].to_numpy()
        return answer(ids, distances)
