"""Chroma, embedded and persistent, asked through its own client."""

from __future__ import annotations

import chromadb
import numpy as np
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings

from annserve.compare.peer import Peer, answer, as_float_rows

_SPACES = {"l2": "l2", "ip": "ip", "cosine": "cosine"}


class Adapter(Peer):
    """Parameters max_neighbors and ef_construction; setting ef_search."""

    def build(self, base, base_path):
        graph = {"space": _SPACES[self.metric], **self.parameters}
        client = self._client_of_folder()
        rows_of = client.create_collection("rows", configuration={"hnsw": graph}, embedding_function=None)
        step = min(5_000, client.get_max_batch_size())
        for start in range(0, len(base), step):
            rows = as_float_rows(base[start : start + step], "l2")
            rows_of.add([str(start + place) for place in range(len(rows))], embeddings=rows)

    def open(self):
        self._client = self._client_of_folder()
        self._rows = self._client.get_collection("rows", embedding_function=None)

    def configure(self, point):
        # A loaded graph keeps the setting that it was loaded with: change it, then load anew.
        self._rows.modify(configuration={"hnsw": dict(point)})
        self.close()
        self.open()

    def search(self, queries, k=10, *, recall_target=0.95):
        found = self._rows.query(query_embeddings=as_float_rows(queries, "l2"), n_results=k, include=["distances"])
        ids = np.full(k, -1, np.int64)
        distances = np.full(k, np.inf, np.float32)
        named = found["ids"][0]
        ids[: len(named)], distances[: len(named)] = [int(one) for one in named], found["distances"][0]
        return answer(ids, distances)

    def close(self):
        del self._rows, self._client
        SharedSystemClient.clear_system_cache()

    def _client_of_folder(self):
        return chromadb.PersistentClient(str(self.folder), Settings(anonymized_telemetry=False))
