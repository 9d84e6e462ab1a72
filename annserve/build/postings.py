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

#: Gives rows as pages hold them, by their numbers, (m,) int64.
Stored = Callable[[npt.NDArray[np.int64]], QuantizedRows]

_PACK_PAGES = 2_048
_BLOCK_ROWS = 32_768


def centroids_of_postings(rows: Rows, packing: Packing) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Give the centroid of each posting's rows and its true radius, rounded up: (h, d) float64 and (h,) float32.

    Parameters
    ----------
    rows : (n, d) rows
        In the index space.
    packing : Packing
    """
    starts = packing.page_offsets[packing.posting_offsets]
    counts = np.diff(starts)
    centroids = np.empty((len(counts), rows.shape[1]))
    radii = np.empty(len(counts), np.float32)
    step = max(1, _BLOCK_ROWS // int(counts.max()))
    for first in range(0, len(counts), step):
        some = slice(first, min(first + step, len(counts)))
        begin = starts[some.start]
        members = rows[packing.order[begin : starts[some.stop]]].astype(np.float64)
        sums = np.add.reduceat(members, starts[some] - begin)
        centroids[some] = sums / counts[some, None]
        members -= np.repeat(centroids[some], counts[some], axis=0)
        squares = np.einsum("ij,ij->i", members, members)
        farthest = np.sqrt(np.maximum.reduceat(squares, starts[some] - begin))
        radii[some] = np.nextafter(farthest.astype(np.float32), np.float32(np.inf))
    return centroids, radii


def write_pages(
    path: Path,
    rows: Rows,
    ids: npt.NDArray[np.uint64],
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
    ids : (n,) uint64
        Of each.
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
                    ids[members],
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
