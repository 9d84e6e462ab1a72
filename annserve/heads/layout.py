"""Nodes of the navigation graph: a head's neighbours and its vector, side by side, on aligned pages.

::

    node   | neighbours: degree × u32 | vector: dim × u8 or i8 | zero to a multiple of 4 |
    page   | node | node | … | zero |     4,096 bytes, or as many pages as one node needs

A node never straddles a page. Unused neighbour places hold ``NO_HEAD``. Head ``i`` lies on page ``i //
nodes_per_page``, at slot ``i % nodes_per_page``. Vectors stand on one integer grid of step ``scale`` (1 for
integer data under L2), so distances between them are integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

#: Marks an unused neighbour place.
NO_HEAD = np.uint32(0xFFFF_FFFF)
#: Out-degree; 24 neighbours are 96 bytes, 224 with a 128-d vector: 18 nodes on a page.
DEGREE = 24
NODE_PAGE_BYTES = 4_096
#: Heads of one segment at most, so that a distance and a head fit one int64; a billion rows at 30 a page.
HEADS_MAX = 1 << 25
#: A query's coordinates on the heads' grid are clipped here, so that int32 sums can't overflow.
QUERY_LIMIT = 2_500


@dataclass(frozen=True)
class NodeLayout:
    """Where things lie in an array of nodes; all sizes in bytes."""

    dim: int
    degree: int = DEGREE

    @property
    def stride(self) -> int:
        """Bytes from one node to the next on a page."""
        return -(-(4 * self.degree + self.dim) // 4) * 4

    @property
    def page_bytes(self) -> int:
        """Bytes of a node page."""
        return -(-self.stride // NODE_PAGE_BYTES) * NODE_PAGE_BYTES

    @property
    def nodes_per_page(self) -> int:
        """Nodes on a full page."""
        return self.page_bytes // self.stride

    def n_pages(self, n_heads: int) -> int:
        """Pages that `n_heads` nodes take."""
        return -(-n_heads // self.nodes_per_page)

    def offsets(self, head_ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Byte offsets of heads in the array of nodes."""
        ids = head_ids.astype(np.int64)
        return (ids // self.nodes_per_page) * self.page_bytes + (ids % self.nodes_per_page) * self.stride


@dataclass(frozen=True)
class HeadNodes:
    """The heads of one segment, ready to be walked.

    Attributes
    ----------
    layout : NodeLayout
    nodes : (n_pages * page_bytes,) uint8
        Node pages, end to end.
    n_heads : int
    entry : int
        Head at which every walk starts.
    scale : float
        Step of the grid: a head's vector in the index space is ``scale`` times its integers.
    dtype : numpy dtype
        uint8 or int8.
    """

    layout: NodeLayout
    nodes: npt.NDArray[np.uint8]
    n_heads: int
    entry: int
    scale: float
    dtype: np.dtype[Any]

    @cached_property
    def views(self) -> tuple[Any, ...]:
        """What kernels take: nodes as neighbours and as vectors, heads, scale, layout, entry."""
        layout = self.layout
        sizes = (layout.dim, layout.degree, layout.nodes_per_page, layout.page_bytes, layout.stride)
        nodes = self.nodes
        return nodes.view(np.uint32), nodes.view(self.dtype), self.n_heads, float(self.scale), *sizes, self.entry

    @property
    def ram_bytes(self) -> int:
        """Bytes that the nodes take in RAM."""
        return int(self.nodes.nbytes)

    def vectors(self) -> npt.NDArray[Any]:
        """Copy the vectors out, as (n_heads, dim) integers on the grid."""
        first = 4 * self.layout.degree
        return self._rows()[:, first : first + self.layout.dim].view(self.dtype)

    def neighbours(self) -> npt.NDArray[np.uint32]:
        """Copy the neighbour lists out, as (n_heads, degree) with `NO_HEAD` where there is none."""
        return np.ascontiguousarray(self._rows()[:, : 4 * self.layout.degree]).view(np.uint32)

    def _rows(self) -> npt.NDArray[np.uint8]:
        layout = self.layout
        pages = self.nodes.reshape(-1, layout.page_bytes)[:, : layout.nodes_per_page * layout.stride]
        return np.ascontiguousarray(pages).reshape(-1, layout.stride)[: self.n_heads]


#: Vectors that are rounded at a time.
_GRID_ROWS = 4_096


def grid_scale(vectors: npt.NDArray[Any], dtype: np.dtype[Any]) -> float:
    """Choose the step of the grid: 1 for integer data, else the largest magnitude over 127."""
    if vectors.dtype.kind in "ui" or dtype == np.uint8:
        return 1.0
    largest = max(float(vectors.max(initial=0.0)), -float(vectors.min(initial=0.0)))
    return largest / 127 if largest > 0 else 1.0


def to_grid(vectors: npt.NDArray[Any], scale: float, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round vectors of the index space to the heads' grid, as (h, dim) of `dtype`."""
    info = np.iinfo(dtype)
    grid = np.empty(vectors.shape, dtype)
    for first in range(0, len(vectors), _GRID_ROWS):
        some = np.asarray(vectors[first : first + _GRID_ROWS], np.float64)
        grid[first : first + _GRID_ROWS] = np.clip(np.rint(some / scale), info.min, info.max)
    return grid


def lay_out(vectors: npt.NDArray[Any], neighbours: npt.NDArray[np.uint32], layout: NodeLayout) -> npt.NDArray[np.uint8]:
    """Write vectors and neighbours into node pages.

    Parameters
    ----------
    vectors : (h, dim) uint8 or int8
    neighbours : (h, degree) uint32

    Returns
    -------
    (n_pages * page_bytes,) uint8
    """
    n_heads = len(vectors)
    pages = np.zeros((layout.n_pages(n_heads), layout.page_bytes), np.uint8)
    rows = np.zeros((len(pages) * layout.nodes_per_page, layout.stride), np.uint8)
    first = 4 * layout.degree
    rows[:n_heads, :first] = np.ascontiguousarray(neighbours).view(np.uint8)
    rows[:n_heads, first : first + layout.dim] = vectors.view(np.uint8)
    pages[:, : layout.nodes_per_page * layout.stride] = rows.reshape(len(pages), -1)
    return pages.reshape(-1)
