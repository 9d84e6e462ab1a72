"""How much of the rows a build works on at a time, so that it stays within its RAM; and the disk of its own files.

A build holds arrays that grow with the rows, and blocks of rows that don't: threads and partitions are cut to what is
left for these. What the arrays take is stated here once, for the refusal before the work and for ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annserve.clusters.partitions import PARTITION_ROWS
from annserve.clusters.refinement import REGION_PAGES
from annserve.codes.train import training_rows
from annserve.design.budget import TierPlan
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.raw.layout import RawLayout
from annserve.sizes import bytes_of, bytes_text
from annserve.spec import IndexSpec

#: Interpreter, libraries and compiled kernels.
_BASE_BYTES = 260 << 20
#: What the steps that hold most of them note of a row (with replicas), of a page and of a head, beside vectors.
_VERIFY_BYTES, _OFFER_BYTES, _RANKS_BYTES = 13, 48, 200
_PAGE_BYTES, _HEAD_BYTES = 120, 700
#: float32 copies of a head's centroid while pages are grouped, and of a row that codebooks are trained on.
_CENTROIDS_OF_HEAD, _TRAINING_COPIES = 2, 6
#: Pages that calibration rates for each query that it works on, and what it notes of one; curves of all queries.
_RATED_PAGES, _RATED_BYTES, _RATED_QUERIES = 8_192, 64, 64
_CURVE_BYTES = 24_576
#: Neighbours and short centroid of a page in a region.
_REGION_PAGE_BYTES = 1_100
_CHUNK_BYTES = 8 << 20
_PARTITION_ROWS_MIN = 2_500
#: Smaller regions have too much border.
_REGION_PAGES_MIN = 512


@dataclass(frozen=True)
class Memory:
    """What a build works on at a time.

    Attributes
    ----------
    cap_bytes : int
        What it was told to stay within.
    threads : int
    partition_rows, region_pages : int
        Rows of a partition, and pages of a region, that a thread works on.
    partition_pages, region_postings : int
        The same where postings are made of pages.
    chunk_rows : int
        Rows that are carried from one file to the next at a time.
    """

    cap_bytes: int
    threads: int
    partition_rows: int
    region_pages: int
    partition_pages: int
    region_postings: int
    chunk_rows: int


def plan_memory(spec: IndexSpec, n_rows: int, tiers: TierPlan, ram_build: str | None, threads: int) -> Memory:
    """Share out the RAM of a build.

    Parameters
    ----------
    spec : IndexSpec
    n_rows : int
    tiers : TierPlan
    ram_build : str, optional
        What it must stay within; half of what is free by default.
    threads : int
        At most.

    Raises
    ------
    InputError
        If even one thread takes more; the message says how much that is.
    """
    cap_bytes = free_memory() // 2 if ram_build is None else bytes_of(ram_build, "ram_build")
    least = least_bytes(spec, n_rows, tiers)
    if least > cap_bytes:
        raise InputError(
            f"ram_build is {bytes_text(cap_bytes)}, but {n_rows:,} such rows take at least {bytes_text(least)}; "
            "give it that much, or build fewer rows",
            field="ram_build",
        )
    left = cap_bytes - _BASE_BYTES - held_bytes(spec, n_rows, tiers)[0]
    n_threads = max(1, min(threads, int(left // _least_at_work(spec, n_rows))))
    of_thread = left / n_threads
    rows, pages = int(of_thread / _bytes_at_work(spec)), int(of_thread / (3 * 4 * spec.space_dim))
    return Memory(
        cap_bytes,
        n_threads,
        # Partitions come out up to twice as large as they should.
        min(PARTITION_ROWS, max(_PARTITION_ROWS_MIN, rows // 2)),
        min(REGION_PAGES, max(_REGION_PAGES_MIN, rows // spec.page_capacity)),
        min(PARTITION_ROWS, max(_PARTITION_ROWS_MIN, pages // 2)),
        min(REGION_PAGES, max(_REGION_PAGES_MIN, pages // tiers.pages_per_posting)),
        max(1, _CHUNK_BYTES // _row_bytes(spec)),
    )


def least_bytes(spec: IndexSpec, n_rows: int, tiers: TierPlan) -> int:
    """Give what a build takes with one thread, which is the least."""
    packing, later = held_bytes(spec, n_rows, tiers)
    return int(_BASE_BYTES + max(packing + _least_at_work(spec, n_rows), later))


def held_bytes(spec: IndexSpec, n_rows: int, tiers: TierPlan) -> tuple[float, float]:
    """Give what is held while rows are cut, refined and grouped, and in the steps after that, at most."""
    vector_bytes = 4 * spec.space_dim
    pages = n_rows / spec.page_capacity
    heads = pages / tiers.pages_per_posting
    packing = pages * _PAGE_BYTES + heads * _CENTROIDS_OF_HEAD * vector_bytes
    served = heads * (spec.space_dim + _HEAD_BYTES) + pages * _PAGE_BYTES
    codes = 1.05 * n_rows * (tiers.code_bytes + 2) if tiers.code_bytes else 0.0
    later = [served + heads * 2 * vector_bytes, served + codes + n_rows * _VERIFY_BYTES]
    if tiers.code_bytes:
        queries = BuildOptions.calibration_queries
        rated = min(pages, _RATED_PAGES) * _RATED_BYTES * _RATED_QUERIES * 2
        later.append(served + codes + rated + queries * (_CURVE_BYTES + 4 * vector_bytes))
        training = min(n_rows, training_rows(spec.space_dim)) * _TRAINING_COPIES * vector_bytes
        later.append(served + codes + training)
    if tiers.codes_on_ssd:
        later.append(served + n_rows * (_RANKS_BYTES + tiers.code_bytes + 2) + pages * 2 * vector_bytes)
    later.append(served + n_rows * _OFFER_BYTES * (tiers.replicas - 1))
    return packing, max(later)


def scratch_bytes(count: int, spec: IndexSpec, raw: RawLayout | None) -> int:
    """Give what the files of a build itself take at a time: rows in two orders, their numbers, pages in two notes."""
    rows = 2 * count * spec.dim * np.dtype(spec.row_type).itemsize
    numbers = count * (4 * 8 + 2 * 4 * spec.space_dim // spec.page_capacity)
    return rows + numbers + (2 * count * raw.row_bytes if raw is not None and not raw.own else 0)


def _row_bytes(spec: IndexSpec) -> int:
    return spec.dim * np.dtype(spec.row_type).itemsize


def _bytes_at_work(spec: IndexSpec) -> float:
    """Give the bytes of a row at work: as read and sorted, or as read and as float32; and its share of a page."""
    rows = max(2 * _row_bytes(spec), _row_bytes(spec) + 4 * spec.space_dim)
    return rows + 40 + (_REGION_PAGE_BYTES + 2 * 4 * spec.space_dim) / spec.page_capacity


def _least_at_work(spec: IndexSpec, n_rows: int) -> float:
    """Give what a thread needs for the smallest region and the smallest partition, at twice its aim."""
    rows = max(_REGION_PAGES_MIN * spec.page_capacity, 2 * _PARTITION_ROWS_MIN)
    return min(rows, n_rows) * _bytes_at_work(spec)


def free_memory() -> int:
    """Give the bytes of RAM that could be taken without others being pushed out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells MemAvailable")
