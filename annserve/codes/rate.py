"""From a query and its nearest heads to pages and what they are worth: how many of its k nearest each should hold.

Nothing is read for it. The probability that a row is among the k nearest is Φ((t − estimate) / error), with t the
distance within which k rows are expected; a page is worth the sum over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes import centroid_kernels, rating_kernels
from annserve.codes.layout import NIBBLE_VALUES, SCAN_ROWS, Codebook, table_passes
from annserve.codes.tiers import CodeTiers

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Skip:
    """Which pages aren't worth a look at their rows' codes.

    Attributes
    ----------
    terms : (8,) float32
        Regression of log expected hits (``rating_kernels``).
    below : float
        Pages that promise fewer expected hits, as a logarithm, are passed over; −inf passes over none.
    """

    terms: F32
    below: float


#: Looks at every page.
SKIP_NONE = Skip(np.zeros(8, np.float32), -np.inf)


@dataclass(frozen=True)
class Rating:
    """Pages of a block of queries whose rows' codes were looked at, nearest decoded centroid first.

    Attributes
    ----------
    pages : (nq, w) uint32
        What lies beyond `sizes` is anything.
    worths : (nq, w) float32
        Expected hits on each; 0 beyond `sizes`.
    distances : (nq, w) float32
        Squared distances of the decoded centroids.
    sizes : (nq,) int64
    bars : (nq,) float32
        2k-th smallest estimate on the first pages: a first, rough threshold.
    thresholds : (nq,) float32
        Estimated squared distance of the k-th nearest row.
    page_codes, row_codes : (nq,) int64
        Codes looked at.
    """

    pages: npt.NDArray[np.uint32]
    worths: F32
    distances: F32
    sizes: npt.NDArray[np.int64]
    bars: F32
    thresholds: F32
    page_codes: npt.NDArray[np.int64]
    row_codes: npt.NDArray[np.int64]


class Rater:
    """Rates pages of one segment, for one search at a time.

    Parameters
    ----------
    tiers : CodeTiers
    page_offsets : (heads + 1,) uint32
        The pages of each head's posting.
    """

    def __init__(self, tiers: CodeTiers, page_offsets: npt.NDArray[np.uint32]) -> None:
        self._tiers = tiers
        self._posting_max = int(np.diff(page_offsets).max(initial=1))
        estimate, page_book, row_book = tiers.estimate, tiers.page_book, tiers.row_book
        no_gains = np.ones(page_book.n_components, np.float32)
        #: What kernels take: what queries are taken from, what is known of pages, and of rows.
        self.tiers = (
            estimate.origin,
            (
                axes_of(page_book, no_gains),
                page_book.tables,
                page_offsets,
                tiers.page_codes,
                tiers.page_constants,
                tiers.page_spreads,
            ),
            (
                axes_of(row_book, estimate.gains),
                row_book.tables,
                tiers.row_counts,
                tiers.row_codes,
                tiers.row_factors,
                estimate.shrinks,
                estimate.spreads,
                estimate.scales,
            ),
        )
        self._sized = (0, 0, 0)
        self._scratch: tuple[tuple[npt.NDArray[Any], ...], ...] = ()

    def rate(
        self,
        queries: F32,
        head_ids: npt.NDArray[np.int32],
        head_distances: F32,
        k: int,
        *,
        pages_max: int,
        skip: Skip = SKIP_NONE,
        excluded: npt.NDArray[np.int64] | None = None,
    ) -> Rating:
        """Rate the pages of each query's heads.

        Parameters
        ----------
        queries : (nq, d) float32
            In the index space.
        head_ids : (nq, h) int32
            In any order; −1 where there is none, which comes last.
        head_distances : (nq, h) float32
            Exact squared distances to those heads.
        k : int
        pages_max : int
            Most pages whose row codes are looked at.
        skip : Skip
        excluded : (nq, 2) int64, optional
            Page and slot of a row that isn't counted; −1 for none.

        Returns
        -------
        Rating
        """
        n_queries = len(queries)
        n_pages = self.pages_at_most(head_ids.shape[1])
        width = min(pages_max, n_pages)
        pages = np.zeros((n_queries, width), np.uint32)
        worths, distances = np.zeros((2, n_queries, width), np.float32)
        sizes = np.zeros(n_queries, np.int64)
        bars, thresholds = np.full((2, n_queries), np.inf, np.float32)
        looked_at = np.zeros((n_queries, 2), np.int64)
        if excluded is None:
            excluded = np.full((n_queries, 2), -1, np.int64)
        rating_kernels.rate_pages(
            np.ascontiguousarray(queries),
            head_ids,
            head_distances,
            self.tiers,
            np.ascontiguousarray(excluded),  # one way to lie is one kernel to compile
            k,
            width,
            skip.terms,
            np.float32(skip.below),
            self.scratch(n_pages, width, k),
            pages,
            worths,
            distances,
            sizes,
            bars,
            thresholds,
            looked_at,
        )
        return Rating(pages, worths, distances, sizes, bars, thresholds, looked_at[:, 0], looked_at[:, 1])

    def pages_at_most(self, n_heads: int) -> int:
        """Give how many pages so many heads may have."""
        return min(n_heads * self._posting_max, len(self._tiers.row_counts))

    def scratch(self, n_pages: int, n_scanned: int, k: int) -> tuple[tuple[npt.NDArray[Any], ...], ...]:
        """Give the kernels' scratch, grown where this request is larger than those before."""
        if any(size < need for size, need in zip(self._sized, (n_pages, n_scanned, k))):
            self._sized = (max(n_pages, self._sized[0]), max(n_scanned, self._sized[1]), max(k, self._sized[2]))
            n_pages, n_scanned, k = self._sized
            capacity = self._tiers.row_factors.shape[2]
            page_nibbles, row_nibbles = self._tiers.page_book.n_nibbles, self._tiers.row_book.n_nibbles
            passes = table_passes(self._tiers.row_book.code_bytes)
            f32, i32, u8, u16 = np.float32, np.int32, np.uint8, np.uint16
            components = max(self._tiers.page_book.n_components, self._tiers.row_book.n_components)
            tables = (
                np.empty(components, f32),
                np.empty((page_nibbles, NIBBLE_VALUES), f32),
                np.empty((1, page_nibbles, NIBBLE_VALUES), u8),
                np.empty(whole_steps(self._posting_max), u16),
                np.empty((row_nibbles, NIBBLE_VALUES), f32),
                np.empty((passes, row_nibbles, NIBBLE_VALUES), u8),
                np.empty((passes, whole_steps(capacity)), u16),
                np.empty(centroid_kernels.BUCKETS + 2, i32),
                np.empty(2 * k, f32),
            )
            log_ranks = np.log1p(np.arange(n_pages, dtype=f32))
            near_pages = (*(np.empty(n_pages, kind) for kind in (np.uint32, i32, f32, f32, i32, f32, f32)), log_ranks)
            rows = (
                np.empty(n_scanned, f32),
                *(np.empty(n_scanned * capacity, kind) for kind in (f32, f32, f32, i32)),
            )
            self._scratch = (tables, near_pages, rows)
        return self._scratch


def best_pages(
    rating: Rating,
    hits_wanted: npt.NDArray[np.float64],
    worth_enough: float,
    row_counts: npt.NDArray[np.uint16],
    rows_least: int,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Take each query's best pages until they promise enough hits, and hold enough rows.

    Parameters
    ----------
    rating : Rating
        Not to be used by another thread meanwhile.
    hits_wanted : (nq,) float64
        What the worths of a query's pages must add up to, where all its pages promise so much.
    worth_enough : float
        A page worth more is taken in any case.
    row_counts : (pages,) uint16
    rows_least : int
        Rows that a query's pages must hold, where it has rated so many.

    Returns
    -------
    pages : (p,) uint32
        End to end, ascending for each query; at least one where any was rated.
    offsets : (nq + 1,) int64
        Query i takes ``pages[offsets[i] : offsets[i + 1]]``.
    """
    n_queries, width = rating.pages.shape
    pages = np.empty(n_queries * width, np.uint32)
    offsets = np.empty(n_queries + 1, np.int64)
    rating_kernels.best_pages(
        rating.pages,
        rating.worths,
        rating.sizes,
        row_counts,
        hits_wanted,
        float(worth_enough),
        rows_least,
        np.empty(width, np.int64),
        np.empty(width, np.float32),
        pages,
        offsets,
    )
    return pages[: offsets[-1]], offsets


def project_queries(book: Codebook, queries: F32, origin: F32, gains: F32) -> tuple[F32, F32]:
    """Give each query's components, (nq, m), and its inner product with the codebook's mean, (nq,)."""
    components = np.empty((len(queries), book.n_components), np.float32)
    shifts = np.empty(len(queries), np.float32)
    centroid_kernels.project(np.ascontiguousarray(queries), origin, axes_of(book, gains), components, shifts)
    return components, shifts


def axes_of(book: Codebook, gains: F32) -> tuple[F32, F32, F32]:
    """Give what kernels project queries by, each component times its gain."""
    return book.synthesis, gains, book.mean


def whole_steps(rows: int) -> int:
    """Round up to what whole steps of a scan write."""
    return -(-rows // SCAN_ROWS) * SCAN_ROWS
