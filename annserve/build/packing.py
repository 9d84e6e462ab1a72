"""The steps from staged rows to rows in the order of their pages, with files between them.

=============  =======================================================================================
step           what it leaves
=============  =======================================================================================
``partition``  ``split.rows``: partition by partition, each in the order of the input
``bisect``     ``paged.rows``: page by page, as cut; and these pages in ``pages-0``, in numbers of it
``refine``     the pages after trades, in ``pages-0`` or ``pages-1``: rounds read one and write the other
``group``      pages in the order of postings
``order``      ``ordered.rows``: posting by posting, page by page. From here on a row's number is its place
               in this file, and ``ordered.origin`` tells its number in the input
=============  =======================================================================================

Pages are two row files, ``.members`` and ``.centroids``. Beside rows in another order than the input's lie, as
``.origin``, their numbers in it. Every file is read in runs of whole pages at least, whatever its size: partitions
by one range each, regions by the pages that they began as. The work is that of ``clusters.hierarchy``, and so are the
pages: rows in RAM give the same.

Peak RAM: a partition or region per thread; 64 bytes a page, and the grouping of pages in postings (``design.memory``).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.build.steps import Steps
from annserve.clusters.bisection import pages_needed
from annserve.clusters.hierarchy import (
    Consecutive,
    Packing,
    cut_overfull,
    cut_partition,
    group_pages,
    label_rows,
    offsets_of,
)
from annserve.clusters.refinement import REFINE_ROUNDS, Pages, Progress, refine
from annserve.design.memory import Memory
from annserve.events import StageFinished, StageProgressed, StageStarted
from annserve.spec import IndexSpec
from annserve.vectors.row_file import RowFile, SpaceRows, create_rows, open_rows
from annserve.vectors.staging import open_staged, remove_staged

STAGED = "rows.zarr"
_SPLIT, _PAGED, _ORDERED = "split", "paged", "ordered"
_BLOCK_BYTES = 8 << 20


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
        with steps.step("partition", told=False) as facts:
            facts |= _partition(steps, spec, memory, seed)
    if steps.to_do("bisect"):
        remove_staged(steps.folder / STAGED)
        with steps.step("bisect", told=False) as facts:
            facts |= _bisect(steps, spec, page_capacity, memory, seed)
    if steps.to_do("refine"):
        _remove(steps, _SPLIT)
        with steps.step("refine", told=False) as facts:
            facts |= _refine(steps, spec, page_capacity, memory, seed)
    if steps.to_do("order"):
        if steps.to_do("group"):
            with steps.step("group", told=False):
                _group(steps, spec, page_capacity, pages_per_posting, memory, seed)
        with steps.step("order", told=False):
            _order(steps, spec, page_capacity)
    for name in (_PAGED, "pages-0", "pages-1"):
        _remove(steps, name)


def packed_rows(steps: Steps, spec: IndexSpec) -> RowFile:
    """Open the rows as `pack_staged` has left them, as given, in page order."""
    return open_rows(steps.folder / f"{_ORDERED}.rows", _count(steps), spec.dim, np.dtype(spec.row_type))


def packed_origin(steps: Steps) -> RowFile:
    """Open the numbers that these rows have in the input, (n, 1) int64."""
    return open_rows(steps.folder / f"{_ORDERED}.origin", _count(steps), 1, np.dtype(np.int64))


def read_packing(steps: Steps) -> Packing:
    """Give the packing of these rows: its order is 0 … n−1."""
    kept = steps.kept("order")
    offsets = kept["page_offsets"]
    n_pages = len(offsets) - 1
    return Packing(Consecutive(int(offsets[-1])), offsets, kept["posting_offsets"], np.zeros(n_pages, np.int64))


class _Files:
    """The files of a step, open until it ends.

    Parameters
    ----------
    steps : Steps
    spec : IndexSpec
    stack : ExitStack
        Closes them.
    """

    def __init__(self, steps: Steps, spec: IndexSpec, stack: ExitStack) -> None:
        self._folder, self._spec, self._stack = steps.folder, spec, stack
        self._files: list[RowFile] = []

    def table(self, name: str, count: int, dim: int, dtype: npt.DTypeLike, *, new: bool) -> RowFile:
        """Open a file of so many rows, or make it."""
        make = create_rows if new else open_rows
        self._files.append(self._stack.enter_context(make(self._folder / name, count, dim, np.dtype(dtype))))
        return self._files[-1]

    def rows(self, name: str, count: int, *, new: bool = False) -> tuple[RowFile, RowFile]:
        """Open rows, and their numbers in the input, in the order of that name; or make both."""
        rows = self.table(f"{name}.rows", count, self._spec.dim, self._spec.row_type, new=new)
        return rows, self.table(f"{name}.origin", count, 1, np.int64, new=new)

    def pages(self, generation: int, n_pages: int, capacity: int, *, new: bool = False) -> Pages:
        """Open a generation of pages, or make it."""
        members = self.table(f"pages-{generation}.members", n_pages, capacity, np.int64, new=new)
        centroids = f"pages-{generation}.centroids"
        return Pages(members, self.table(centroids, n_pages, self._spec.space_dim, np.float32, new=new))

    def sync(self) -> None:
        """Make all that was written durable."""
        for file in self._files:
            file.sync()


def _count(steps: Steps) -> int:
    return int(steps.facts("partition")["rows"])


def _in_space(steps: Steps, rows: RowFile, spec: IndexSpec) -> SpaceRows:
    return SpaceRows(rows, spec, float(steps.facts("partition")["norm_max"]))


def _remove(steps: Steps, name: str) -> None:
    for path in steps.folder.glob(f"{name}.*"):
        path.unlink()


def _partition(steps: Steps, spec: IndexSpec, memory: Memory, seed: int) -> dict[str, Any]:
    """Label all rows, then carry each to its partition."""
    with open_staged(steps.folder / STAGED) as staged, ExitStack() as stack:
        files = _Files(steps, spec, stack)
        labels = files.table("labels.rows", staged.count, 1, np.int32, new=True)
        counts = np.zeros(0, np.int64)
        for first, found in label_rows(
            SpaceRows(staged, spec, staged.norm_max),
            memory.partition_rows,
            seed=seed,
            threads=memory.threads,
            listener=steps.listener,
        ):
            labels.write(first, found[:, None])
            more = np.bincount(found, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        split, origin = files.rows(_SPLIT, staged.count, new=True)
        free = offsets_of(counts)[:-1]
        for first, rows in staged.chunks(memory.chunk_rows):
            own = labels[first : first + len(rows)][:, 0]
            numbers = staged.input_rows(first, first + len(rows))[:, None]
            for part in np.split(np.argsort(own, kind="stable"), np.cumsum(np.bincount(own))[:-1]):
                if len(part):
                    label = own[part[0]]
                    split.write(int(free[label]), rows[part])
                    origin.write(int(free[label]), numbers[part])
                    free[label] += len(part)
        files.sync()
        steps.keep("partition", offsets=cut_overfull(counts, memory.partition_rows))
        _remove(steps, "labels")
        return {"rows": staged.count, "norm_max": staged.norm_max, "region_pages": memory.region_pages}


def _bisect(steps: Steps, spec: IndexSpec, page_capacity: int, memory: Memory, seed: int) -> dict[str, Any]:
    n = _count(steps)
    begun = time.monotonic()
    steps.listener(StageStarted("bisect", n))
    ends = list(pairwise(steps.kept("partition")["offsets"].tolist()))
    cut_before = int(steps.noted("bisect").get("partitions", 0))
    first_page = offsets_of(np.array([pages_needed(stop - start, page_capacity) for start, stop in ends]))
    n_pages = int(first_page[-1])
    with ExitStack() as stack:
        files = _Files(steps, spec, stack)
        split, split_origin = files.rows(_SPLIT, n)
        paged, paged_origin = files.rows(_PAGED, n, new=not cut_before)
        pages = files.pages(0, n_pages, page_capacity, new=not cut_before)
        space = _in_space(steps, split, spec)
        pool = stack.enter_context(ThreadPoolExecutor(memory.threads))

        def cut(number: int) -> None:
            start, stop = ends[number]
            own = cut_partition(space, np.arange(start, stop), page_capacity, seed)
            order, counts = own.order()
            paged.write(start, split[order])
            paged_origin.write(start, split_origin[order])
            place = start + offsets_of(counts)[:-1, None] + np.arange(page_capacity)
            page_ids = np.arange(first_page[number], first_page[number + 1])
            pages.members[page_ids] = np.where(own.members[:] >= 0, place, -1)
            pages.centroids[page_ids] = own.centroids[:]

        left = range(cut_before, len(ends))
        for number, _ in zip(left, pool.map(cut, left)):
            steps.listener(StageProgressed("bisect", ends[number][1]))
            if steps.note_is_due():
                files.sync()
                steps.note("bisect", {"partitions": number + 1})
        files.sync()
    steps.listener(StageFinished("bisect", time.monotonic() - begun, f"{n_pages:,} pages"))
    return {"pages": n_pages}


def _refine(steps: Steps, spec: IndexSpec, page_capacity: int, memory: Memory, seed: int) -> dict[str, Any]:
    """Refine round by round; what a note says is done is durable in the generation that the round writes."""
    n, n_pages = _count(steps), int(steps.facts("bisect")["pages"])
    begun = time.monotonic()
    steps.listener(StageStarted("refine", n * REFINE_ROUNDS))
    progress = Progress(**steps.noted("refine"))
    with ExitStack() as stack:
        files = _Files(steps, spec, stack)
        paged, _ = files.rows(_PAGED, n)
        generations = (
            files.pages(0, n_pages, page_capacity),
            files.pages(1, n_pages, page_capacity, new=progress == Progress()),
        )
        for progress in refine(  # noqa: B020 - goes on from where it was
            _in_space(steps, paged, spec),
            generations,
            seed=seed,
            # A resumed build goes on with what it began with.
            region_pages=int(steps.facts("partition")["region_pages"]),
            threads=memory.threads,
            begun=progress,
        ):
            steps.listener(StageProgressed("refine", n * progress.rounds + progress.rows))
            # A round that is over is noted before the next one writes over what it read.
            if not progress.regions or steps.note_is_due():
                files.sync()
                steps.note("refine", asdict(progress))
    steps.listener(StageFinished("refine", time.monotonic() - begun, f"{progress.trades:,} trades"))
    return {"generation": progress.rounds % 2}


def _group(
    steps: Steps, spec: IndexSpec, page_capacity: int, pages_per_posting: int, memory: Memory, seed: int
) -> None:
    n_pages = int(steps.facts("bisect")["pages"])
    with ExitStack() as stack:
        files = _Files(steps, spec, stack)
        pages = files.pages(int(steps.facts("refine")["generation"]), n_pages, page_capacity)
        page_order, posting_offsets = group_pages(
            pages.centroids,
            pages_per_posting,
            partition_pages=memory.partition_pages,
            region_postings=memory.region_postings,
            seed=seed,
            threads=memory.threads,
            listener=steps.listener,
        )
    steps.keep("group", page_order=page_order, posting_offsets=posting_offsets)


def _order(steps: Steps, spec: IndexSpec, page_capacity: int) -> None:
    n, n_pages = _count(steps), int(steps.facts("bisect")["pages"])
    with ExitStack() as stack:
        files = _Files(steps, spec, stack)
        pages = files.pages(int(steps.facts("refine")["generation"]), n_pages, page_capacity)
        page_order, posting_offsets = steps.kept("group").values()
        begun = time.monotonic()
        steps.listener(StageStarted("order", n))
        carried = {"pages": 0, "rows": 0, **steps.noted("order")}
        paged, paged_origin = files.rows(_PAGED, n)
        ordered, origin = files.rows(_ORDERED, n, new=not carried["pages"])
        step = max(1, _BLOCK_BYTES // (paged.row_bytes * page_capacity))
        counts = np.empty(n_pages, np.int32)
        for first in range(0, carried["pages"], step):
            some = slice(first, min(first + step, carried["pages"]))
            _, counts[some] = pages.order(page_order[some])
        for first in range(carried["pages"], n_pages, step):
            some = slice(first, min(first + step, n_pages))
            rows, counts[some] = pages.order(page_order[some])
            ordered.write(carried["rows"], paged[rows])
            origin.write(carried["rows"], paged_origin[rows])
            carried = {"pages": some.stop, "rows": carried["rows"] + len(rows)}
            steps.listener(StageProgressed("order", carried["rows"]))
            if steps.note_is_due():
                files.sync()
                steps.note("order", carried)
        files.sync()
    steps.keep("order", page_offsets=offsets_of(counts), posting_offsets=posting_offsets)
    steps.listener(StageFinished("order", time.monotonic() - begun))
