"""Rows → pages → postings, in the index space where every metric is squared L2.

Four steps: split the rows into partitions (`split_rows`), cut each into pages (`cut_partition`), let neighbouring
pages trade rows (``refinement.refine_regions``), and give pages postings (`group_pages`), which are pages of pages: the
same steps with page centroids for rows. `pack_rows` takes them in RAM; ``build.packing`` with files between them.

Invariants: the order is a permutation of the rows (no row is lost, none comes twice); every page has 1 …
capacity rows, every posting 1 … pages_per_posting pages; the result depends on rows and seed, never on the
number of threads. Rows alike beyond a page's capacity fill several pages.

Peak RAM beside the rows: 16 bytes a row and a float32 centroid per page; and per thread about twice a region
of 4,096 pages as float32 (64 MiB each at pages of 4 KB) or one partition of some 100,000 rows.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from threading import Lock
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
from annserve.clusters.refinement import Pages, cut_regions, refine_regions
from annserve.errors import InputError
from annserve.vectors.source import Rows

#: Rounds of trading; the last of 8 lowers the sum of squares by some 0.1 %.
REFINE_ROUNDS = 8
#: Refinement ends when a round trades fewer rows than this share of all.
TRADES_WORTH = 0.005
#: Of rows as float32 that are assigned at once.
_CHUNK_BYTES = 32 << 20
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

    @property
    def n_pages(self) -> int:
        """Pages."""
        return len(self.page_offsets) - 1

    def as_arrays(self) -> dict[str, npt.NDArray[np.int64]]:
        """Give the arrays by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


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
    pages = _pack(rows, page_capacity, refine_rounds, seed=seed, threads=threads, listener=listener)
    order, page_offsets = pages.order()
    page_order, posting_offsets = group_pages(
        pages.centroids, pages_per_posting, refine_rounds=refine_rounds, seed=seed, threads=threads, listener=listener
    )
    order, page_offsets = reorder(order, page_offsets, page_order)
    return Packing(order, page_offsets, posting_offsets, np.zeros(len(page_offsets) - 1, np.int64))


def split_rows(
    rows: Rows,
    partition_rows: int,
    *,
    seed: int = 0,
    threads: int = 1,
    listener: events.Listener = events.ignore,
) -> list[npt.NDArray[np.int64]]:
    """Split all rows into coarse partitions, neighbours near each other in the list.

    Parameters
    ----------
    rows : (n, d) rows of uint8, int8 or float32
        In the index space; a sample is taken, then all are read once, in order.
    partition_rows : int
        Rows that a partition aims at.
    seed : int
    threads : int
        Chunks worked on at a time.
    listener : Listener
        Told of the stage ``partition``.

    Returns
    -------
    list of int64 arrays
        Ascending row numbers of each partition, none empty, at most 2 · `partition_rows` in each.
    """
    n = len(rows)
    started = time.perf_counter()
    listener(events.StageStarted("partition", n))
    n_partitions = -(-n // partition_rows)
    parts = [np.arange(n, dtype=np.int64)]
    if n_partitions > 1:
        drawn = np.random.default_rng(seed).choice(n, min(n, SAMPLE_PER_PARTITION * n_partitions), replace=False)
        partitions = train_partitions(rows[np.sort(drawn)], n_partitions, seed=seed)
        nearest = np.empty(n, np.int32)
        chunk_rows = max(1, _CHUNK_BYTES // (4 * rows.shape[1]))
        reading = Lock()

        def assign(start: int) -> int:
            chunk = slice(start, min(n, start + chunk_rows))
            # Sources of rows serve one thread at a time.
            with reading:
                taken = rows[chunk]
            nearest[chunk] = assign_partitions(taken, partitions)
            return chunk.stop

        with ThreadPoolExecutor(threads) as pool:
            for done in pool.map(assign, range(0, n, chunk_rows)):
                listener(events.StageProgressed("partition", done))
        by_partition = np.argsort(nearest, kind="stable")
        parts = np.split(by_partition, np.cumsum(np.bincount(nearest))[:-1])
    pieces = [
        piece
        for part in parts
        if len(part)
        for piece in np.array_split(part, -(-len(part) // (_OVERFULL * partition_rows)))
    ]
    listener(events.StageFinished("partition", time.perf_counter() - started, f"{len(pieces)} partitions"))
    return pieces


def cut_partition(rows: Rows, part: npt.NDArray[np.int64], capacity: int, seed: int) -> Pages:
    """Cut one partition into pages that hold numbers of all rows."""
    local = np.ascontiguousarray(rows[part], dtype=np.float32)
    order, page_offsets = bisect_rows(local, capacity, seed=seed)
    pages = Pages.from_order(local, order, page_offsets, capacity)
    taken = pages.members >= 0
    pages.members[taken] = part[pages.members[taken]]
    return pages


def group_pages(
    centroids: npt.NDArray[np.float32],
    pages_per_posting: int,
    *,
    refine_rounds: int = REFINE_ROUNDS,
    seed: int = 0,
    threads: int = 1,
    listener: events.Listener = events.ignore,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give every page a posting, so that near pages share one.

    Parameters
    ----------
    centroids : (p, d) float32
        Of the pages.
    pages_per_posting : int
        Most pages of a posting; 1 makes each page a posting.

    Returns
    -------
    page_order : (p,) int64
        Pages, posting by posting.
    posting_offsets : (h+1,) int64
        Into them.
    """
    if pages_per_posting == 1:
        return np.arange(len(centroids), dtype=np.int64), np.arange(len(centroids) + 1, dtype=np.int64)
    started = time.perf_counter()
    listener(events.StageStarted("group", len(centroids), "pages"))
    postings = _pack(centroids, pages_per_posting, refine_rounds, seed=seed, threads=threads, listener=events.ignore)
    note = f"{len(postings.counts):,} postings"
    listener(events.StageFinished("group", time.perf_counter() - started, note))
    return postings.order()


def reorder(
    order: npt.NDArray[np.int64], page_offsets: npt.NDArray[np.int64], page_order: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Put the pages of an order into another order."""
    counts = np.diff(page_offsets)[page_order]
    offsets = np.zeros_like(page_offsets)
    np.cumsum(counts, out=offsets[1:])
    within = np.arange(len(order)) - np.repeat(offsets[:-1], counts)
    return order[np.repeat(page_offsets[:-1][page_order], counts) + within], offsets


def _pack(
    rows: npt.NDArray[Any],
    capacity: int,
    refine_rounds: int,
    *,
    seed: int,
    threads: int,
    listener: events.Listener,
) -> Pages:
    """Give pages of rows packed to `capacity`."""
    n = len(rows)
    partitions = split_rows(rows, PARTITION_ROWS, seed=seed, threads=threads, listener=listener)
    started = time.perf_counter()
    listener(events.StageStarted("bisect", n))
    parts = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(lambda part: cut_partition(rows, part, capacity, seed), partitions):
            parts.append(part)
            listener(events.StageProgressed("bisect", sum(int(done.counts.sum()) for done in parts)))
    pages = Pages.joined(parts)
    listener(events.StageFinished("bisect", time.perf_counter() - started, f"{len(pages.counts):,} pages"))

    started = time.perf_counter()
    listener(events.StageStarted("refine", n * refine_rounds))
    trades = 0
    for number in range(refine_rounds):
        done, traded = n * number, 0
        regions = cut_regions(pages, seed=seed + number + 1)
        for seen, region_trades in refine_regions(rows, pages, regions, threads=threads):
            done, traded = done + seen, traded + region_trades
            listener(events.StageProgressed("refine", done))
        trades += traded
        if traded < TRADES_WORTH * n:
            break
    listener(events.StageFinished("refine", time.perf_counter() - started, f"{trades:,} trades"))
    return pages
