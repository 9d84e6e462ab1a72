"""What MeasureRecall is asked and answers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.client.convert import matrix_of, queries_to_send
from annserve.errors import InputError
from annserve.rpc import search_pb2


@dataclass(frozen=True)
class RecallMeasured:
    """The share of the true neighbours that a server finds.

    Attributes
    ----------
    k : int
    recall_target : float
    queries : int
        Held against every row.
    recall : float
        Share of their neighbours that was found.
    recall_low, recall_high : float
        Bounds on the recall of all such queries.
    confidence : float
        How often both are right.
    query_recalls : (queries,) float32
        Share of each.
    pages_mean : float
        Read a query.
    snapshot : int
        Number of the version that was measured.
    """

    k: int
    recall_target: float
    queries: int
    recall: float
    recall_low: float
    recall_high: float
    confidence: float
    query_recalls: npt.NDArray[np.float32]
    pages_mean: float
    snapshot: int


def recall_request(
    collection: str,
    queries: npt.ArrayLike | None,
    live: int | None,
    *,
    k: int,
    recall_target: float | None,
    confidence: float | None,
) -> search_pb2.MeasureRecallRequest:
    """Give a request, of queries or of so many of the server's own.

    Raises
    ------
    InputError
        If both are given, or neither, or something can't be sent.
    """
    if (queries is None) == (live is None):
        raise InputError("give queries, or live=N for N of those that the server was asked of late", field="queries")
    matrix = None if queries is None else matrix_of(queries_to_send(queries))
    try:
        return search_pb2.MeasureRecallRequest(
            collection=collection, matrix=matrix, live=live, k=k, recall_target=recall_target, confidence=confidence
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"this can't be asked: {error}") from None


def recall_of(response: search_pb2.MeasureRecallResponse) -> RecallMeasured:
    """Read an answer."""
    told = response.recall
    names = ("k", "recall_target", "queries", "recall", "recall_low", "recall_high", "confidence")
    return RecallMeasured(
        **{name: getattr(told, name) for name in names},
        query_recalls=np.array(response.query_recalls, np.float32),
        pages_mean=response.pages_mean,
        snapshot=response.snapshot,
    )
