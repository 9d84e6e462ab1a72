"""When navigation comes to the postings that hold a query's true neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, nearest_heads

#: Most heads that a calibrated plan may visit.
HEADS_MAX = 4_096
#: Queries that are ranked at a time.
_BLOCK_QUERIES = 256


def head_ranks(
    heads: HeadNodes, queries: npt.NDArray[np.float32], head_of_neighbour: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rank the heads of true neighbours as navigation finds them.

    Parameters
    ----------
    heads : HeadNodes
    queries : (m, d) float32
        In the index space.
    head_of_neighbour : (m, c) int64
        Head whose posting holds each of a query's neighbours.

    Returns
    -------
    ranks : (m, c) float64
        From 1; infinity where navigation doesn't come to it.
    nearest : (m,) float64
        Squared distance to the nearest head.
    """
    wanted = min(heads.n_heads, HEADS_MAX)
    ranks, nearest = np.empty(head_of_neighbour.shape), np.empty(len(queries))
    scratch, position = WalkScratch(heads.n_heads), np.full(heads.n_heads, np.inf)
    for first in range(0, len(queries), _BLOCK_QUERIES):
        block = slice(first, first + _BLOCK_QUERIES)
        found, distances, _ = nearest_heads(heads, queries[block], wanted, scratch)
        nearest[block] = distances[:, 0]
        for i, order in enumerate(found, first):
            visited = order[order >= 0]
            position[visited] = np.arange(1, len(visited) + 1)
            ranks[i] = position[head_of_neighbour[i]]
            position[visited] = np.inf
    return ranks, nearest
