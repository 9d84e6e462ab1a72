"""From a query to its nearest heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.heads import kernels
from annserve.heads.layout import DEGREE, HeadNodes

#: A walk that wants h heads computes some six distances for each; a scan of all is then as cheap, and exact.
SCAN_FACTOR = 6
_STAMP_MAX = 2**32 - 1


class WalkScratch:
    """What one search needs to walk the heads of one segment; grows to the largest request.

    Attributes
    ----------
    visited : (h,) uint32
        Stamp of the last walk that came by.
    stamp : int
        The last one that was given.
    """

    def __init__(self, n_heads: int) -> None:
        self.visited = np.zeros(n_heads, np.uint32)
        self.stamp = 0
        self._candidates = np.empty(n_heads, np.int64)
        self._fresh = np.empty(DEGREE, np.int64)
        self._rounded = np.empty(0, np.int16)
        self._keys = np.empty(0, np.int64)

    def arrays(self, dim: int, wanted: int) -> tuple[npt.NDArray[Any], ...]:
        """Give what kernels take, with room for `wanted` keys."""
        if len(self._keys) < wanted:
            self._keys = np.empty(wanted, np.int64)
        if len(self._rounded) < dim:
            self._rounded = np.empty(dim, np.int16)
        return self.visited, self._candidates, self._fresh, self._rounded, self._keys

    def next_stamps(self, count: int) -> np.uint32:
        """Give the first of `count` stamps that make every earlier visit stale."""
        if self.stamp + count > _STAMP_MAX:
            self.visited[:] = 0
            self.stamp = 0
        first = np.uint32(self.stamp + 1)
        self.stamp += count
        return first


def scans(heads: HeadNodes, wanted: int) -> bool:
    """Say whether all heads are compared where `wanted` are asked for."""
    return wanted * SCAN_FACTOR >= heads.n_heads


def nearest_heads(
    heads: HeadNodes, queries: npt.NDArray[np.float32], wanted: int, scratch: WalkScratch
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Find the nearest heads of each query.

    Parameters
    ----------
    heads : HeadNodes
    queries : (nq, dim) float32
        In the index space.
    wanted : int
        Heads per query, at most ``heads.n_heads``.
    scratch : WalkScratch
        Nobody else's meanwhile.

    Returns
    -------
    head_ids : (nq, wanted) int32
        Nearest first; −1 where a walk found fewer.
    distances : (nq, wanted) float64
        Squared L2 in the index space; infinity where there is no head.
    computed : (nq,) int64
        Distances computed.
    """
    head_ids = np.empty((len(queries), wanted), np.int32)
    distances = np.empty((len(queries), wanted))
    computed = np.empty(len(queries), np.int64)
    kernels.nearest(
        np.ascontiguousarray(queries),
        heads.views,
        wanted,
        scans(heads, wanted),
        scratch.next_stamps(len(queries)),
        scratch.arrays(heads.layout.dim, wanted),
        head_ids,
        distances,
        computed,
    )
    return head_ids, distances, computed


def exact_distances(
    heads: HeadNodes, queries: npt.NDArray[np.float32], head_ids: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Give squared distances from queries, not rounded to the grid, to some heads.

    Parameters
    ----------
    heads : HeadNodes
    queries : (nq, dim) float32
        In the index space.
    head_ids : (nq, w) int32
        −1 where there is none.

    Returns
    -------
    (nq, w) float32
        Anything where there is no head.
    """
    distances = np.empty(head_ids.shape, np.float32)
    kernels.distances_to(np.ascontiguousarray(queries), head_ids, heads.views, distances)
    return distances
