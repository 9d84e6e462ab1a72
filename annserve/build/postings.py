"""Packed rows → what lies on the device, and where each posting lies in space. Peak RAM: a block of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.clusters.hierarchy import Packing
from annserve.events import Listener, StageProgressed
from annserve.index.segment import pages_writer
from annserve.pages.layout import PageLayout
from annserve.pages.pack import pack_pages
from annserve.pages.rows import QuantizedRows, quantize_rows
from annserve.spec import IndexSpec
from annserve.vectors.source import Rows

#: Give ids of rows, and rows as pages hold them, by their numbers, (m,) int64.
Ids = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint64]]
Stored = Callable[[npt.NDArray[np.int64]], QuantizedRows]

_PACK_PAGES = 1_024
#: Of rows as float64 that are looked at at a time.
_BLOCK_BYTES = 32 << 20


def centroids_of_postings(rows: Rows, packing: Packing) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Give the centroid of each posting's rows and its true radius, rounded up: (h, d) and (h,) float32.

    Parameters
    ----------
    rows : (n, d) rows
        In the index space.
    packing : Packing
    """
    starts = packing.page_offsets[packing.posting_offsets]
    counts = np.diff(starts)
    centroids = np.empty((len(counts), rows.shape[1]), np.float32)
    radii = np.empty(len(counts), np.float32)
    step = max(1, _BLOCK_BYTES // (8 * rows.shape[1] * int(counts.max())))
    for first in range(0, len(counts), step):
        some = slice(first, min(first + step, len(counts)))
        begin = starts[some.start]
        members = rows[packing.order[begin : starts[some.stop]]].astype(np.float64)
        sums = np.add.reduceat(members, starts[some] - begin)
        means = sums / counts[some, None]
        centroids[some] = means
        members -= np.repeat(means, counts[some], axis=0)
        squares = np.einsum("ij,ij->i", members, members)
        farthest = np.sqrt(np.maximum.reduceat(squares, starts[some] - begin))
        radii[some] = np.nextafter(farthest.astype(np.float32), np.float32(np.inf))
    return centroids, radii


def write_pages(
    path: Path,
    rows: Rows,
    ids: Ids,
    packing: Packing,
    spec: IndexSpec,
    salt: int,
    listener: Listener,
    stored: Stored | None = None,
) -> dict[str, float]:
    """Write all pages in order; give the mean and largest quantization error of what lies on them.

    Parameters
    ----------
    path : Path
    rows : (n, dim) rows
        As given.
    ids : callable
        Gives the ids of rows by their numbers.
    packing : Packing
    spec : IndexSpec
    salt : int
        Of the segment.
    listener : callable
        Hears ``StageProgressed("pack", pages)``.
    stored : callable, optional
        Gives rows as they are to be stored, by their numbers; by default they are quantized here.

    Raises
    ------
    OutputError
        If the device refuses.
    """
    layout = PageLayout.of(spec)
    counts = np.diff(packing.page_offsets)
    total, largest = 0.0, 0.0
    with pages_writer(path, spec.page_bytes) as writer:
        for first in range(0, len(counts), _PACK_PAGES):
            stop = min(first + _PACK_PAGES, len(counts))
            members = packing.order[packing.page_offsets[first] : packing.page_offsets[stop]]
            quantized = quantize_rows(rows[members], spec) if stored is None else stored(members)
            writer.append(
                pack_pages(
                    quantized,
                    ids(members),
                    counts[first:stop],
                    layout,
                    first_page_id=first,
                    salt=salt,
                    replicas=packing.replicas[first:stop],
                )
            )
            total += float(quantized.errors.sum(dtype=np.float64))
            largest = max(largest, float(quantized.errors.max()))
            listener(StageProgressed("pack", stop))
        writer.end()
    return {"mean": total / len(packing.order), "max": largest}
