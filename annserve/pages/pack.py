"""From rows to pages, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.pages.layout import HEADER, REPLICAS_SHIFT, PageLayout
from annserve.pages.rows import QuantizedRows
from annserve.storage.page_kernels import seal_pages


def pack_pages(
    rows: QuantizedRows,
    ids: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.int64],
    layout: PageLayout,
    *,
    first_page_id: int,
    salt: int,
    replicas: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.uint8]:
    """Write rows onto consecutive pages.

    Parameters
    ----------
    rows : QuantizedRows
        Page by page, in the order of their slots.
    ids : (n,) uint64
        Id of each row.
    counts : (p,) int64
        Rows of each page, 1 … capacity; their sum is n.
    layout : PageLayout
    first_page_id : int
        Number of the first page.
    salt : int
        The segment's salt, uint32.
    replicas : (p,) int64, optional
        How many rows of each page, the last ones, are at home on another page; none by default.

    Returns
    -------
    (p, page_bytes) uint8
        Complete pages with their checksums.
    """
    n_pages = len(counts)
    assert counts.min(initial=1) >= 1, f"an empty page among {n_pages}"
    assert counts.max(initial=1) <= layout.capacity, f"{counts.max()} rows on a page of {layout.capacity}"
    assert counts.sum() == len(ids), f"{counts.sum()} places for {len(ids)} rows"
    page_of_row = np.repeat(np.arange(n_pages), counts)
    slot_of_row = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)

    pages = np.zeros((n_pages, layout.page_bytes), np.uint8)
    header = pages[:, : HEADER.itemsize].view(HEADER)[:, 0]
    header["count"] = counts
    header["flags"] = layout.flags
    if replicas is not None:
        assert (replicas <= counts).all(), "more replicas than rows"
        header["flags"] |= (replicas << REPLICAS_SHIFT).astype(np.uint16)
    parts: list[tuple[int, npt.NDArray[Any], np.dtype[Any]]] = [(layout.ids_offset, ids, np.dtype("<u8"))]
    if layout.has_factors:
        float32 = np.dtype("<f4")
        parts += [
            (layout.factors_offset, rows.scales, float32),
            (layout.factors_offset + 4 * layout.capacity, rows.errors, float32),
        ]
    for offset, values, dtype in parts:
        column = pages[:, offset : offset + dtype.itemsize * layout.capacity].view(dtype)
        column[page_of_row, slot_of_row] = values
    stop = layout.rows_offset + layout.capacity * layout.dim
    elements = pages[:, layout.rows_offset : stop].reshape(n_pages, layout.capacity, layout.dim)
    elements[page_of_row, slot_of_row] = rows.elements.view(np.uint8)
    pages[:, layout.rows_offset : stop] = elements.reshape(n_pages, stop - layout.rows_offset)
    seal_pages(pages.view(np.uint32), pages, first_page_id, np.uint32(salt))
    return pages


@dataclass(frozen=True)
class UnpackedRows:
    """Rows at home on some pages, page by page and in the order of their slots.

    Attributes
    ----------
    ids : (n,) uint64
    places : (n,) int64
        Page, counted from the first of these, times the capacity, and slot.
    stored : QuantizedRows
    """

    ids: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]
    stored: QuantizedRows


def unpack_pages(pages: npt.NDArray[np.uint8], layout: PageLayout) -> UnpackedRows:
    """Take the rows at home off pages that were proven (``pages.check``), replicas left out.

    Parameters
    ----------
    pages : (p, page_bytes) uint8, C-contiguous
    layout : PageLayout
    """
    header = pages[:, : HEADER.itemsize].view(HEADER)[:, 0]
    at_home = header["count"].astype(np.int64) - (header["flags"] >> REPLICAS_SHIFT)
    held = np.arange(layout.capacity) < at_home[:, None]

    def column(offset: int, n_bytes: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        part = np.ascontiguousarray(pages[:, offset : offset + n_bytes * layout.capacity])
        return part.reshape(len(pages), layout.capacity, n_bytes)[held].view(dtype)

    ids = column(layout.ids_offset, 8, "<u8")[:, 0]
    elements = column(layout.rows_offset, layout.dim, layout.dtype)
    scales, errors = np.ones(len(ids), np.float32), np.zeros(len(ids), np.float32)
    if layout.has_factors:
        scales = column(layout.factors_offset, 4, "<f4")[:, 0]
        errors = column(layout.factors_offset + 4 * layout.capacity, 4, "<f4")[:, 0]
    return UnpackedRows(ids, np.flatnonzero(held), QuantizedRows(elements, scales, errors))


def unpack_first(pages: npt.NDArray[np.uint8], layout: PageLayout) -> npt.NDArray[np.float32]:
    """Give the first row of each page, as it is stored, as (p, dim) float32."""
    rows = pages[:, layout.rows_offset : layout.rows_offset + layout.dim]
    vectors = np.ascontiguousarray(rows).view(layout.dtype).astype(np.float32)
    if not layout.has_factors:
        return vectors
    scales = np.ascontiguousarray(pages[:, layout.factors_offset : layout.factors_offset + 4]).view("<f4")
    return np.asarray(vectors * scales, np.float32)
