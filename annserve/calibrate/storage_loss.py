"""What INT8 rows cost: which true neighbours the stored rows no longer rank among the k nearest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.pages.rows import quantize_rows
from annserve.spec import IndexSpec
from annserve.vectors.source import Rows

#: Of rows as stored that are looked at at a time.
_BLOCK_BYTES = 8 << 20
_K_OF_LOSS = 10


def loss_of_storage(
    queries: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64], rows: Rows, spec: IndexSpec
) -> float:
    """Give the share of the 10 nearest (of all known, if fewer are) that the stored rows lose; see below."""
    k = min(_K_OF_LOSS, neighbours.shape[1])
    return 1 - float((ranks_as_stored(queries, neighbours, rows, spec)[:, :k] < k).mean())


def ranks_as_stored(
    queries: npt.NDArray[np.float32], neighbours: npt.NDArray[np.int64], rows: Rows, spec: IndexSpec
) -> npt.NDArray[np.int32]:
    """Say which place each true neighbour has among them by the stored rows: below k, and it is still of the k nearest.

    Parameters
    ----------
    queries : (m, dim) float32
    neighbours : (m, c) int64
        Exact nearest rows, nearest first; c > k, so that a row which quantization lets in is among them.
    rows : (n, dim) rows
        All rows, as given.

    Returns
    -------
    (m, c) int32
    """
    n_known = neighbours.shape[1]
    ranks = np.empty(neighbours.shape, np.int32)
    ranks[:] = np.arange(n_known)
    if spec.lossless:
        return ranks
    step = max(1, _BLOCK_BYTES // (spec.dim * n_known))
    for first in range(0, len(queries), step):
        block = slice(first, first + step)
        # Queries share many neighbours.
        distinct, places = np.unique(neighbours[block], return_inverse=True)
        stored = quantize_rows(rows[distinct], spec)
        scales = stored.scales[:, None].astype(np.float64)
        for i, (query, nearest) in enumerate(zip(queries[block].astype(np.float64), places.reshape(-1, n_known))):
            values = stored.elements[nearest] * scales[nearest]
            if spec.metric == "l2":
                distance = ((values - query) ** 2).sum(axis=1)
            else:
                distance = -np.einsum("ij,j->i", values, query)
            ranks[first + i, np.argsort(distance, kind="stable")] = np.arange(n_known)
    return ranks
