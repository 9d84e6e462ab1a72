"""Rows → pages → postings, in the index space where every metric is squared L2.

Four steps: split the rows into partitions (`label_rows`), cut each into pages (`cut_partition`), let neighbouring
pages trade rows (``refinement.refine``), and give pages postings (`group_pages`), which are pages of pages: the
same steps with page centroids for rows. `pack_rows` takes them in RAM; ``build.packing`` with files between them.

Invariants: the order is a permutation of the rows (no row is lost, none comes twice); every page has 1 …
capacity rows, every posting 1 … pages_per_posting pages; the result depends on rows and seed, never on the
number of threads. Rows alike beyond a page's capacity fill several pages.

Peak RAM of `pack_rows` beside the rows: 24 bytes a row and two float32 centroids per page; and per thread about twice
a region of 4,096 pages as float32 (64 MiB each at pages of 4 KB) or one partition of some 100,000 rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve import events
from annserve.clusters.bisection import bisect_rows
from annserve.clusters.partitions import PARTITION_ROWS, assign_partitions, draw_sample, train_partitions
from annserve.clusters.refinement import REFINE_ROUNDS, REGION_PAGES, Pages, Progress, refine
from annserve.errors import InputError
from annserve.vectors.source import Rows

#: Of rows as float32 that are assigned at once.
_CHUNK_BYTES = 32 << 20
#: A partition over this many times its aim is cut by row number: its rows can't be told apart.
_OVERFULL = 2


class Consecutive:
    """The numbers 0 … n−1, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, some: slice) -> npt.NDArray[np.int64]:
        """Give those of a range without a step."""
        return np.arange(*some.indices(self._count), dtype=np.int64)


@dataclass(frozen=True)
class Packing:
    """Where every row goes.

    Attributes
    ----------
    order : (m,) int64, or Consecutive
        Row numbers, page by page, posting by posting; neighbours in space are near each other. Each row once, at its
        home; and again wherever it has a replica.
    page_offsets : (p+1,) int64
        Into `order`; every page has 1 … capacity rows.
    posting_offsets : (h+1,) int64
        Into pages; every posting has 1 … pages_per_posting pages.
    replicas : (p,) int64
        How many rows of each page, the last ones, are at home on another.
    """

    order: npt.NDArray[np.int64] | Consecutive
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
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "order": self.order[:]}


def pack_rows(
    rows: npt.NDArray[Any],
    page_capacity: int,
    pages_per_posting: int = 1,
    *,
    refine_rounds: int = REFINE_ROUNDS,
    partition_rows: int = PARTITION_ROWS,
    region_pages: int = REGION_PAGES,
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
    partition_rows, region_pages : int
        What a thread works on at a time; of pages and postings too, where these are made of them.
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
        ("partition_rows", partition_rows, 1),
        ("region_pages", region_pages, 1),
        ("threads", threads, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}", field=name)
    pages = _pack(
        rows,
        page_capacity,
        refine_rounds,
        partition_rows=partition_rows,
        region_pages=region_pages,
        seed=seed,
        threads=threads,
        listener=listener,
    )
    page_order, posting_offsets = group_pages(
        pages.centroids,
        pages_per_posting,
        partition_pages=partition_rows,
        region_postings=region_pages,
        refine_rounds=refine_rounds,
        seed=seed,
        threads=threads,
        listener=listener,
    )
    order, counts = pages.order(page_order)
    return Packing(order, offsets_of(counts), posting_offsets, np.zeros(len(counts), np.int64))


def label_rows(
    rows: Rows,
    partition_rows: int,
    *,
    seed: int = 0,
    threads: int = 1,
    listener: events.Listener = events.ignore,
) -> Iterator[tuple[int, npt.NDArray[np.int32]]]:
    """Give every row the number of its coarse partition; near partitions have near numbers.

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

    Yields
    ------
    first, labels : int, (m,) int32
        Of rows ``first … first + m − 1``, chunk by chunk in order.
    """
    n = len(rows)
    started = time.perf_counter()
    listener(events.StageStarted("partition", n))
    n_partitions = -(-n // partition_rows)
    chunk_rows = max(1, _CHUNK_BYTES // (4 * rows.shape[1]))
    if n_partitions == 1:
        for first in range(0, n, chunk_rows):
            yield first, np.zeros(min(chunk_rows, n - first), np.int32)
            listener(events.StageProgressed("partition", min(first + chunk_rows, n)))
    else:
        partitions = train_partitions(draw_sample(rows, n_partitions, seed), n_partitions, seed=seed)
        reading = Lock()

        def assign(first: int) -> npt.NDArray[np.int32]:
            # Sources of rows serve one thread at a time.
            with reading:
                taken = rows[first : min(n, first + chunk_rows)]
            return assign_partitions(taken, partitions)

        with ThreadPoolExecutor(threads) as pool:
            for first, labels in zip(range(0, n, chunk_rows), pool.map(assign, range(0, n, chunk_rows))):
                yield first, labels
                listener(events.StageProgressed("partition", first + len(labels)))
    listener(events.StageFinished("partition", time.perf_counter() - started, f"{n_partitions} partitions"))


def cut_overfull(counts: npt.NDArray[np.int64], partition_rows: int) -> npt.NDArray[np.int64]:
    """Cut partitions that are far over their aim by row number: their rows can't be told apart.

    Parameters
    ----------
    counts : (labels,) int64
        Rows of each partition.
    partition_rows : int
        What they aim at.

    Returns
    -------
    (partitions + 1,) int64
        Where each begins if rows stand by label and then by number; none is empty or larger than twice its aim.
    """
    sizes = []
    for count in counts[counts > 0].tolist():
        pieces = -(-count // (_OVERFULL * partition_rows))
        least, larger = divmod(count, pieces)
        sizes += [least + 1] * larger + [least] * (pieces - larger)
    return offsets_of(np.array(sizes, np.int64))


def offsets_of(counts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Give where each part begins, and the last one ends: (n + 1,) int64."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def cut_partition(rows: Rows, part: npt.NDArray[np.int64], capacity: int, seed: int) -> Pages:
    """Cut one partition into pages that hold numbers of all rows."""
    local = np.ascontiguousarray(rows[part], dtype=np.float32)
    order, page_offsets = bisect_rows(local, capacity, seed=seed)
    pages = Pages.from_order(local, order, page_offsets, capacity)
    members = pages.members[:]
    return Pages(np.where(members >= 0, part[members], -1), pages.centroids)


def group_pages(
    centroids: Rows,
    pages_per_posting: int,
    *,
    partition_pages: int = PARTITION_ROWS,
    region_postings: int = REGION_PAGES,
    refine_rounds: int = REFINE_ROUNDS,
    seed: int = 0,
    threads: int = 1,
    listener: events.Listener = events.ignore,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give every page a posting, so that near pages share one.

    Parameters
    ----------
    centroids : (p, d) rows of float32
        Of the pages.
    pages_per_posting : int
        Most pages of a posting; 1 makes each page a posting.
    partition_pages, region_postings : int
        What is worked on at a time, by each thread.

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
    postings = _pack(
        centroids,
        pages_per_posting,
        refine_rounds,
        partition_rows=partition_pages,
        region_pages=region_postings,
        seed=seed,
        threads=threads,
        listener=events.ignore,
    )
    note = f"{len(postings):,} postings"
    listener(events.StageFinished("group", time.perf_counter() - started, note))
    page_order, counts = postings.order()
    return page_order, offsets_of(counts)


def _pack(
    rows: Rows,
    capacity: int,
    refine_rounds: int,
    *,
    partition_rows: int,
    region_pages: int,
    seed: int,
    threads: int,
    listener: events.Listener,
) -> Pages:
    """Give pages of rows packed to `capacity`."""
    n = len(rows)
    labelled = label_rows(rows, partition_rows, seed=seed, threads=threads, listener=listener)
    labels = np.concatenate([labels for _, labels in labelled])
    by_label, ends = np.argsort(labels, kind="stable"), cut_overfull(np.bincount(labels), partition_rows)
    started = time.perf_counter()
    listener(events.StageStarted("bisect", n))
    parts = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(lambda part: cut_partition(rows, part, capacity, seed), np.split(by_label, ends[1:-1])):
            parts.append(part)
            listener(events.StageProgressed("bisect", int(ends[len(parts)])))
    pages = Pages(
        np.concatenate([part.members[:] for part in parts]), np.concatenate([part.centroids[:] for part in parts])
    )
    listener(events.StageFinished("bisect", time.perf_counter() - started, f"{len(pages):,} pages"))
    del parts

    started = time.perf_counter()
    listener(events.StageStarted("refine", n * refine_rounds))
    progress = Progress(ended=refine_rounds == 0)
    generations = pages, Pages.empty(len(pages), capacity, rows.shape[1])
    for progress in refine(  # noqa: B020 - goes on from where it was
        rows,
        generations,
        seed=seed,
        rounds=refine_rounds,
        region_pages=region_pages,
        threads=threads,
        begun=progress,
    ):
        listener(events.StageProgressed("refine", n * progress.rounds + progress.rows))
    listener(events.StageFinished("refine", time.perf_counter() - started, f"{progress.trades:,} trades"))
    return generations[progress.rounds % 2]
