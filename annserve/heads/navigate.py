"""From a query to its nearest heads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from annserve.heads import kernels
from annserve.heads.layout import DEGREE, HeadNodes, queries_to_grid

#: A walk that wants h heads computes some six distances for each; a scan of all is then as cheap, and exact.
SCAN_FACTOR = 6


@dataclass
class WalkScratch:
    """What one thread needs to walk the heads of one segment; grows to the largest request."""

    n_heads: int
    visited: npt.NDArray[np.uint32] = field(init=False)
    candidates: npt.NDArray[np.int64] = field(init=False)
    fresh: npt.NDArray[np.int64] = field(init=False)
    keys: npt.NDArray[np.int64] = field(init=False)
    stamp: int = 0

    def __post_init__(self) -> None:
        self.visited = np.zeros(self.n_heads, np.uint32)
        self.candidates = np.empty(self.n_heads, np.int64)
        self.fresh = np.empty(DEGREE, np.int64)
        self.keys = np.empty(0, np.int64)

    def nearest(self, wanted: int) -> npt.NDArray[np.int64]:
        """Give room for so many keys."""
        if len(self.keys) < wanted:
            self.keys = np.empty(wanted, np.int64)
        return self.keys[:wanted]

    def next_stamps(self, count: int) -> np.uint32:
        """Give the first of `count` stamps that make every earlier visit stale."""
        if self.stamp + count > np.iinfo(np.uint32).max:
            self.visited[:] = 0
            self.stamp = 0
        first = np.uint32(self.stamp + 1)
        self.stamp += count
        return first


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
        Of this thread.

    Returns
    -------
    head_ids : (nq, wanted) int32
        Nearest first; −1 where a walk found fewer.
    distances : (nq, wanted) float64
        Squared L2 in the index space; infinity where there is no head.
    computed : (nq,) int64
        Distances computed.
    """
    layout = heads.layout
    head_ids = np.empty((len(queries), wanted), np.int32)
    distances = np.empty((len(queries), wanted))
    computed = np.empty(len(queries), np.int64)
    kernels.nearest(
        queries_to_grid(queries, heads.scale),
        heads.nodes.view(np.uint32),
        heads.nodes.view(heads.dtype),
        heads.n_heads,
        layout.dim,
        layout.degree,
        layout.nodes_per_page,
        layout.page_bytes,
        layout.stride,
        heads.entry,
        wanted,
        wanted * SCAN_FACTOR >= heads.n_heads,
        heads.scale**2,
        scratch.visited,
        scratch.next_stamps(len(queries)),
        scratch.candidates,
        scratch.nearest(wanted),
        scratch.fresh,
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
    layout = heads.layout
    distances = np.empty(head_ids.shape, np.float32)
    kernels.distances_to(
        np.ascontiguousarray(queries),
        head_ids,
        heads.nodes.view(heads.dtype),
        np.float32(heads.scale),
        layout.dim,
        layout.degree,
        layout.nodes_per_page,
        layout.page_bytes,
        layout.stride,
        distances,
    )
    return distances
