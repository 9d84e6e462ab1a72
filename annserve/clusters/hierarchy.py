"""Rows → pages → postings, in the index space where every metric is squared L2.

Four steps, each of which a build out of core can call by itself: train partitions on a sample
(``partitions.train_partitions``), stream rows to them (``assign_partitions``), cut each partition into pages
(``bisection.bisect_rows``), and let neighbouring pages trade rows (``refinement.refine_round``). Postings are
pages of pages: the same steps with page centroids for rows.

Invariants: the order is a permutation of the rows (no row is lost, none comes twice); every page has 1 …
capacity rows, every posting 1 … pages_per_posting pages; the result depends on rows and seed, never on the
number of threads. Rows alike beyond a page's capacity fill several pages.

Peak RAM beside the rows: 16 bytes a row and a float32 centroid per page; and per thread about twice a region
of 4,096 pages as float32 (64 MiB each at pages of 4 KB) or one partition of some 100,000 rows. Rows may be
memory-mapped: each is read once by the sample's pass, once by its partition and once a round.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve import events
from annserve.clusters.bisection import bisect_rows
from annserve.clusters.partitions import (
    PARTITION_ROWS,
    SAMPLE_PER_PARTITION,
    assign_partitions,
    train_partitions,
)
from annserve.clusters.refinement import Pages, refine_round
from annserve.errors import InputError

#: Rounds of trading; the last of 8 lowers the sum of squares by some 0.1 %.
REFINE_ROUNDS = 8
#: Refinement ends when a round trades fewer rows than this share of all.
_TRADES_WORTH = 0.005
_CHUNK_ROWS = 65_536
#: A partition over this many times its aim is cut by row number: its rows can't be told apart.
_OVERFULL = 2


@dataclass(frozen=True)
class Packing:
    """Where every row goes.

    Attributes
    ----------
    order : (m,) int64
        Row numbers, page by page, posting by posting; neighbours in space are near each other. Each row once, at its
        home; and again wherever it has a replica.
    page_offsets : (p+1,) int64
        Into `order`; every page has 1 … capacity rows.
    posting_offsets : (h+1,) int64
        Into pages; every posting has 1 … pages_per_posting pages.
    replicas : (p,) int64
        How many rows of each page, the last ones, are at home on another.
    """

    order: npt.NDArray[np.int64]
    page_offsets: npt.NDArray[np.int64]
    posting_offsets: npt.NDArray[np.int64]
    replicas: npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Rows, each counted once."""
        return len(self.order) - int(self.replicas.sum())


def pack_rows(
    rows: npt.NDArray[Any],
    page_capacity: int,
    pages_per_posting: int = 1,
    *,
    refine_rounds: int = REFINE_ROUNDS,
    seed: int = 0,
    threads: int = 2,
    listener: events.Listener = events.ignore,
) -> Packing:
    """Give every row a page and every page a posting, so that near rows share a page.

    Parameters
    ----------
    rows : (n, d) array of uint8, int8 or float32, C-contiguous, n >= 1
        In the index space; finite. Memory-mapped is fine.
    page_capacity : int
        Most rows of a page.
    pages_per_posting : int
        Most pages of a posting; 1 makes each page a posting.
    refine_rounds : int
        Most rounds of trading rows between pages; 0 leaves the bisection.
    seed : int
        Fixes every random choice.
    threads : int
        Partitions or regions worked on at a time.
    listener : Listener
        Told of the stages ``partition``, ``bisect``, ``refine`` and ``group``.

    Raises
    ------
    InputError
        If there are no rows, or an option is out of range.

    References
    ----------
    [1] Chen et al., "SPANN: Highly-efficient Billion-scale Approximate Nearest Neighbor Search", NeurIPS
        2021, section 3.2 (balanced postings).
    [2] Telgarsky, Vattani, "Hartigan's Method: k-means Clustering without Voronoi", AISTATS 2010 (the exact
        gain of moving one row).
    """
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
        raise InputError(f"rows have shape {rows.shape}; give a matrix of at least one row", field="rows")
    for name, value, least in (
        ("page_capacity", page_capacity, 1),
        ("pages_per_posting", pages_per_posting, 1),
        ("refine_rounds", refine_rounds, 0),
        ("threads", threads, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}", field=name)
    order, page_offsets, centroids = _pack(
        rows, page_capacity, refine_rounds, seed=seed, threads=threads, listener=listener
    )
    if pages_per_posting == 1:
        return Packing(order, page_offsets, np.arange(len(page_offsets), dtype=np.int64), _no_replicas(page_offsets))
    started = time.perf_counter()
    listener(events.StageStarted("group", len(centroids), "pages"))
    page_order, posting_offsets, _ = _pack(
        centroids, pages_per_posting, refine_rounds, seed=seed, threads=threads, listener=events.ignore
    )
    order, page_offsets = _reorder(order, page_offsets, page_order)
    postings = len(posting_offsets) - 1
    listener(events.StageFinished("group", time.perf_counter() - started, f"{postings:,} postings"))
    return Packing(order, page_offsets, posting_offsets, _no_replicas(page_offsets))


def split_rows(
    rows: npt.NDArray[Any], *, seed: int = 0, listener: events.Listener = events.ignore
) -> list[npt.NDArray[np.int64]]:
    """Split all rows into coarse partitions, neighbours near each other in the list.

    Returns
    -------
    list of int64 arrays
        Ascending row numbers of each partition, none empty, at most 2 · `PARTITION_ROWS` in each.
    """
    n = len(rows)
    n_partitions = -(-n // PARTITION_ROWS)
    if n_partitions == 1:
        return [np.arange(n, dtype=np.int64)]
    drawn = np.random.default_rng(seed).choice(n, min(n, SAMPLE_PER_PARTITION * n_partitions), replace=False)
    partitions = train_partitions(rows[np.sort(drawn)], n_partitions, seed=seed)
    nearest = np.empty(n, np.int32)
    for start in range(0, n, _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        nearest[chunk] = assign_partitions(rows[chunk], partitions)
        listener(events.StageProgressed("partition", min(n, start + _CHUNK_ROWS)))
    by_partition = np.argsort(nearest, kind="stable")
    parts = np.split(by_partition, np.cumsum(np.bincount(nearest, minlength=n_partitions))[:-1])
    return [
        piece
        for part in parts
        if len(part)
        for piece in np.array_split(part, -(-len(part) // (_OVERFULL * PARTITION_ROWS)))
    ]


def _pack(
    rows: npt.NDArray[Any],
    capacity: int,
    refine_rounds: int,
    *,
    seed: int,
    threads: int,
    listener: events.Listener,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Give order, page offsets and page centroids of rows packed to `capacity`."""
    n = len(rows)
    started = time.perf_counter()
    listener(events.StageStarted("partition", n))
    partitions = split_rows(rows, seed=seed, listener=listener)
    listener(events.StageFinished("partition", time.perf_counter() - started, f"{len(partitions)} partitions"))

    started = time.perf_counter()
    listener(events.StageStarted("bisect", n))
    parts = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(lambda part: _cut(rows, part, capacity, seed), partitions):
            parts.append(part)
            listener(events.StageProgressed("bisect", sum(int(done.counts.sum()) for done in parts)))
    pages = Pages(
        np.concatenate([part.members for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.centroids for part in parts]),
    )
    listener(events.StageFinished("bisect", time.perf_counter() - started, f"{len(pages.counts):,} pages"))

    started = time.perf_counter()
    listener(events.StageStarted("refine", n * refine_rounds))
    trades = 0
    for number in range(refine_rounds):
        done, traded = n * number, 0
        for seen, region_trades in refine_round(rows, pages, seed=seed + number + 1, threads=threads):
            done, traded = done + seen, traded + region_trades
            listener(events.StageProgressed("refine", done))
        trades += traded
        if traded < _TRADES_WORTH * n:
            break
    listener(events.StageFinished("refine", time.perf_counter() - started, f"{trades:,} trades"))
    order, page_offsets = pages.order()
    return order, page_offsets, pages.centroids


def _cut(rows: npt.NDArray[Any], part: npt.NDArray[np.int64], capacity: int, seed: int) -> Pages:
    """Cut one partition into pages that hold numbers of all rows."""
    local = np.ascontiguousarray(rows[part], dtype=np.float32)
    order, page_offsets = bisect_rows(local, capacity, seed=seed)
    pages = Pages.from_order(local, order, page_offsets, capacity)
    taken = pages.members >= 0
    pages.members[taken] = part[pages.members[taken]]
    return pages


def _no_replicas(page_offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.zeros(len(page_offsets) - 1, np.int64)


def _reorder(
    order: npt.NDArray[np.int64], page_offsets: npt.NDArray[np.int64], page_order: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Put the pages of an order into another order."""
    counts = np.diff(page_offsets)[page_order]
    offsets = np.zeros_like(page_offsets)
    np.cumsum(counts, out=offsets[1:])
    within = np.arange(len(order)) - np.repeat(offsets[:-1], counts)
    return order[np.repeat(page_offsets[:-1][page_order], counts) + within], offsets
