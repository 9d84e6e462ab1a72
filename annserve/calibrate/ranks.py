"""When navigation comes to the postings that hold a query's true neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.heads.layout import HeadNodes
from annserve.heads.navigate import WalkScratch, nearest_heads

#: Most heads that a calibrated plan may visit.
HEADS_MAX = 4_096


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
    found, distances, _ = nearest_heads(heads, queries, wanted, WalkScratch(heads.n_heads))
    ranks = np.empty(head_of_neighbour.shape)
    position = np.full(heads.n_heads, np.inf)
    for i, (order, own) in enumerate(zip(found, head_of_neighbour)):
        visited = order[order >= 0]
        position[visited] = np.arange(1, len(visited) + 1)
        ranks[i] = position[own]
        position[visited] = np.inf
    return ranks, distances[:, 0]
