"""Rows → coarse partitions: the unit of work that fits RAM, trained on a sample, filled by one streamed pass.

Partitions are balanced by *dual prices*: a row goes to the partition with the smallest ‖x − c‖² + price, and
a price rises while its partition has more than its share of the sample. Prices only shape partitions; pages
and heads are found by plain distance, and refinement crosses the borders.

Up to some hundred partitions are compared with every row. Beyond, partitions are grouped: a row goes to a group, then
to a partition of that group, so that n rows take n · √m comparisons with m partitions.

Peak RAM: the sample and one chunk as float32. One pass reads each row once, in order.

References
----------
[1] Bertsekas, "The auction algorithm", Annals of Operations Research 14, 1988 (prices that balance demand).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.clusters import kernels
from annserve.clusters.bisection import group_evenly
from annserve.vectors.sample import sample_row_ids
from annserve.vectors.source import Rows

#: Rows that a partition aims at: 51 MB as float32 at 128 dimensions.
PARTITION_ROWS = 100_000
#: Sampled rows per partition, where they are no more bytes than this: faiss advises 39 to 256 training points per
#: centroid.
_SAMPLE_MAX, _SAMPLE_MIN = 256, 39
_SAMPLE_BYTES = 32 << 20

_ROUNDS = 10
#: Partitions that a row is compared with one by one: 25 million rows.
_COMPARED_MAX = 256


@dataclass(frozen=True)
class Centres:
    """What decides between neighbourhoods.

    Attributes
    ----------
    centroids : (m, d) float32
        Neighbours in this order are near each other.
    prices : (m,) float32
        In squared distance.
    """

    centroids: npt.NDArray[np.float32]
    prices: npt.NDArray[np.float32]

    def nearest(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Give the neighbourhood of each vector, as (n,) int32."""
        found = np.empty(len(vectors), np.int32)
        kernels.nearest_priced(vectors, self.centroids, self.prices, found)
        return found


@dataclass(frozen=True)
class Partitions:
    """What decides the partition of a row.

    Attributes
    ----------
    groups : Centres
        Of groups of partitions; one where every partition is compared.
    within : tuple of Centres
        Of each group's partitions. Partitions are numbered group by group.
    """

    groups: Centres
    within: tuple[Centres, ...]


def draw_sample(rows: Rows, n_partitions: int, seed: int) -> npt.NDArray[Any]:
    """Take the rows that `n_partitions` partitions are trained on, in order."""
    fit = _SAMPLE_BYTES // (4 * rows.shape[1] * n_partitions)
    wanted = n_partitions * min(max(fit, _SAMPLE_MIN), _SAMPLE_MAX)
    return rows[sample_row_ids(len(rows), wanted, seed)]


def train_partitions(sample: npt.NDArray[Any], n_partitions: int, *, seed: int = 0) -> Partitions:
    """Find centroids and prices that share out a sample evenly.

    Parameters
    ----------
    sample : (s, d) array of uint8, int8 or float32, s >= n_partitions
    n_partitions : int
        About as many are made.
    seed : int
    """
    vectors = np.ascontiguousarray(sample, dtype=np.float32)
    n_groups = 1 if n_partitions <= _COMPARED_MAX else round(n_partitions**0.5)
    groups = _train(vectors, n_groups, seed)
    group = groups.nearest(vectors)
    within = []
    for number in range(n_groups):
        own = vectors[group == number]
        share = round(n_partitions * len(own) / len(vectors))
        # A group without a row of the sample keeps its centroid, and a partition.
        within.append(_train(own, max(share, 1), seed) if len(own) else _only(groups.centroids[number]))
    return Partitions(groups, tuple(within))


def assign_partitions(rows: npt.NDArray[Any], partitions: Partitions) -> npt.NDArray[np.int32]:
    """Give the partition of each row of a chunk, as (n,) int32."""
    vectors = np.ascontiguousarray(rows, dtype=np.float32)
    if len(partitions.within) == 1:
        return partitions.within[0].nearest(vectors)
    group = partitions.groups.nearest(vectors)
    nearest = np.empty(len(vectors), np.int32)
    first = 0
    for number, centres in enumerate(partitions.within):
        own = group == number
        nearest[own] = first + centres.nearest(vectors[own])
        first += len(centres.prices)
    return nearest


def _train(vectors: npt.NDArray[np.float32], count: int, seed: int) -> Centres:
    """Share out vectors evenly among `count` neighbourhoods.

    Balanced bisection gives the start; then rounds of assignment, new centroids, new prices. Rows that can't be told
    apart can't be balanced: whoever needs a hard limit must cut an overfull partition by row number.
    """
    if count == 1:
        return _only(vectors.mean(axis=0, dtype=np.float32))
    groups = group_evenly(vectors, count, seed=seed)
    centres = Centres(
        np.stack([vectors[group].mean(axis=0, dtype=np.float32) for group in groups]), np.zeros(count, np.float32)
    )
    share = len(vectors) / count
    for _ in range(_ROUNDS):
        nearest = centres.nearest(vectors)
        counts = np.bincount(nearest, minlength=count)
        sums = np.zeros(centres.centroids.shape, np.float64)
        np.add.at(sums, nearest, vectors)
        filled = counts > 0
        centroids = centres.centroids.copy()
        centroids[filled] = (sums[filled] / counts[filled, np.newaxis]).astype(np.float32)
        # A step of a tenth of the mean squared radius moves a border, not a partition.
        apart = vectors - centroids[nearest]
        radius = float(np.einsum("ij,ij->i", apart, apart).mean(dtype=np.float64))
        prices = (centres.prices + 0.1 * radius * np.clip(counts / share - 1, -1, 1)).astype(np.float32)
        centres = Centres(centroids, prices)
    return Centres(centres.centroids, centres.prices - centres.prices.min())


def _only(centroid: npt.NDArray[np.float32]) -> Centres:
    return Centres(centroid[np.newaxis], np.zeros(1, np.float32))
