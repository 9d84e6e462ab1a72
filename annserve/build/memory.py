"""How much of the rows a build works on at a time, so that it stays within its RAM; and the disk of its own files.

A build holds arrays that grow with the rows, and blocks of rows that don't: threads and partitions are cut to what is
left for these. What the arrays take is stated here once, for the refusal before the work and for ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annserve.build.budget import TierPlan
from annserve.build.options import BuildOptions
from annserve.clusters.partitions import PARTITION_ROWS
from annserve.clusters.refinement import REGION_PAGES
from annserve.errors import InputError
from annserve.raw.layout import RawLayout
from annserve.sizes import bytes_of, bytes_text
from annserve.spec import IndexSpec

#: Interpreter, libraries and compiled kernels.
_BASE_BYTES = 360 << 20
#: Numbers and places of rows in the steps that hold most of them; 10 million rows took 160 each to verify.
_REFINE_BYTES, _ORDER_BYTES, _ENCODE_BYTES, _VERIFY_BYTES = 28, 50, 40, 130
#: Pages that calibration rates for each of its queries, at most, and what it notes of one.
_RATED_PAGES, _RATED_BYTES = 8_192, 32
#: Rows that codebooks are trained on, and float32 copies of them.
_TRAINING_ROWS, _TRAINING_COPIES = 60_000, 3
#: Offers of a replica, and ranks of a row among vicinities.
_OFFER_BYTES, _RANKS_BYTES = 48, 200
_CHUNK_BYTES = 16 << 20
_PARTITION_ROWS_MIN = 10_000


@dataclass(frozen=True)
class Memory:
    """What a build works on at a time.

    Attributes
    ----------
    cap_bytes : int
        What it was told to stay within.
    threads : int
    partition_rows, chunk_rows : int
        Rows of a partition, and of a chunk that is carried from one file to the next.
    """

    cap_bytes: int
    threads: int
    partition_rows: int
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
    n_threads = max(1, min(threads, int(left // _region_bytes(spec, n_rows))))
    partition_rows = int(left / n_threads / _bytes_at_work(spec) / 2)
    return Memory(
        cap_bytes,
        n_threads,
        min(PARTITION_ROWS, max(_PARTITION_ROWS_MIN, partition_rows)),
        max(1, _CHUNK_BYTES // _row_bytes(spec)),
    )


def least_bytes(spec: IndexSpec, n_rows: int, tiers: TierPlan) -> int:
    """Give what a build takes with one thread, which is the least."""
    packing, later = held_bytes(spec, n_rows, tiers)
    return int(_BASE_BYTES + max(packing + _region_bytes(spec, n_rows), later))


def held_bytes(spec: IndexSpec, n_rows: int, tiers: TierPlan) -> tuple[float, float]:
    """Give what grows with the rows: while they are cut and refined, and in the steps after that, at most."""
    vector_bytes = 4 * spec.space_dim
    pages = n_rows / spec.page_capacity
    centroids = 1.15 * pages * vector_bytes
    packing = n_rows * _REFINE_BYTES + centroids
    # Of those pages that postings are made of at a time, centroids as cut and as sorted.
    grouping = n_rows * _ORDER_BYTES + centroids + min(pages, PARTITION_ROWS) * 2 * vector_bytes
    codes = 1.05 * (tiers.code_bytes + 2) if tiers.code_bytes else 0.0
    later = [grouping, n_rows * (_VERIFY_BYTES + codes)]
    if tiers.code_bytes:
        rated = min(pages, _RATED_PAGES) * _RATED_BYTES * BuildOptions.calibration_queries
        later.append(n_rows * (_REFINE_BYTES + codes) + rated)
        training = min(n_rows, _TRAINING_ROWS) * _TRAINING_COPIES * vector_bytes
        later.append(n_rows * (_ENCODE_BYTES + codes) + training)
    if tiers.codes_on_ssd:
        later.append(n_rows * (_RANKS_BYTES + tiers.code_bytes + 2) + pages * 2 * vector_bytes)
    later.append(n_rows * _OFFER_BYTES * (tiers.replicas - 1))
    return packing, max(later)


def scratch_bytes(count: int, spec: IndexSpec, raw: RawLayout | None) -> int:
    """Give what the files of a build itself take at a time: rows in two orders, their numbers, pages in two notes."""
    rows = 2 * count * spec.dim * np.dtype(spec.row_type).itemsize
    numbers = count * (4 * 8 + 3 * 4 * spec.space_dim // spec.page_capacity)
    return rows + numbers + (2 * count * raw.row_bytes if raw is not None and not raw.own else 0)


def _row_bytes(spec: IndexSpec) -> int:
    return spec.dim * np.dtype(spec.row_type).itemsize


def _bytes_at_work(spec: IndexSpec) -> int:
    """Give the bytes of a row that is worked on: as read, sorted, carried to the index space, and as float32."""
    return 2 * _row_bytes(spec) + 4 * spec.space_dim * (1 if spec.space_dtype.kind in "ui" else 2)


def _region_bytes(spec: IndexSpec, n_rows: int) -> int:
    return min(REGION_PAGES * spec.page_capacity, n_rows) * _bytes_at_work(spec)


def free_memory() -> int:
    """Give the bytes of RAM that could be taken without others being pushed out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells MemAvailable")
