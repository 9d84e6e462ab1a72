"""Milvus Lite: Milvus as a library, one file, asked through its own client."""

from __future__ import annotations

import numpy as np
from pymilvus import DataType, MilvusClient

from annserve.compare.peer import Peer, answer, as_float_rows

_METRICS = {"l2": "L2", "ip": "IP", "cosine": "COSINE"}


class Adapter(Peer):
    """Parameter nlist; setting nprobe."""

    def build(self, base, base_path):
        client = MilvusClient(str(self.folder / "milvus.db"))
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=base.shape[1])
        client.create_collection("rows", schema=schema)
        for start in range(0, len(base), 5_000):
            rows = as_float_rows(base[start : start + 5_000], "l2")
            client.insert("rows", [{"id": start + place, "vector": row} for place, row in enumerate(rows)])
        client.flush("rows")
        settings = client.prepare_index_params()
        settings.add_index(
            "vector", index_type="IVF_FLAT", metric_type=_METRICS[self.metric], params=dict(self.parameters)
        )
        client.create_index("rows", settings)
        client.close()

    def open(self):
        self._client = MilvusClient(str(self.folder / "milvus.db"))
        self._client.load_collection("rows")

    def configure(self, point):
        self._settings = {"metric_type": _METRICS[self.metric], "params": dict(point)}

    def search(self, queries, k=10, *, recall_target=0.95):
        rows = as_float_rows(queries, "l2").tolist()
        (hits,) = self._client.search("rows", rows, limit=k, search_params=self._settings)
        ids = np.full(k, -1, np.int64)
        distances = np.full(k, np.inf, np.float32)
        ids[: len(hits)] = [hit["id"] for hit in hits]
        distances[: len(hits)] = [hit["distance"] for hit in hits]
        # Milvus gives similarities under ip and cosine.
        return answer(ids, distances if self.metric == "l2" else np.where(ids < 0, np.inf, -distances))

    def close(self):
        self._client.close()
