"""Plain references of the vectors room, in float64 and int64, written for reading."""

from __future__ import annotations

import numpy as np


def nearest(
    base: np.ndarray, queries: np.ndarray, k: int, metric: str, exclude: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sort all rows by (distance, id) for each query; see ``annserve.vectors.truth.exact_neighbours``."""
    all_ids = np.arange(len(base))
    row_ids, distances = [], []
    for number, query in enumerate(queries.astype(np.float64)):
        x = base.astype(np.float64)
        if metric == "l2":
            all_distances = ((x - query) ** 2).sum(axis=1)
        elif metric == "ip":
            all_distances = -(x * query).sum(axis=1)
        else:
            lengths = np.sqrt((x**2).sum(axis=1)) * np.sqrt((query**2).sum())
            all_distances = np.round(1 - (x * query).sum(axis=1) / lengths, 12)
        if exclude is not None and exclude[number] >= 0:
            all_distances[exclude[number]] = np.inf
        order = np.lexsort((all_ids, all_distances))[:k]
        row_ids.append(all_ids[order])
        distances.append(all_distances[order])
    return np.array(row_ids), np.array(distances)


def intrinsic_dimension(distances: np.ndarray) -> float:
    """Estimate the local intrinsic dimension by maximum likelihood, from (n, k) distances, not squared.

    Levina, Bickel, "Maximum Likelihood Estimation of Intrinsic Dimension", NIPS 2004, equation 8, averaged
    over the inverse estimates as MacKay and Ghahramani propose.
    """
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return float(1 / logs.mean())
