"""Reachability: which heads a walk can reach, and links to those that it can't.

Growing the graph drops links between heads that lie at one place, so data with many equal rows leaves heads that
nothing leads to. Each gets a link from its nearest reachable head that has one to spare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.heads import graph_kernels
from annserve.heads.layout import NO_HEAD, HeadNodes

#: Heads whose distances to all others are computed together: one matrix product instead of many passes.
_BATCH = 256


def connect(heads: HeadNodes) -> None:
    """Change links until every head can be reached from the entry.

    Notes
    -----
    O(lost · h · d) time, in matrix products; O(256 · h) RAM. A link that is given up may have been the only way to
    some head, so all is walked again until none is lost; a link that was given here is never given up.
    """
    reached = np.zeros(heads.n_heads, np.uint8)
    if spread(heads, heads.entry, reached) == heads.n_heads:
        return
    hosts = _Hosts(heads)
    while not reached.all():
        lost = np.flatnonzero(reached == 0)
        for first in range(0, len(lost), _BATCH):
            batch = lost[first : first + _BATCH]
            for head, distances in zip(batch, hosts.distances(batch)):
                if not reached[head]:
                    hosts.link_to(head, np.where(reached, distances, np.inf))
                    spread(heads, head, reached)
        reached[:] = 0
        spread(heads, heads.entry, reached)


def spread(heads: HeadNodes, start: int, reached: npt.NDArray[np.uint8]) -> int:
    """Mark what links lead to from `start`; give the number of all marked heads.

    Marks set before stay set, and aren't walked again.
    """
    layout = heads.layout
    queue = np.empty(heads.n_heads, np.int32)
    count: int = graph_kernels.reach(
        heads.nodes.view(np.uint32),
        heads.n_heads,
        layout.degree,
        layout.nodes_per_page,
        layout.page_bytes,
        layout.stride,
        int(start),
        reached,
        queue,
    )
    return count


class _Hosts:
    """Heads as givers of links: a free place, or the link to a head that more than two links lead to."""

    def __init__(self, heads: HeadNodes) -> None:
        self._links = heads.nodes.view(np.uint32)
        self._degree = heads.layout.degree
        self._starts = heads.layout.offsets(np.arange(heads.n_heads)) // 4
        self._vectors = heads.vectors().astype(np.float32)
        self._norms = np.einsum("ij,ij->i", self._vectors, self._vectors)
        neighbours = heads.neighbours()
        self._in_degree = np.bincount(neighbours[neighbours != NO_HEAD], minlength=heads.n_heads)
        self._given = np.zeros(neighbours.shape, bool)
        self._exhausted = np.zeros(heads.n_heads, bool)

    def distances(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Give squared distances of some heads to all, up to a constant per row: (b, h) float32."""
        return np.asarray(self._norms - 2 * (self._vectors[batch] @ self._vectors.T), np.float32)

    def link_to(self, lost: int, distances: npt.NDArray[np.float32]) -> None:
        """Link to `lost` from the nearest head that can; `distances` are infinite where it isn't reachable."""
        distances[self._exhausted] = np.inf
        while True:
            host = int(np.argmin(distances))
            assert np.isfinite(distances[host]), f"no head has a link to spare for head {lost}"
            links = self._links[self._starts[host] :][: self._degree]
            free = np.flatnonzero(links == NO_HEAD)
            if len(free):
                place = free[0]
                break
            spare = np.flatnonzero((self._in_degree[links] > 2) & ~self._given[host])
            if len(spare):
                place = spare[-1]
                self._in_degree[links[place]] -= 1
                break
            # What leads to its neighbours only falls from here on: it need not be asked again.
            self._exhausted[host] = True
            distances[host] = np.inf
        links[place] = lost
        self._in_degree[lost] += 1
        self._given[host, place] = True
