"""annserve, measured by the same lines as its peers."""

from __future__ import annotations

import shutil

import annserve.collection
from annserve.build.pipeline import build
from annserve.compare.peer import Peer
from annserve.design.options import BuildOptions
from annserve.index.snapshot import open_snapshot
from annserve.spec import RECALL_TARGETS


class Adapter(Peer):
    """An index of its own, opened in this process; build parameters are those of ``annserve build``."""

    def build(self, base, base_path):
        options = BuildOptions(metric=self.metric, threads=self.threads, **self.parameters)
        build(base_path, self.folder / "index", options)
        # It counts by step, and so begins the kernel's count anew.
        self.build_peak_rss_bytes = open_snapshot(self.folder / "index").segments[0].report["peak_rss_bytes"]
        # What an unfinished build would need is no part of the index.
        shutil.rmtree(self.folder / "index" / ".build", ignore_errors=True)

    def open(self):
        self._index = annserve.collection.open(self.folder / "index", threads=1)

    def configure(self, point):
        self._recall_target = point["recall_target"]

    def search(self, queries, k=10, *, recall_target=0.95):
        return self._index.search(queries, k, recall_target=self._recall_target)

    def info(self):
        facts = self._index.info()
        if facts["count"] < 10:
            return facts
        predicted = {f"{target:g}": self._index.pages_predicted(10, target) for target in RECALL_TARGETS}
        return facts | {"pages_predicted_k10": predicted}

    def close(self):
        self._index.close()
