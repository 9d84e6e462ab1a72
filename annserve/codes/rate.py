"""From a query and its nearest heads to pages and what they are worth: how many of its k nearest each should hold.

Nothing is read for it. The probability that a row is among the k nearest is Φ((t − estimate) / error), with t the
distance within which k rows are expected; a page is worth the sum over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes import rating_kernels
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


@dataclass
class RateScratch:
    """What one thread needs to rate; grows to the largest request."""

    tiers: CodeTiers
    _arrays: tuple[npt.NDArray[Any], ...] = ()
    _sized: tuple[int, int, int] = field(default=(0, 0, 0))

    def arrays(self, n_pages: int, n_scanned: int, k: int) -> tuple[npt.NDArray[Any], ...]:
        """Give the arrays for `n_pages` page codes, `n_scanned` pages of row codes and this k."""
        wanted = (n_pages, n_scanned, k)
        if any(size < need for size, need in zip(self._sized, wanted)):
            n_pages, n_scanned, k = (max(size, need) for size, need in zip(self._sized, wanted))
            self._sized = (n_pages, n_scanned, k)
            capacity = self.tiers.row_factors.shape[2]
            rows = n_scanned * capacity
            page_bytes = self.tiers.page_book.code_bytes
            row_nibbles = self.tiers.row_book.n_nibbles
            passes = table_passes(self.tiers.row_book.code_bytes)
            f32, i64 = np.float32, np.int64
            self._arrays = (
                np.empty((2 * page_bytes, NIBBLE_VALUES), f32),
                np.empty((page_bytes, 256), f32),
                np.empty((row_nibbles, NIBBLE_VALUES), f32),
                np.empty((passes, row_nibbles, NIBBLE_VALUES), np.uint8),
                np.empty(rating_kernels.BUCKETS + 2, i64),
                np.empty(n_pages, i64),
                np.empty(n_pages, f32),
                np.empty(n_pages, i64),
                np.empty((passes, -(-capacity // SCAN_ROWS) * SCAN_ROWS), np.uint16),
                np.empty(2 * k, f32),
                *(np.empty(rows, dtype) for dtype in (f32, f32, np.int32, f32, f32, np.int32)),
            )
        return self._arrays


def rate(
    tiers: CodeTiers,
    page_offsets: npt.NDArray[np.uint32],
    queries: F32,
    head_ids: npt.NDArray[np.int32],
    head_distances: F32,
    k: int,
    scratch: RateScratch,
    *,
    pages_max: int,
    skip: Skip = SKIP_NONE,
    excluded: npt.NDArray[np.int64] | None = None,
) -> Rating:
    """Rate the pages of each query's heads.

    Parameters
    ----------
    tiers : CodeTiers
    page_offsets : (heads + 1,) uint32
    queries : (nq, d) float32
        In the index space.
    head_ids : (nq, h) int32
        Nearest first; −1 where there is none.
    head_distances : (nq, h) float32
        Exact squared distances to those heads.
    k : int
    scratch : RateScratch
        Of this thread.
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
    counts = np.diff(page_offsets.astype(np.int64))
    n_pages = int(np.where(head_ids >= 0, counts[head_ids], 0).sum(axis=1).max(initial=1))
    width = min(pages_max, n_pages)
    pages = np.zeros((n_queries, width), np.uint32)
    worths, distances = np.zeros((2, n_queries, width), np.float32)
    sizes = np.zeros(n_queries, np.int64)
    bars, thresholds = np.full((2, n_queries), np.inf, np.float32)
    looked_at = np.zeros((n_queries, 2), np.int64)
    none = np.full(n_queries, -1, np.int64)
    excluded_pages, excluded_slots = (none, none) if excluded is None else np.ascontiguousarray(excluded.T)
    estimate = tiers.estimate
    rating_kernels.rate_pages(
        head_ids,
        head_distances,
        *_project(tiers.page_book, queries, estimate.origin, np.ones(tiers.page_book.n_components, np.float32)),
        *_project(tiers.row_book, queries, estimate.origin, estimate.gains),
        page_offsets,
        tiers.page_codes,
        tiers.page_constants,
        _fields(tiers.page_book),
        tiers.row_counts,
        tiers.row_codes,
        tiers.row_factors,
        _fields(tiers.row_book),
        tiers.page_spreads,
        estimate.shrinks,
        estimate.spreads,
        estimate.scales,
        excluded_pages,
        excluded_slots,
        k,
        width,
        skip.terms,
        np.float32(skip.below),
        scratch.arrays(n_pages, width, k),
        pages,
        worths,
        distances,
        sizes,
        bars,
        thresholds,
        looked_at,
    )
    return Rating(pages, worths, distances, sizes, bars, thresholds, looked_at[:, 0], looked_at[:, 1])


def best_pages(
    rating: Rating, hits_wanted: float, row_counts: npt.NDArray[np.uint16], rows_least: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Take each query's best pages until they promise enough hits, and hold enough rows.

    Parameters
    ----------
    rating : Rating
    hits_wanted : float
        What the worths of a query's pages must add up to, where all its pages promise so much.
    row_counts : (pages,) uint16
    rows_least : int
        Rows that a query's pages must hold, where it has rated so many.

    Returns
    -------
    pages : (nq, w) uint32
        Best first.
    counts : (nq,) int64
        How many of them are taken, at least one where any was rated.
    """
    pages = np.empty_like(rating.pages)
    counts = np.empty(len(pages), np.int64)
    rating_kernels.best_pages(
        rating.pages, rating.worths.copy(), rating.sizes, row_counts, float(hits_wanted), rows_least, pages, counts
    )
    return pages, counts


def _project(book: Codebook, queries: F32, origin: F32, gains: F32) -> tuple[F32, F32]:
    components = np.empty((len(queries), book.n_components), np.float32)
    shifts = np.empty(len(queries), np.float32)
    rating_kernels.project(queries, origin, book.synthesis, gains, book.mean, components, shifts)
    return components, shifts


def _fields(book: Codebook) -> tuple[npt.NDArray[Any], ...]:
    return (book.field_component, book.field_nibble, book.field_shift, book.field_bits, book.field_levels)
