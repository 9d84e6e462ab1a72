"""A target that answers exactly from RAM, and ways to break it that a benchmark must show."""

from __future__ import annotations

import threading

import numpy as np

from annserve.measure.target import NO_ID
from annserve.results import SearchResult, SearchStats

PAGE_BYTES = 4_096


class ExactTarget:
    """Brute force over integer rows under L2; claims three pages, two reads a query."""

    def __init__(self, base):
        self.base = base.astype(np.int64)
        self.threads_seen = set()
        self.n_calls = 0

    def search(self, queries, k=10, *, recall_target=0.95):
        self.threads_seen.add(threading.get_ident())
        self.n_calls += 1
        distances = ((queries[:, None].astype(np.int64) - self.base) ** 2).sum(axis=2)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        nearest = np.take_along_axis(distances, order, axis=1).astype(np.float32)
        return SearchResult(*self.spoil(order.astype(np.uint64), nearest), self.stats(len(queries)))

    def spoil(self, ids, distances):
        return ids, distances

    def stats(self, nq):
        def each(value):
            return np.full(nq, value, np.int64)

        return SearchStats(each(3), each(2), each(3 * PAGE_BYTES), each(40), each(90))

    def info(self):
        count, dim = self.base.shape
        return {"count": count, "dim": dim, "ram_bytes": 8 * count, "ram_bytes_per_vector": 8.0}


class ShuffledRanks(ExactTarget):
    """The right rows with the right distances, in any order."""

    def spoil(self, ids, distances):
        order = np.random.default_rng(int(ids.sum())).permutation(ids.shape[1])
        return ids[:, order], distances[:, order]


class ShuffledIds(ExactTarget):
    """The right rows, but ids stand beside other rows' distances."""

    def spoil(self, ids, distances):
        return np.random.default_rng(int(ids.sum())).permutation(ids, axis=1), distances


class ShuffledQueries(ExactTarget):
    """Every query gets the answer of another one."""

    def search(self, queries, k=10, *, recall_target=0.95):
        return super().search(255 - queries, k, recall_target=recall_target)


class OnePercentWrong(ExactTarget):
    """Every tenth answer has one wrong id of ten."""

    def spoil(self, ids, distances):
        if self.n_calls % 10 == 0:
            ids[0, -1] = len(self.base) + 7
        return ids, distances


class Padded(ExactTarget):
    """The last two results are missing."""

    def spoil(self, ids, distances):
        ids[:, -2:], distances[:, -2:] = NO_ID, np.inf
        return ids, distances


class Narrow(ExactTarget):
    """The last two columns are missing altogether."""

    def spoil(self, ids, distances):
        return ids[:, :-2], distances[:, :-2]


class Repeating(ExactTarget):
    """The nearest row stands twice, the last one is pushed out."""

    def spoil(self, ids, distances):
        return np.insert(ids[:, :-1], 0, ids[:, 0], axis=1), np.insert(distances[:, :-1], 0, distances[:, 0], axis=1)


class Inconstant(ExactTarget):
    """A call in three finds the last neighbour only sometimes: what a race between threads looks like."""

    def spoil(self, ids, distances):
        if self.n_calls % 3 == 0:
            ids[0, -1] = len(self.base) + self.n_calls
        return ids, distances


class DoubledReads(ExactTarget):
    """Reads every page twice, and says so."""

    def stats(self, nq):
        return SearchStats(*(2 * getattr(super(DoubledReads, self).stats(nq), name) for name in SearchStats.COUNTS))


class Uncounted(ExactTarget):
    """Keeps no counts, as a peer may."""

    def stats(self, nq):
        return SearchStats()
