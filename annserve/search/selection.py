"""Which pages a block of queries reads: all of them chosen before any is read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rating, best_pages
from annserve.results import SearchStats
from annserve.search.count_kernels import count_costs
from annserve.storage.pagefile import pages_per_read


class PageSelection(NamedTuple):
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

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Pages of each query, (nq,) int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def costs(self, page_bytes: int, chosen: PageSelection | None = None) -> npt.NDArray[np.int64]:
        """Count pages, reads, bytes and cached pages of each query, as if it had been alone.

        Parameters
        ----------
        page_bytes : int
        chosen : PageSelection, optional
            What all of this was chosen for; pages of it that aren't here were cached.

        Returns
        -------
        (8, nq) int64
            One row for each of ``SearchStats.COUNTS``; zeros in those that a selection doesn't know of.
        """
        counts = np.empty((len(SearchStats.COUNTS), len(self.offsets) - 1), np.int64)
        chosen_offsets = (chosen or self).offsets
        count_costs(self.page_ids, self.offsets, chosen_offsets, pages_per_read(page_bytes), page_bytes, counts)
        return counts


def pages_of_heads(
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
    """
    probed = (np.arange(head_ids.shape[1]) < probes[:, None]) & (head_ids >= 0)
    query_of, column = np.nonzero(probed)
    heads = head_ids[query_of, column]
    first = page_offsets[heads].astype(np.int64)
    counts = page_offsets[heads + 1].astype(np.int64) - first
    pages = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return _selection(np.repeat(query_of, counts), pages, len(head_ids))


def pages_worth_reading(
    rating: Rating,
    hits_wanted: npt.NDArray[np.float64],
    worth_enough: float,
    row_counts: npt.NDArray[np.uint16],
    rows_least: int,
) -> PageSelection:
    """Take each query's best pages until they promise enough hits, and hold enough rows.

    Parameters
    ----------
    rating : Rating
    hits_wanted : (nq,) float64
        What the worths of a query's pages must add up to, where all its pages promise so much.
    worth_enough : float
        A page worth more is taken in any case.
    row_counts : (pages,) uint16
    rows_least : int
        Rows that a query's pages must hold, where it has rated so many.
    """
    return PageSelection(*best_pages(rating, hits_wanted, worth_enough, row_counts, rows_least))


def ranked(rating: Rating) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Order each query's pages by falling worth; give order and running sum of worths, both (nq, w)."""
    order = np.argsort(-rating.worths, axis=1, kind="stable")
    return order, np.cumsum(np.take_along_axis(rating.worths, order, axis=1), axis=1)


def _selection(query_of: npt.NDArray[np.int64], pages: npt.NDArray[Any], n_queries: int) -> PageSelection:
    order = np.lexsort((pages, query_of))
    offsets = np.zeros(n_queries + 1, np.int64)
    np.cumsum(np.bincount(query_of, minlength=n_queries), out=offsets[1:])
    return PageSelection(pages[order].astype(np.uint32), offsets)
