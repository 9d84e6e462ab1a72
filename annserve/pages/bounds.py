"""Rows on pages in memory that may be among the k nearest, once what INT8 did to them is allowed for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.pages import bound_kernels
from annserve.pages.rows import QuantizedQueries
from annserve.pages.score import Frames


@dataclass(frozen=True)
class Candidates:
    """Rows of a block of queries, by query; a query holds an id once.

    Attributes
    ----------
    query : (c,) int64
        Number of the query, ascending.
    ids : (c,) uint64
    places : (c,) int64
        Posting page · capacity + slot.
    distances : (c,) float64
        Expected from what is stored.
    decided : (c,) bool
        Among the k nearest in any case.
    """

    query: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    decided: npt.NDArray[np.bool_]

    def take(self, which: npt.NDArray[Any]) -> Candidates:
        """Give some of them."""
        return Candidates(
            self.query[which], self.ids[which], self.places[which], self.distances[which], self.decided[which]
        )

    def of_query(self, number: int) -> Candidates:
        """Give them as those of the query of this number."""
        return replace(self, query=np.full(len(self.ids), number))

    def and_these(self, *others: Candidates) -> Candidates:
        """Give them and further ones, by query; a row that two of them hold, a replica's, comes once."""
        columns = [getattr(one, field.name) for field in fields(self) for one in (self, *others)]
        width = len(others) + 1
        whole = Candidates(*(np.concatenate(columns[at : at + width]) for at in range(0, len(columns), width)))
        return _once(whole)


def find_candidates(
    frames: Frames,
    page_ids: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    queries: QuantizedQueries,
    query_errors: npt.NDArray[np.float64],
    k: int,
    *,
    metric: int,
    share: float,
) -> Candidates:
    """Find the rows that may be among the k nearest of each query.

    Parameters
    ----------
    frames : Frames
        As ``Frames.score`` has checked them.
    page_ids : (p,) uint32
        Frame i holds page ``page_ids[i]``.
    offsets : (nq + 1,) int64
        Frames of query i: ``offsets[i] … offsets[i + 1] - 1``.
    queries : QuantizedQueries
    query_errors : (nq,) float64
        From ``rounding_of_queries``.
    k : int
    metric : int
        One of ``annserve.metric``'s codes.
    share : float
        Share of the worst case of a row's error that is allowed for, 0 … 1. At 1, every row that is among the k
        nearest of those on the pages is a candidate, and every row called decided is among them.

    Returns
    -------
    Candidates
    """
    layout = frames.layout
    n_rows = int(offsets[-1]) * layout.capacity
    ids, places = np.empty(n_rows, np.uint64), np.empty(n_rows, np.int64)
    distances, decided = np.empty(n_rows), np.empty(n_rows, bool)
    largest = int(np.diff(offsets).max(initial=0)) * layout.capacity
    lows, highs = np.empty(largest), np.empty(largest)
    heap_limits, heap_ids = np.empty(k + 1), np.empty(k + 1, np.uint64)
    counts = np.zeros(len(offsets) - 1, np.int64)
    end = 0
    for i in range(len(counts)):
        counts[i] = bound_kernels.find_candidates(
            *frames.views[1:],
            page_ids,
            offsets[i],
            offsets[i + 1],
            layout.capacity,
            layout.dim,
            layout.ids_offset,
            layout.factors_offset if layout.has_factors else 0,
            layout.rows_offset,
            queries.elements[i],
            queries.scales[i],
            queries.norms[i],
            query_errors[i],
            metric,
            share,
            k,
            lows,
            highs,
            heap_limits,
            heap_ids,
            ids[end:],
            places[end:],
            distances[end:],
            decided[end:],
        )
        end += int(counts[i])
    query = np.repeat(np.arange(len(counts)), counts)
    return _once(Candidates(query, ids[:end], places[:end], distances[:end], decided[:end]))


def _once(found: Candidates) -> Candidates:
    """Of a row that lies on several pages of a query, one is enough."""
    order = np.lexsort((found.places, found.ids, found.query))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(found.query[order]) != 0) | (found.ids[order][1:] != found.ids[order][:-1])
    return found.take(order[first])


def rounding_of_queries(
    queries: npt.NDArray[Any], quantized: QuantizedQueries, *, of_directions: bool
) -> npt.NDArray[np.float64]:
    """Say how far queries lie from their integers, rounded up; (nq,) float64.

    Parameters
    ----------
    queries : (nq, dim) array
    quantized : QuantizedQueries
        Of them.
    of_directions : bool
        Compare directions instead, as cosine does.
    """
    exact = queries.astype(np.float64)
    stored = quantized.elements * quantized.scales[:, None]
    if of_directions:
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    errors = np.linalg.norm(exact - stored, axis=1)
    return np.asarray(errors * (1 + 1e-12) + 1e-15 * np.linalg.norm(stored, axis=1), np.float64)
