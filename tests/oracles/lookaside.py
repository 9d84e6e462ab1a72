"""What pages hold and how far queries move, in float64 and as plain as can be."""

from __future__ import annotations

import numpy as np

from annserve.pages.rows import QuantizedQueries


def distances(query: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances of rows to one query, as they are reported."""
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return ((rows - query) ** 2).sum(axis=1)
    dots = rows @ query
    if metric == "ip":
        return -dots
    return 1 - dots / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))


def searched(queries: QuantizedQueries, which: int) -> np.ndarray:
    """The vector that a search compares with rows."""
    return queries.elements[which].astype(np.float64) * queries.scales[which]


class PlainAnswers:
    """Remembers every answer for ever."""

    def __init__(self) -> None:
        self.answers: dict[bytes, tuple[list[int], list[float]]] = {}

    def keep(self, query: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> None:
        self.answers[query.tobytes()] = (ids.tolist(), distances.astype(np.float32).tolist())

    def find(self, query: np.ndarray) -> tuple[list[int], list[float]]:
        return self.answers[query.tobytes()]
