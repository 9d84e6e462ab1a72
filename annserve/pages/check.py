"""Proof of pages that were read: whole, the right ones, and which rows they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.pages import kernels
from annserve.pages.layout import FLAG_FACTORS, HEADER, REPLICAS_SHIFT, PageLayout
from annserve.storage.checksum import crc32c


@dataclass(frozen=True)
class RowsFound:
    """Rows on whole pages, in page order.

    Attributes
    ----------
    ids : (r,) uint64
    at_home : (r,) bool
        False for a replica, whose row is at home on another page.
    seals : (r,) uint32
        Sums of the rows as stored: equal for copies of a row.
    """

    ids: npt.NDArray[np.uint64]
    at_home: npt.NDArray[np.bool_]
    seals: npt.NDArray[np.uint32]


def check_pages(
    pages: npt.NDArray[np.uint8], page_ids: npt.NDArray[np.uint32], layout: PageLayout, salt: int
) -> tuple[npt.NDArray[np.uint64], list[str]]:
    """Prove pages and collect the ids of their rows, replicas too; arguments and problems as in `check_rows`."""
    found, problems = check_rows(pages, page_ids, layout, salt)
    return found.ids, problems


def check_rows(
    pages: npt.NDArray[np.uint8], page_ids: npt.NDArray[np.uint32], layout: PageLayout, salt: int
) -> tuple[RowsFound, list[str]]:
    """Prove pages and tell their rows.

    Parameters
    ----------
    pages : (p, page_bytes) uint8
    page_ids : (p,) uint32
        The pages that were asked for.
    layout : PageLayout
    salt : int
        Of the segment.

    Returns
    -------
    found : RowsFound
    problems : list of str
        One line per page that isn't what it should be.
    """
    headers = pages[:, : HEADER.itemsize].copy().view(HEADER)[:, 0]
    problems, good = [], np.ones(len(pages), bool)
    for i, (page, header) in enumerate(zip(pages, headers)):
        expected = int(header["crc32c"])
        found = crc32c(page[4:])
        wrong = ""
        if expected != found:
            wrong = f"checksum {expected:08x} expected, {found:08x} found"
        elif header["page_id"] != page_ids[i] or header["salt"] != salt:
            wrong = f"it is page {header['page_id']} of segment {header['salt']:08x}"
        elif not 1 <= header["count"] <= layout.capacity or not _flags_fit(header, layout):
            wrong = f"{header['count']} rows and flags {header['flags']} don't fit the layout"
        if wrong:
            problems.append(f"page {page_ids[i]}: {wrong}")
            good[i] = False
    pages, headers = pages[good], headers[good]
    counts = headers["count"].astype(np.int64)
    stop = layout.ids_offset + 8 * layout.capacity
    ids = np.ascontiguousarray(pages[:, layout.ids_offset : stop]).view("<u8")
    slots = np.arange(layout.capacity)
    held = slots < counts[:, None]
    at_home = slots < (counts - (headers["flags"] >> REPLICAS_SHIFT))[:, None]
    seals = np.empty(counts.sum(), np.uint32)
    kernels.seal_rows(
        pages,
        counts,
        layout.capacity,
        layout.dim,
        layout.factors_offset if layout.has_factors else 0,
        layout.rows_offset,
        seals,
    )
    return RowsFound(ids[held], at_home[held], seals), problems


def _flags_fit(header: np.void, layout: PageLayout) -> bool:
    flags = int(header["flags"])
    return flags & FLAG_FACTORS == layout.flags and flags >> REPLICAS_SHIFT <= header["count"]
