"""What INT8 rows cost: which true neighbours the stored rows no longer rank among the k nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.pages.rows import quantize_rows
from annserve.spec import IndexSpec


def kept_by_storage(
    queries: npt.NDArray[np.float32],
    neighbours: npt.NDArray[np.int64],
    rows: npt.NDArray[Any],
    spec: IndexSpec,
    k: int,
) -> npt.NDArray[np.bool_]:
    """Say which of the k true neighbours are among the k nearest stored rows.

    Parameters
    ----------
    queries : (m, dim) float32
    neighbours : (m, c) int64
        Exact nearest rows, nearest first; c > k, so that a row which quantization lets in is among them.
    rows : (n, dim) array
        All rows, as given.

    Returns
    -------
    (m, k) bool
    """
    if spec.lossless:
        return np.ones((len(queries), k), bool)
    kept = np.empty((len(queries), k), bool)
    for i, (query, nearest) in enumerate(zip(queries.astype(np.float64), neighbours)):
        stored = quantize_rows(rows[nearest], spec)
        values = stored.elements.astype(np.float64) * stored.scales[:, None].astype(np.float64)
        if spec.metric == "l2":
            distance = ((values - query) ** 2).sum(axis=1)
        else:
            distance = -(values @ query)
        kept[i] = np.argsort(np.argsort(distance, kind="stable"), kind="stable")[:k] < k
    return kept
