"""What INT8 rows cost: which true neighbours the stored rows no longer rank among the k nearest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.pages.rows import quantize_rows
from annserve.spec import IndexSpec
from annserve.vectors.source import Rows

#: Of known neighbours as float64 that are looked at at a time.
_BLOCK_BYTES = 8 << 20
_K_OF_LOSS = 10


def loss_of_storage(
    queries: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64], rows: Rows, spec: IndexSpec
) -> float:
    """Give the share of the 10 nearest (of all known, if fewer are) that the stored rows lose; see below."""
    k = min(_K_OF_LOSS, neighbours.shape[1])
    return 1 - float(kept_by_storage(queries, neighbours, rows, spec, k).mean())


def kept_by_storage(
    queries: npt.NDArray[np.float32],
    neighbours: npt.NDArray[np.int64],
    rows: Rows,
    spec: IndexSpec,
    k: int,
) -> npt.NDArray[np.bool_]:
    """Say which of the k true neighbours are among the k nearest stored rows.

    Parameters
    ----------
    queries : (m, dim) float32
    neighbours : (m, c) int64
        Exact nearest rows, nearest first; c > k, so that a row which quantization lets in is among them.
    rows : (n, dim) rows
        All rows, as given.

    Returns
    -------
    (m, k) bool
    """
    if spec.lossless:
        return np.ones((len(queries), k), bool)
    n_known = neighbours.shape[1]
    kept = np.empty((len(queries), k), bool)
    step = max(1, _BLOCK_BYTES // (8 * spec.dim * n_known))
    for first in range(0, len(queries), step):
        block = slice(first, first + step)
        # Queries share many neighbours.
        distinct, places = np.unique(neighbours[block], return_inverse=True)
        stored = quantize_rows(rows[distinct], spec)
        values = stored.elements.astype(np.float64) * stored.scales[:, None].astype(np.float64)
        for i, (query, nearest) in enumerate(zip(queries[block].astype(np.float64), places.reshape(-1, n_known))):
            if spec.metric == "l2":
                distance = ((values[nearest] - query) ** 2).sum(axis=1)
            else:
                distance = -np.einsum("ij,j->i", values[nearest], query)
            kept[first + i] = np.argsort(np.argsort(distance, kind="stable"), kind="stable")[:k] < k
    return kept
