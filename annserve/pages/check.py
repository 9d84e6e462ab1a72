"""Proof of pages that were read: whole, the right ones, and which rows they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.pages.layout import HEADER, PageLayout
from annserve.storage.checksum import crc32c


def check_pages(
    pages: npt.NDArray[np.uint8], page_ids: npt.NDArray[np.uint32], layout: PageLayout, salt: int
) -> tuple[npt.NDArray[np.uint64], list[str]]:
    """Prove pages and collect the ids of their rows.

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
    ids : (r,) uint64
        Of the rows on whole pages, in page order.
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
        elif not 1 <= header["count"] <= layout.capacity or header["flags"] != layout.flags:
            wrong = f"{header['count']} rows and flags {header['flags']} don't fit the layout"
        if wrong:
            problems.append(f"page {page_ids[i]}: {wrong}")
            good[i] = False
    stop = layout.ids_offset + 8 * layout.capacity
    ids = np.ascontiguousarray(pages[:, layout.ids_offset : stop]).view("<u8")
    held = np.arange(layout.capacity) < headers["count"][:, None]
    return ids[held & good[:, None]], problems
