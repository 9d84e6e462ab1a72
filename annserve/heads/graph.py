"""Joining the heads in a navigation graph.

Heads are inserted one after another in a seeded random order: each is found by a walk over the graph so far,
linked to a diverse few of its nearest (RNG rule with slack), and those link back. That is O(h log h) walks'
worth of distances: 17,000 heads of 128 d take about two seconds, 100,000 about twenty. At the end every head can
be reached from the entry (``connect``).

Peak RAM: the nodes and 20 bytes a head. Reads and writes no file.

References
----------
[1] Subramanya et al., "DiskANN", NeurIPS 2019, algorithms 2 and 3 (slack alpha, incremental insertion).
[2] Chen et al., "SPANN", NeurIPS 2021, section 3.2 (a graph over centroids finds the postings).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.events import Listener, StageProgressed, ignore
from annserve.heads import graph_kernels
from annserve.heads.connect import connect, spread
from annserve.heads.layout import HEADS_MAX, NO_HEAD, HeadNodes, NodeLayout, grid_scale, lay_out, to_grid

#: Heads looked at around a new one; 100 gives the same pages per query as 200 at half the time.
BREADTH = 100
#: Squared distances are compared with this slack. DiskANN's alpha of 1.2, 1.44 of squares, drops so few that where
#: data falls into many clusters a list fills up within one: of the 64 nearest heads of 2,576 (768 d) walks found 69 %,
#: with 1.1 they find 98 %. On SIFT and sentences both find 99 % and more, by as many distances within 6 %.
SLACK = 1.1
_STEP = 4_096


def join_heads(
    vectors: npt.NDArray[Any], dtype: np.dtype[Any], *, seed: int = 0, listener: Listener = ignore
) -> HeadNodes:
    """Round centroids to the heads' grid and join them in a graph.

    Parameters
    ----------
    vectors : (h, dim) array, h >= 1
        Centroids in the index space.
    dtype : numpy dtype
        uint8 or int8: what a head is stored as.
    seed : int
        Fixes the order of insertion, and so the graph.
    listener : callable
        Hears ``StageProgressed("link", heads)``.

    Returns
    -------
    HeadNodes
        Every head can be reached from its entry.
    """
    n_heads, dim = vectors.shape
    assert 1 <= n_heads <= HEADS_MAX, n_heads
    scale = grid_scale(vectors, dtype)
    grid = to_grid(vectors, scale, dtype)
    layout = NodeLayout(dim)
    nodes = lay_out(grid, np.full((n_heads, layout.degree), NO_HEAD, np.uint32), layout)

    order = np.random.default_rng(seed).permutation(n_heads).astype(np.int64)
    centre = grid.mean(axis=0, dtype=np.float64)
    blocks = (grid[first : first + _STEP] - centre for first in range(0, n_heads, _STEP))
    central = int(np.argmin(np.concatenate([np.einsum("ij,ij->i", block, block) for block in blocks])))
    position = int(np.flatnonzero(order == central)[0])
    order[0], order[position] = order[position], order[0]

    heads = HeadNodes(layout, nodes, n_heads, central, scale, dtype)
    shape = (dim, layout.degree, layout.nodes_per_page, layout.page_bytes, layout.stride)
    neighbours, grid_view = nodes.view(np.uint32), nodes.view(dtype)
    scratch = (
        np.zeros(n_heads, np.uint32),
        np.empty(n_heads, np.int64),
        np.empty(layout.degree, np.int64),
        np.empty(BREADTH, np.int64),
        np.empty(dim, np.int16),
        np.empty(layout.degree, np.uint32),
        np.empty(layout.degree + 1, np.int64),
        np.empty(layout.degree, np.uint32),
    )
    for first in range(0, n_heads, _STEP):
        stop = min(first + _STEP, n_heads)
        graph_kernels.grow(order, first, stop, neighbours, grid_view, *shape, BREADTH, SLACK, *scratch)
        listener(StageProgressed("link", stop))
    connect(heads)
    return heads


def reachable(heads: HeadNodes) -> npt.NDArray[np.bool_]:
    """Say for each head whether a walk from the entry can reach it, as (h,) bool."""
    reached = np.zeros(heads.n_heads, np.uint8)
    spread(heads, heads.entry, reached)
    return reached.astype(bool)
