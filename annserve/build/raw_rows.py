"""The stage that keeps raw rows for re-ranking: which, whether they are worth it, and their file.

Integer rows need none: they are stored as given. Of float rows the build knows, from held-out rows, which share of
true neighbours INT8 alone would lose. Another encoder's vectors are kept whatever INT8 loses. A row lies at the place
that it has on the posting pages, a replica at its own. Peak RAM: a block of
rows.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.build.steps import Steps
from annserve.clusters.hierarchy import Packing
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.events import Listener, StageFinished, StageProgressed, StageStarted, ignore
from annserve.index.raw_file import raw_writer
from annserve.raw.layout import RawLayout
from annserve.raw.pack import pack_raw_pages
from annserve.spec import RECALL_TARGETS, IndexSpec
from annserve.vectors.formats import open_vectors
from annserve.vectors.row_file import RowFile, create_rows
from annserve.vectors.source import Rows
from annserve.vectors.staging import remove_staged, stage

#: With ``auto``, raw rows are kept where INT8 loses more than this share of the 10 nearest: where no number of pages
#: would deliver the highest recall target. Embeddings lose 0.004 to 0.005.
_LOSS_SUFFERED = 1 - RECALL_TARGETS[-1]
#: Raw rows settle what INT8 leaves open at recall targets of whose misses INT8 would make more than this share. On
#: paragraphs (0.004 of the held-out queries' neighbours lost) 8.3 pages gave recall 0.980 with it and 8.1 without (a
#: fifth of the misses), 9.5 gave 0.990 and 9.7 without (two fifths).
_MISSES_SUFFERED = 0.25
_BLOCK_BYTES = 8 << 20
_OTHER = "other.zarr"


def plan_raw_rows(options: BuildOptions, spec: IndexSpec, count: int) -> RawLayout | None:
    """Say how raw rows would lie, before any work; None where none are wanted.

    With ``auto`` it shows only later whether they are kept.

    Raises
    ------
    InputError
        If the options don't fit the rows, or the other encoder's vectors don't match them one by one.
    """
    if options.rerank_with is None:
        if options.rerank == "none" or (options.rerank == "auto" and spec.lossless):
            return None
        if spec.lossless:
            raise InputError(
                f"rerank is {options.rerank!r}, but {spec.row_type} rows are stored exactly as given: there is "
                "nothing to gain; leave it out, or name another encoder's vectors (rerank_with)",
                field="rerank",
            )
        row_type = spec.row_type if options.rerank == "auto" else options.rerank
        return RawLayout(IndexSpec(spec.dim, row_type, spec.metric), own=True)
    with open_vectors(options.rerank_with) as source:
        if source.count != count:
            raise InputError(
                f"{options.rerank_with} holds {source.count:,} vectors, but there are {count:,} rows; give one per row",
                field="rerank_with",
            )
        row_type = str(source.dtype) if options.rerank == "auto" else options.rerank
        return RawLayout(IndexSpec(source.dim, row_type, options.rerank_metric or spec.metric), own=False)


def decide_raw_rows(layout: RawLayout | None, options: BuildOptions, loss: float) -> RawLayout | None:
    """Say which raw rows are kept after all, now that INT8's `loss` is known, and above which targets they settle."""
    if layout is None or not layout.own:
        return layout
    if options.rerank == "auto" and loss <= _LOSS_SUFFERED:
        return None
    low = [target for target in RECALL_TARGETS if loss <= _MISSES_SUFFERED * (1 - target)]
    return replace(layout, settle_above=max(low, default=0.0))


def keep_raw_rows(
    path: Path,
    rows: Rows,
    layout: RawLayout,
    packing: Packing,
    page_capacity: int,
    salt: int,
    origin: Rows,
    listener: Listener = ignore,
) -> None:
    """Write the raw rows of a segment.

    Parameters
    ----------
    path : Path
    rows : (n, raw dim) rows
        The index's rows as given, page by page; or another encoder's, in the order of the input.
    layout : RawLayout
    packing : Packing
    page_capacity : int
        Rows that a posting page may hold.
    salt : int
        Of the segment.
    origin : (n, 1) rows of int64
        Number of each row in the input.
    listener : callable
        Hears ``StageProgressed("keep", pages)``.

    Raises
    ------
    InputError
        If a value doesn't fit the type that raw rows are to have.
    OutputError
        If the device refuses.
    """
    begun = time.monotonic()
    n_pages = layout.n_pages(packing.n_pages * page_capacity)
    listener(StageStarted("keep", n_pages, "pages"))
    step = max(1, _BLOCK_BYTES // layout.page_bytes)
    with raw_writer(path, layout) as writer:
        for first in range(0, n_pages, step):
            stop = min(first + step, n_pages)
            places, numbers = _within(packing, page_capacity, first * layout.capacity, stop * layout.capacity)
            of_input = origin[numbers][:, 0]
            raw = _as_type(rows[numbers if layout.own else of_input], of_input, layout.dtype)
            writer.append(pack_raw_pages(raw, places, layout, first_page_id=first, n_pages=stop - first, salt=salt))
            listener(StageProgressed("keep", stop))
        writer.end()
    listener(StageFinished("keep", time.monotonic() - begun, f"raw rows of {layout.spec.dim} × {layout.spec.row_type}"))


def _within(
    packing: Packing, page_capacity: int, begin: int, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the places from `begin` on, `end` left out, that rows take on posting pages, and the rows there."""
    first, last = begin // page_capacity, min(-(-end // page_capacity), packing.n_pages)
    offsets = packing.page_offsets[first : last + 1]
    page = np.repeat(np.arange(first, last), np.diff(offsets))
    places = page * page_capacity + np.arange(offsets[0], offsets[-1]) - offsets[page - first]
    some = slice(*np.searchsorted(places, (begin, end)))
    return places[some], packing.order[offsets[0] : offsets[-1]][some]


def stage_other_rows(options: BuildOptions, layout: RawLayout, steps: Steps) -> RowFile:
    """Give the other encoder's vectors, each proven valid, in the order of the input."""
    assert options.rerank_with is not None
    place = steps.folder / _OTHER
    with open_vectors(options.rerank_with) as source:
        spec = IndexSpec(source.dim, str(source.dtype), layout.spec.metric)
        with stage(source, place, spec, steps.listener) as staged:
            rows = create_rows(place.with_suffix(".rows"), staged.count, staged.dim, staged.dtype)
            for first, chunk in staged.chunks():
                rows.write(first, chunk)
    remove_staged(place)
    return rows


def _as_type(given: npt.NDArray[Any], origin: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = given.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(cast).all():
        row = origin[int(np.argmin(np.isfinite(cast).all(axis=1)))]
        raise InputError(
            f"row {row} holds {np.abs(given).max():.4g}, which {dtype.name} can't; use float32", field="rerank"
        )
    return cast
