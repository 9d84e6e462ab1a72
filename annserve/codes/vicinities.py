"""Codes on the SSD: the vicinities that a query reads, and what pages are worth by the codes in them.

RAM holds page codes alone. They say how far the query lies from every page of its heads; the vicinities of the
nearest few hold the codes of its neighbours, each relative to the decoded centroid of its own page, exactly as they
would lie in RAM. What follows is as in ``rate``: estimates, errors, threshold, worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes import vicinity_kernels
from annserve.codes.layout import NIBBLE_VALUES, table_passes
from annserve.codes.rate import Rating, project_queries, whole_steps
from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinity_layout import FLAG_VICINITY, NO_PLACE, VicinityLayout
from annserve.errors import CorruptionError
from annserve.storage import page_kernels
from annserve.storage.page_kernels import seal_pages

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_WRONG = {
    page_kernels.BAD_CHECKSUM: "its checksum is wrong",
    page_kernels.WRONG_PAGE: "it is a whole page, but of another place or index",
    vicinity_kernels.BAD_COUNT: "its number of rows or its flags don't fit the index",
}


def pack_vicinities(
    places: npt.NDArray[np.uint32], tiers: CodeTiers, layout: VicinityLayout, *, first_page_id: int, salt: int
) -> U8:
    """Write the vicinities of consecutive pages.

    Parameters
    ----------
    places : (p, layout.capacity) uint32
        Rows of each, ascending; `NO_PLACE` behind the last.
    tiers : CodeTiers
        With the codes of rows.
    layout : VicinityLayout
    first_page_id, salt : int

    Returns
    -------
    (p, page_bytes) uint8
    """
    pages = np.zeros((len(places), layout.page_bytes), np.uint8)
    record = pages.view(layout.dtype)[:, 0]
    held = places != NO_PLACE
    counts = held.sum(axis=1)
    assert counts.min(initial=1) >= 1, "a vicinity holds its own page's rows"
    assert (held == (np.arange(places.shape[1]) < counts[:, None])).all(), "rows stand before free slots"
    page, slot = np.divmod(np.where(held, places, 0).astype(np.int64), layout.page_capacity)
    book, capacity = tiers.row_book, layout.page_capacity
    codes = tiers.row_codes[: len(tiers.row_counts) * book.code_bytes * capacity].reshape(-1, book.code_bytes, capacity)
    record["count"], record["flags"] = counts, FLAG_VICINITY
    record["places"] = np.where(held, places, 0)
    record["codes"] = np.where(held[:, None], codes[page, :, slot].transpose(0, 2, 1), 0)
    record["constants"] = np.where(held, tiers.row_factors[page, 0, slot], 0)
    record["shrinks"] = np.where(held, tiers.row_factors[page, 1, slot], 0)
    seal_pages(pages.view(np.uint32), pages, first_page_id, np.uint32(salt))
    return pages


@dataclass(frozen=True)
class NearPages:
    """Every page of a block of queries' heads, and how far it is.

    Attributes
    ----------
    pages : (nq, w) uint32
        Ascending; what lies beyond `sizes` is anything.
    places : (nq, w) int32
        Place of each page's head among the query's heads.
    distances : (nq, w) float32
        Squared distances of the decoded centroids, as exact as tables of 8-bit entries are.
    sizes : (nq,) int64
    measures : (nq,) float32
        Squared distance of the fourth nearest page, or of the farthest of fewer.
    exact : tuple of arrays
        What `Surveyor.rate` takes to make distances exact.
    """

    pages: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int32]
    distances: F32
    sizes: I64
    measures: F32
    exact: tuple[npt.NDArray[Any], ...]

    def within(self, reach: float) -> tuple[npt.NDArray[np.uint32], I64]:
        """Give the pages up to `reach` times the measure, and the offsets of each query's, (nq + 1,).

        At least one for each query, the nearest, where it has any.
        """
        present = np.arange(self.pages.shape[1]) < self.sizes[:, None]
        nearest = np.where(present, self.distances, np.inf).min(axis=1, initial=np.inf)
        limit = np.maximum(self.measures * np.float32(reach), nearest)
        chosen = present & (self.distances <= limit[:, None])
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(chosen.sum(axis=1), out=offsets[1:])
        return self.pages[chosen], offsets


class Surveyor:
    """Finds the pages near queries, and rates them by the vicinities that were read; for one search at a time.

    Parameters
    ----------
    tiers : CodeTiers
        Without the codes of rows.
    page_offsets : (heads + 1,) uint32
        The pages of each head's posting.
    layout : VicinityLayout
    """

    def __init__(self, tiers: CodeTiers, page_offsets: npt.NDArray[np.uint32], layout: VicinityLayout) -> None:
        self._tiers = tiers
        self._page_offsets = page_offsets
        self._layout = layout
        self._posting_max = int(np.diff(page_offsets).max(initial=1))
        self._page_gains = np.ones(tiers.page_book.n_components, np.float32)
        self._sized = (0, 0)
        self._scratch: tuple[npt.NDArray[Any], ...] = ()

    def near_pages(self, queries: F32, head_ids: npt.NDArray[np.int32], head_distances: F32) -> NearPages:
        """Find how far all pages of each query's heads are.

        Parameters
        ----------
        queries : (nq, d) float32
            In the index space.
        head_ids : (nq, h) int32
            In any order; −1 where there is none.
        head_distances : (nq, h) float32
            Exact squared distances to those heads.
        """
        tiers, book, n_queries = self._tiers, self._tiers.page_book, len(queries)
        order = np.argsort(np.where(head_ids < 0, np.iinfo(np.int32).max, head_ids), axis=1)
        head_ids = np.take_along_axis(head_ids, order, axis=1)
        head_distances = np.take_along_axis(head_distances, order, axis=1)
        width = min(head_ids.shape[1] * self._posting_max, len(tiers.row_counts))
        pages, places = np.zeros((n_queries, width), np.uint32), np.zeros((n_queries, width), np.int32)
        distances, measures = np.zeros((n_queries, width), np.float32), np.zeros(n_queries, np.float32)
        sizes = np.zeros(n_queries, np.int64)
        nibbles = np.empty((n_queries, book.n_nibbles, NIBBLE_VALUES), np.float32)
        components, shifts = project_queries(book, queries, tiers.estimate.origin, self._page_gains)
        tier = (self._page_offsets, tiers.page_codes, tiers.page_constants)
        vicinity_kernels.near_pages(
            head_ids,
            head_distances,
            components,
            shifts,
            *tier,
            tiers.page_spreads,
            book.tables,
            (
                np.empty((1, book.n_nibbles, NIBBLE_VALUES), np.uint8),
                np.empty(whole_steps(self._posting_max), np.uint16),
                np.empty(width, np.float32),
                np.empty(vicinity_kernels.MEASURE_RANK, np.float32),
            ),
            nibbles,
            pages,
            places,
            distances,
            sizes,
            measures,
        )
        return NearPages(pages, places, distances, sizes, measures, (head_ids, head_distances, shifts, *tier, nibbles))

    def rate(
        self,
        queries: F32,
        near: NearPages,
        frames: U8,
        frame_pages: npt.NDArray[np.uint32],
        frame_offsets: I64,
        k: int,
        *,
        salt: int,
        path: Path,
        pages_offset: int,
        excluded: I64 | None = None,
    ) -> Rating:
        """Rate the pages whose rows stand in the vicinities that were read.

        Parameters
        ----------
        queries : (nq, d) float32
            In the index space.
        near : NearPages
            Of these queries; distances of rated pages are made exact.
        frames : (≥ p, page_bytes) uint8
            Vicinities as read.
        frame_pages : (p,) uint32
            Frame i holds the vicinity of page ``frame_pages[i]``.
        frame_offsets : (nq + 1,) int64
            Frames of each query.
        k : int
        salt, path, pages_offset
            Of the segment, to prove a vicinity and to name a bad one.
        excluded : (nq,) int64, optional
            Place of a row that isn't counted; −1 for none.

        Returns
        -------
        Rating
            In the order of pages.

        Raises
        ------
        CorruptionError
            If a vicinity is damaged, or isn't the one that was asked for.
        """
        n_queries, layout, estimate = len(queries), self._layout, self._tiers.estimate
        worths = np.empty(near.pages.shape, np.float32)
        bars, thresholds = np.full((2, n_queries), np.inf, np.float32)
        row_codes, bad = np.zeros(n_queries, np.int64), np.zeros(1, np.int64)
        state = vicinity_kernels.rate_vicinities(
            frames.reshape(-1),
            frames,
            frames.view(np.uint32),
            frame_pages,
            frame_offsets,
            (layout.capacity, layout.page_capacity, layout.codes_offset, layout.factors_offset),
            np.uint32(salt),
            *project_queries(self._tiers.row_book, queries, estimate.origin, estimate.gains),
            self._tiers.row_book.tables,
            estimate.shrinks,
            estimate.spreads,
            estimate.scales,
            near.pages,
            near.places,
            near.distances,
            near.sizes,
            near.exact,
            np.full(n_queries, -1, np.int64) if excluded is None else excluded,
            k,
            self._scratch_for(int(np.diff(frame_offsets).max(initial=0)), k),
            worths,
            bars,
            thresholds,
            row_codes,
            bad,
        )
        if state != page_kernels.WHOLE:
            page_id = int(frame_pages[bad[0]])
            raise CorruptionError(
                f"vicinity {page_id} of {path} is damaged: {_WRONG[state]}; run 'annserve verify' to list all damaged "
                "pages, then restore the file or build the index anew",
                path=path,
                offset=pages_offset + page_id * layout.page_bytes,
            )
        looked_at = worths >= 0
        order = np.argsort(~looked_at, axis=1, kind="stable")
        sizes = looked_at.sum(axis=1)
        order = order[:, : max(int(sizes.max(initial=0)), 1)]
        return Rating(
            np.take_along_axis(near.pages, order, axis=1),
            np.maximum(np.take_along_axis(worths, order, axis=1), np.float32(0)),
            np.take_along_axis(near.distances, order, axis=1),
            sizes,
            bars,
            thresholds,
            near.sizes.copy(),
            row_codes,
        )

    def _scratch_for(self, n_frames: int, k: int) -> tuple[npt.NDArray[Any], ...]:
        """Give the scratch for queries of at most `n_frames` vicinities each, grown where this k or they are more."""
        if any(size < need for size, need in zip(self._sized, (n_frames, k))):
            n_frames, k = self._sized = max(self._sized[0], n_frames), max(self._sized[1], k)
            capacity, nibbles = self._layout.capacity, self._tiers.row_book.n_nibbles
            passes = table_passes(self._tiers.row_book.code_bytes)
            rows = n_frames * capacity
            self._scratch = (
                np.empty((nibbles, NIBBLE_VALUES), np.float32),
                np.empty((passes, nibbles, NIBBLE_VALUES), np.uint8),
                np.empty((passes, whole_steps(capacity)), np.uint16),
                np.empty(2 * k, np.float32),
                np.empty(max(64, 1 << (2 * rows).bit_length()), np.uint32),
                np.empty(rows, np.float32),
                np.empty(rows, np.float32),
                np.empty(rows, np.int32),
            )
        return self._scratch


def check_vicinities(
    pages: U8, page_ids: npt.NDArray[np.uint32], row_counts: npt.NDArray[np.uint16], layout: VicinityLayout, salt: int
) -> list[str]:
    """Prove vicinities: whole, the right ones, of rows that exist, each once, all of their own page among them.

    Parameters
    ----------
    pages : (p, page_bytes) uint8
    page_ids : (p,) uint32
        The pages that were asked for.
    row_counts : (pages,) uint16
        Rows of every posting page.
    layout : VicinityLayout
    salt : int

    Returns
    -------
    list of str
        One line for each that isn't what it should be.
    """
    states = np.empty(len(page_ids), np.uint8)
    page_kernels.check_seals(pages, pages.view(np.uint32), page_ids, np.uint32(salt), states)
    problems = []
    for state, record, page_id in zip(states, pages.view(layout.dtype)[:, 0], page_ids):
        wrong = _WRONG.get(int(state), "")
        if not wrong and not (1 <= record["count"] <= layout.capacity and record["flags"] == FLAG_VICINITY):
            wrong = _WRONG[vicinity_kernels.BAD_COUNT]
        elif not wrong:
            places = record["places"][: record["count"]].astype(np.int64)
            page, slot = np.divmod(places, layout.page_capacity)
            if (np.diff(places) <= 0).any() or page[-1] >= len(row_counts) or (slot >= row_counts[page]).any():
                wrong = "its rows don't rise, or don't exist"
            elif (page == page_id).sum() != row_counts[page_id]:
                wrong = "rows of its own page are missing"
        if wrong:
            problems.append(f"vicinity {page_id}: {wrong}")
    return problems
