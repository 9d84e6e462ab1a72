"""faiss IndexIVFScalarQuantizer over OnDiskInvertedLists.

faiss maps its lists and counts no reads. A query reads each of its lists once, as one run of bytes, so pages are
counted from where the lists lie; the kernel's count on an empty page cache (load ``cold``) is the witness.
"""

from __future__ import annotations

import faiss
import numpy as np

from annserve.compare.peer import Peer, answer, as_float_rows

_PAGE_BYTES = 4_096
_ID_BYTES = 8


class Adapter(Peer):
    """Parameter lists_per_root: lists per square root of the number of rows; setting nprobe."""

    def build(self, base, base_path):
        faiss.omp_set_num_threads(self.threads)
        count, dim = base.shape
        # faiss wants 39 rows to train a centroid on.
        n_lists = max(1, min(int(self.parameters["lists_per_root"] * count**0.5), count // 39))
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        flat = faiss.IndexFlat(dim, metric)
        direct = base.dtype == np.uint8 and self.metric == "l2"
        kind = faiss.ScalarQuantizer.QT_8bit_direct if direct else faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(flat, dim, n_lists, kind, metric, not direct)
        sample = np.sort(np.random.default_rng(1).choice(count, min(count, 100 * n_lists), replace=False))
        index.train(as_float_rows(base[sample], self.metric))
        for start in range(0, count, 100_000):
            index.add(as_float_rows(base[start : start + 100_000], self.metric))
        lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(self.folder / "lists.ivfdata"))
        sources = faiss.InvertedListsPtrVector()
        sources.push_back(index.invlists)
        lists.merge_from_multiple(sources.data(), sources.size())
        index.replace_invlists(lists)
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def open(self):
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(str(self.folder / "index.faiss"), faiss.IO_FLAG_ONDISK_SAME_DIR)
        lists = faiss.downcast_InvertedLists(self._index.invlists)
        places = [lists.lists.at(number) for number in range(self._index.nlist)]
        starts = np.array([place.offset for place in places], np.int64)
        sizes = np.array([place.size for place in places], np.int64)
        capacities = np.array([place.capacity for place in places], np.int64)
        code_bytes = capacities * self._index.code_size
        ends = np.where(sizes > 0, starts + code_bytes + sizes * _ID_BYTES, starts)
        self._sizes = sizes
        self._list_pages = np.where(sizes > 0, -(-ends // _PAGE_BYTES) - starts // _PAGE_BYTES, 0)

    def configure(self, point):
        self._nprobe = min(point["nprobe"], self._index.nlist)
        self._index.nprobe = self._nprobe

    def search(self, queries, k=10, *, recall_target=0.95):
        rows = as_float_rows(queries, self.metric)
        near, found = self._index.quantizer.search(rows, self._nprobe)
        values, ids = self._index.search_preassigned(rows, k, found, near)
        pages = self._list_pages[found].sum(axis=1)
        return answer(
            ids,
            values if self.metric == "l2" else -values,
            pages_read=pages,
            reads=(self._list_pages[found] > 0).sum(axis=1),
            bytes_read=pages * _PAGE_BYTES,
            rows_scored=self._sizes[found].sum(axis=1),
            heads_visited=np.full(len(ids), self._index.nlist),
        )

    def info(self):
        return {"lists": self._index.nlist, "pages": "counted from the lists' places"}
