"""The steps from staged rows to rows in the order of their pages, with files between them.

=============  =======================================================================================
step           what it leaves
=============  =======================================================================================
``partition``  ``split.rows``: partition by partition, each in the order of the input
``bisect``     ``paged.rows``: page by page, as cut
``refine``     the pages after trades, in numbers of ``paged.rows``
``order``      ``ordered.rows``: posting by posting, page by page. From here on a row's number is its place
               in this file, and ``order.bin`` tells its number in the input
=============  =======================================================================================

Every file is read in runs of whole pages at least, whatever its size: partitions by one range each, regions by the
pages that they began as. The work is that of ``clusters.hierarchy``, and so are the pages: rows in RAM give the same.

Peak RAM: 50 bytes a row, a float32 centroid a page, and a partition or region per thread (``build.memory``).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from annserve.build.memory import Memory
from annserve.build.steps import Steps
from annserve.clusters.bisection import pages_needed
from annserve.clusters.hierarchy import (
    REFINE_ROUNDS,
    TRADES_WORTH,
    Packing,
    cut_partition,
    group_pages,
    reorder,
    split_rows,
)
from annserve.clusters.refinement import Pages, cut_regions, refine_regions
from annserve.events import StageFinished, StageProgressed, StageStarted
from annserve.spec import IndexSpec
from annserve.vectors.row_file import RowFile, SpaceRows, create_rows, open_rows
from annserve.vectors.staging import open_staged, remove_staged

STAGED = "rows.zarr"
_SPLIT, _PAGED, _ORDERED = "split.rows", "paged.rows", "ordered.rows"
#: Within a round of refinement its state is noted after so many seconds, and not more often than noting it costs.
_NOTE_SECONDS = 30.0
_NOTE_SHARE = 20
_BLOCK_BYTES = 32 << 20


def pack_staged(
    steps: Steps,
    spec: IndexSpec,
    page_capacity: int,
    pages_per_posting: int,
    *,
    memory: Memory,
    seed: int,
) -> None:
    """Take the steps above, as far as they aren't behind the build.

    Parameters
    ----------
    steps : Steps
        Whose folder holds the staged rows.
    spec : IndexSpec
    page_capacity, pages_per_posting : int
        As for ``clusters.hierarchy.pack_rows``.
    memory : Memory
        Says how much is worked on at a time.
    seed : int
        Fixes every random choice.

    Raises
    ------
    OutputError
        If the device refuses.
    CorruptionError
        If a file isn't what an earlier step left.
    """
    if steps.to_do("partition"):
        with steps.step("partition", told=False):
            _partition(steps, spec, memory, seed)
    if steps.to_do("bisect"):
        remove_staged(steps.folder / STAGED)
        with steps.step("bisect", told=False):
            _bisect(steps, spec, page_capacity, memory, seed)
    if steps.to_do("refine"):
        (steps.folder / _SPLIT).unlink(missing_ok=True)
        with steps.step("refine", told=False):
            _refine(steps, spec, page_capacity, memory, seed)
    if steps.to_do("order"):
        with steps.step("order", told=False):
            _order(steps, spec, page_capacity, pages_per_posting, memory, seed)
    (steps.folder / _PAGED).unlink(missing_ok=True)


def packed_rows(steps: Steps, spec: IndexSpec) -> RowFile:
    """Open the rows as `pack_staged` has left them, as given, in page order."""
    return _open(steps, _ORDERED, spec, int(steps.kept("order", "page_offsets")["page_offsets"][-1]))


def read_packing(steps: Steps) -> Packing:
    """Give the packing of these rows: its order is 0 … n−1."""
    kept = steps.kept("order", "page_offsets", "posting_offsets")
    offsets = kept["page_offsets"]
    return Packing(np.arange(offsets[-1]), offsets, kept["posting_offsets"], np.zeros(len(offsets) - 1, np.int64))


def read_origin(steps: Steps) -> npt.NDArray[np.int64]:
    """Give the number of each of these rows in the input, (n,) int64."""
    return steps.kept("order", "origin")["origin"]


def _open(steps: Steps, name: str, spec: IndexSpec, count: int) -> RowFile:
    return open_rows(steps.folder / name, count, spec.dim, np.dtype(spec.row_type))


def _create(steps: Steps, name: str, spec: IndexSpec, count: int) -> RowFile:
    return create_rows(steps.folder / name, count, spec.dim, np.dtype(spec.row_type))


def _partition(steps: Steps, spec: IndexSpec, memory: Memory, seed: int) -> None:
    with open_staged(steps.folder / STAGED) as staged:
        parts = split_rows(
            SpaceRows(staged, spec, staged.norm_max),
            memory.partition_rows,
            seed=seed,
            threads=memory.threads,
            listener=steps.listener,
        )
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        taken = np.zeros(len(parts), np.int64)
        with _create(steps, _SPLIT, spec, staged.count) as split:
            for first, rows in staged.chunks(memory.chunk_rows):
                for number, part in enumerate(parts):
                    # Numbers ascend within a partition, so those of a chunk stand together.
                    start = int(taken[number])
                    stop = start + int(np.searchsorted(part[start:], first + len(rows)))
                    split.write(int(offsets[number]) + start, rows[part[start:stop] - first])
                    taken[number] = stop
            split.sync()
        origin = staged.input_rows(0, staged.count)[np.concatenate(parts)]
        steps.keep("partition", origin=origin, offsets=offsets, norm_max=np.array([staged.norm_max]))


def _bisect(steps: Steps, spec: IndexSpec, page_capacity: int, memory: Memory, seed: int) -> None:
    kept = steps.kept("partition")
    origin, norm_max = kept["origin"], kept["norm_max"]
    begun = time.monotonic()
    steps.listener(StageStarted("bisect", len(origin)))
    paged_origin = np.empty_like(origin)
    ends = list(pairwise(kept["offsets"].tolist()))
    first_page = np.cumsum([0, *(pages_needed(stop - start, page_capacity) for start, stop in ends)])
    counts = np.empty(first_page[-1], np.int32)
    centroids = np.empty((first_page[-1], spec.space_dim), np.float32)
    with (
        _open(steps, _SPLIT, spec, len(origin)) as split,
        _create(steps, _PAGED, spec, len(origin)) as paged,
        ThreadPoolExecutor(memory.threads) as pool,
    ):
        space = SpaceRows(split, spec, float(norm_max[0]))

        def cut(number: int) -> int:
            start, stop = ends[number]
            pages = cut_partition(space, np.arange(start, stop), page_capacity, seed)
            order, _ = pages.order()
            paged.write(start, split[order])
            paged_origin[start:stop] = origin[order]
            own = slice(first_page[number], first_page[number + 1])
            counts[own], centroids[own] = pages.counts, pages.centroids
            return int(stop)

        for done in pool.map(cut, range(len(ends))):
            steps.listener(StageProgressed("bisect", done))
        paged.sync()
    steps.keep("bisect", origin=paged_origin, norm_max=norm_max, counts=counts, centroids=centroids)
    steps.listener(StageFinished("bisect", time.monotonic() - begun, f"{len(counts):,} pages"))


def _refine(steps: Steps, spec: IndexSpec, page_capacity: int, memory: Memory, seed: int) -> None:
    """Refine round by round; a note holds the pages after some region of a round, and the regions still to come."""
    kept = steps.kept("bisect", "counts", "centroids", "norm_max")
    n = int(kept["counts"].sum())
    begun = noted_at = time.monotonic()
    noting = 0.0
    notes = steps.noted("refine")
    steps.listener(StageStarted("refine", n * REFINE_ROUNDS))
    pages = Pages.in_order(kept.pop("counts"), kept.pop("centroids"), page_capacity)
    state = {"round": 0, "seen": 0, "traded": 0, "trades": 0, "note": 0}
    regions: list[npt.NDArray[np.int64]] | None = None
    if notes:
        state = dict(notes)
        left = steps.kept(f"refine-{state['note'] % 2}")
        pages = Pages(left["members"], left["counts"], left["centroids"])
        regions = np.split(left["regions"], left["region_ends"])[:-1]

    def note() -> None:
        nonlocal noted_at, noting
        started = time.monotonic()
        assert regions is not None
        state["note"] += 1
        # The note before stays until this one is whole: two names in turns.
        steps.keep(
            f"refine-{state['note'] % 2}",
            members=pages.members,
            counts=pages.counts,
            centroids=pages.centroids,
            regions=np.concatenate([np.empty(0, np.int64), *regions]),
            region_ends=np.cumsum([len(region) for region in regions], dtype=np.int64),
        )
        steps.note("refine", dict(state))
        noted_at = time.monotonic()
        noting = noted_at - started

    with _open(steps, _PAGED, spec, n) as paged:
        space = SpaceRows(paged, spec, float(kept["norm_max"][0]))
        while state["round"] < REFINE_ROUNDS:
            if regions is None:
                regions = cut_regions(pages, seed=seed + state["round"] + 1)
            for seen, trades in refine_regions(space, pages, list(regions), threads=memory.threads):
                regions = regions[1:]
                state["seen"] += seen
                state["traded"] += trades
                steps.listener(StageProgressed("refine", n * state["round"] + state["seen"]))
                if time.monotonic() - noted_at > max(_NOTE_SECONDS, _NOTE_SHARE * noting):
                    note()
            few = state["traded"] < TRADES_WORTH * n
            state |= {"round": state["round"] + 1, "seen": 0, "traded": 0, "trades": state["trades"] + state["traded"]}
            regions = None
            if few:
                break
    steps.keep("refine", members=pages.members, counts=pages.counts, centroids=pages.centroids)
    steps.listener(StageFinished("refine", time.monotonic() - begun, f"{state['trades']:,} trades"))


def _order(
    steps: Steps, spec: IndexSpec, page_capacity: int, pages_per_posting: int, memory: Memory, seed: int
) -> None:
    kept = steps.kept("refine")
    pages = Pages(kept["members"], kept["counts"], kept["centroids"])
    del kept
    page_order, posting_offsets = group_pages(
        pages.centroids, pages_per_posting, seed=seed, threads=memory.threads, listener=steps.listener
    )
    order, page_offsets = reorder(*pages.order(), page_order)
    del pages
    begun = time.monotonic()
    steps.listener(StageStarted("order", len(order)))
    with _open(steps, _PAGED, spec, len(order)) as paged, _create(steps, _ORDERED, spec, len(order)) as ordered:
        block = max(1, _BLOCK_BYTES // paged.row_bytes)

        def carry(first: int) -> int:
            ordered.write(first, paged[order[first : first + block]])
            return min(first + block, len(order))

        with ThreadPoolExecutor(memory.threads) as pool:
            for done in pool.map(carry, range(0, len(order), block)):
                steps.listener(StageProgressed("order", done))
        ordered.sync()
    origin = steps.kept("bisect", "origin")["origin"]
    steps.keep("order", origin=origin[order], page_offsets=page_offsets, posting_offsets=posting_offsets)
    steps.listener(StageFinished("order", time.monotonic() - begun))
