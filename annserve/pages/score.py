"""Exact scores of the rows on pages that were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError
from annserve.pages import kernels
from annserve.pages.kernels import NO_ID as NO_ID
from annserve.pages.layout import PageLayout
from annserve.pages.rows import QuantizedQueries
from annserve.storage.page_kernels import BAD_CHECKSUM, WRONG_PAGE

_WRONG = {
    BAD_CHECKSUM: "its checksum is wrong",
    WRONG_PAGE: "it is a whole page, but of another place or index",
    kernels.BAD_COUNT: "its number of rows or its flags don't fit the index",
}


_NOT_ASKED = np.empty(0)


@dataclass(frozen=True)
class PageFacts:
    """What it takes to score pages of a segment, and to name a bad one.

    Parameters
    ----------
    layout : PageLayout
    metric : int
        One of ``annserve.metric``'s codes.
    salt, path, pages_offset
        Of the segment.

    Attributes
    ----------
    numbers : (7,) int64
        As kernels take it.
    """

    layout: PageLayout
    metric: int
    salt: int
    path: Path
    pages_offset: int
    numbers: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        layout = self.layout
        factors = layout.factors_offset if layout.has_factors else 0
        sizes = layout.capacity, layout.dim, layout.ids_offset, factors, layout.rows_offset
        object.__setattr__(self, "numbers", np.array([self.salt, *sizes, self.metric], np.int64))

    def damaged(self, state: int, page_id: int) -> CorruptionError:
        """Make the error for a page of which scoring said something other than `GOOD`."""
        return CorruptionError(
            f"page {page_id} of {self.path} is damaged: {_WRONG[state]}; run 'annserve verify' to list all "
            "damaged pages, then restore the file or build the index anew",
            path=self.path,
            offset=self.pages_offset + page_id * self.layout.page_bytes,
        )


@dataclass
class Frames:
    """Memory that pages are read into, with the views that kernels need; for one search at a time.

    Parameters
    ----------
    memory : (f, page_bytes) uint8
        Page-aligned.
    layout : PageLayout

    Attributes
    ----------
    views : tuple of arrays
        The memory as bytes, uint32, uint64, float32 and elements of rows, as kernels take it.
    rows : (f, …) uint8 or int8
        The last of them.
    """

    memory: npt.NDArray[np.uint8]
    layout: PageLayout
    views: tuple[npt.NDArray[np.generic], ...] = field(init=False, repr=False)
    rows: npt.NDArray[np.generic] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        memory = self.memory
        self.views = (
            memory,
            memory.view(np.uint32),
            memory.view(np.uint64),
            memory.view(np.float32),
            memory.view(self.layout.dtype),
        )
        self.rows = self.views[-1]

    def __len__(self) -> int:
        return len(self.memory)

    def score(
        self,
        page_ids: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        queries: QuantizedQueries,
        k: int,
        facts: PageFacts,
        nearest: npt.NDArray[np.float64] | None = None,
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Find the k nearest rows of each query on its pages.

        Parameters
        ----------
        page_ids : (p,) uint32
            Frame i holds page ``page_ids[i]``.
        offsets : (nq + 1,) int64
            Frames of query i: ``offsets[i] … offsets[i + 1] - 1``.
        queries : QuantizedQueries
        k : int
        facts : PageFacts
            Of the segment.
        nearest : (p,) float64, optional
            Filled with the distance of the nearest row on each frame.

        Returns
        -------
        ids : (nq, k) uint64
            Nearest first, ties by id; `NO_ID` where there were fewer rows.
        distances : (nq, k) float64
            Infinity where there were fewer rows.
        scored : (nq,) int64
            Rows whose distance was computed.

        Raises
        ------
        CorruptionError
            If a page is damaged, or isn't the one that was asked for.
        """
        n_queries = len(offsets) - 1
        ids = np.empty((n_queries, k), np.uint64)
        distances = np.empty((n_queries, k))
        counts = np.empty((n_queries, 3), np.int64)
        state, bad = kernels.score_pages(
            self.memory,
            self.rows,
            page_ids,
            offsets,
            facts.numbers,
            queries.elements,
            queries.scales,
            queries.norms,
            k,
            _NOT_ASKED if nearest is None else nearest,
            distances,
            ids,
            counts,
        )
        if state != kernels.GOOD:
            raise facts.damaged(state, int(page_ids[counts[bad, 2]]))
        return ids, distances, counts[:, 0]
