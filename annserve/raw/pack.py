"""From raw rows to pages, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.raw.layout import RawLayout
from annserve.storage.page_kernels import seal_pages


def pack_raw_pages(
    rows: npt.NDArray[Any],
    places: npt.NDArray[np.int64],
    layout: RawLayout,
    *,
    first_page_id: int,
    n_pages: int,
    salt: int,
) -> npt.NDArray[np.uint8]:
    """Write raw rows onto consecutive pages.

    Parameters
    ----------
    rows : (n, dim) array
        Of a type that the layout's holds.
    places : (n,) int64
        Place of each row, on one of these pages; they differ.
    layout : RawLayout
    first_page_id : int
        Number of the first page.
    n_pages : int
    salt : int
        The segment's salt, uint32.

    Returns
    -------
    (n_pages, page_bytes) uint8
        Complete pages with their checksums.
    """
    own = places - first_page_id * layout.capacity
    assert len(own) == 0 or 0 <= own.min() <= own.max() < n_pages * layout.capacity, (first_page_id, n_pages)
    pages = np.zeros((n_pages, layout.page_bytes), np.uint8)
    pages.view(layout.page_dtype)[:, 0]["rows"][own // layout.capacity, own % layout.capacity] = rows
    seal_pages(pages.view(np.uint32), pages, first_page_id, np.uint32(salt))
    return pages


def unpack_raw_pages(pages: npt.NDArray[np.uint8], layout: RawLayout) -> npt.NDArray[Any]:
    """Give what stands in every place of pages that were proven (``raw.score``), (places, dim); zeros without a row."""
    return np.asarray(pages.view(layout.page_dtype)[:, 0]["rows"]).reshape(-1, layout.spec.dim)
