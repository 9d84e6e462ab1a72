"""Answers held against every row of an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from annserve.confidence import RecallBounds, recall_bounds
from annserve.results import SearchResult

#: Queries that share one reading of the index: more would make the time between two pauses long.
SCAN_QUERIES = 32


class Measurable(Protocol):
    """What is needed of a collection; ``annserve.collection.Collection`` is one."""

    def search(self, queries: npt.NDArray[Any], k: int, *, recall_target: float) -> SearchResult:
        """Find the `k` nearest rows of each query."""

    def search_exact(self, queries: npt.NDArray[Any], k: int, *, between: Callable[[], None]) -> SearchResult:
        """Find them by scoring every row, calling back between batches of pages."""


@dataclass(frozen=True)
class Measured:
    """What share of their neighbours some queries found.

    Attributes
    ----------
    k : int
    recall_target : float
    bounds : RecallBounds
    query_recalls : (nq,) float32
    pages_mean : float
        Read a query.
    """

    k: int
    recall_target: float
    bounds: RecallBounds
    query_recalls: npt.NDArray[np.float32]
    pages_mean: float


def measure_recall(
    collection: Measurable,
    queries: npt.NDArray[Any],
    k: int,
    recall_target: float,
    *,
    confidence: float = 0.95,
    between: Callable[[], None] = lambda: None,
) -> Measured:
    """Ask queries, and hold the answers against every row.

    Parameters
    ----------
    collection : Measurable
    queries : (nq, dim) array
        nq ≥ 1.
    k : int
    recall_target : float
        What is asked for.
    confidence : float
        Of the bounds.
    between : callable
        Called some milliseconds apart while rows are scored; it may wait, or raise to end the measurement.

    Returns
    -------
    Measured

    Raises
    ------
    InputError, ReadError, CorruptionError
        As of the collection.
    """
    answered = collection.search(queries, k, recall_target=recall_target)
    hits = hits_of(collection, queries, answered.ids, answered.distances, between)
    return Measured(
        k=k,
        recall_target=recall_target,
        bounds=recall_bounds(hits, np.full(len(hits), k), confidence),
        query_recalls=(hits / k).astype(np.float32),
        pages_mean=float(answered.stats.pages_read.mean()),
    )


def hits_of(
    collection: Measurable,
    queries: npt.NDArray[Any],
    ids: npt.NDArray[np.uint64],
    distances: npt.NDArray[np.float32],
    between: Callable[[], None],
) -> npt.NDArray[np.int64]:
    """Count the true neighbours in answers.

    Parameters
    ----------
    collection : Measurable
    queries : (nq, dim) array
    ids : (nq, k) uint64
        What was answered.
    distances : (nq, k) float32
        A row exactly as far away as the k-th true neighbour is as right as that.
    between : callable

    Returns
    -------
    (nq,) int64
    """
    k = ids.shape[1]
    hits = np.zeros(len(queries), np.int64)
    for first in range(0, len(queries), SCAN_QUERIES):
        block = slice(first, first + SCAN_QUERIES)
        truth = collection.search_exact(queries[block], k, between=between)
        named = (ids[block, :, None] == truth.ids[:, None, :]).any(axis=2)
        hits[block] = (named | (distances[block] == truth.distances[:, -1:])).sum(axis=1)
    return hits
