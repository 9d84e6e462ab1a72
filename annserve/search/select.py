"""Which pages a block of queries reads: all of them chosen before any is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PageSelection:
    """Pages of a block of queries, end to end.

    Attributes
    ----------
    page_ids : (p,) uint32
        Ascending within a query, so that neighbouring pages can share a read.
    offsets : (nq + 1,) int64
        Query i reads ``page_ids[offsets[i] : offsets[i + 1]]``.
    """

    page_ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]


def select_pages(
    head_ids: npt.NDArray[np.int32], probes: npt.NDArray[np.int64], page_offsets: npt.NDArray[np.uint32]
) -> PageSelection:
    """Take the pages of each query's first heads.

    Parameters
    ----------
    head_ids : (nq, w) int32
        Nearest first; −1 where there is none.
    probes : (nq,) int64
        Heads whose postings are probed.
    page_offsets : (h + 1,) uint32

    Returns
    -------
    PageSelection
    """
    probed = (np.arange(head_ids.shape[1]) < probes[:, None]) & (head_ids >= 0)
    query_of, column = np.nonzero(probed)
    heads = head_ids[query_of, column]
    first = page_offsets[heads].astype(np.int64)
    counts = page_offsets[heads + 1].astype(np.int64) - first
    starts = np.cumsum(counts) - counts
    pages = np.repeat(first - starts, counts) + np.arange(counts.sum())
    query_of_page = np.repeat(query_of, counts)
    order = np.lexsort((pages, query_of_page))
    offsets = np.zeros(len(head_ids) + 1, np.int64)
    np.cumsum(np.bincount(query_of_page, minlength=len(head_ids)), out=offsets[1:])
    return PageSelection(pages[order].astype(np.uint32), offsets)
