"""Rows → coarse partitions: the unit of work that fits RAM, trained on a sample, filled by one streamed pass.

Partitions are balanced by *dual prices*: a row goes to the partition with the smallest ‖x − c‖² + price, and
a price rises while its partition has more than its share of the sample. Prices only shape partitions; pages
and heads are found by plain distance, and refinement crosses the borders.

Peak RAM: the sample and one chunk as float32. One pass reads each row once, in order. Flat search of the
nearest centroid costs n · m · d, which is little up to some thousand partitions (10⁸ rows); past that,
partition the partitions.

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

#: Rows that a partition aims at: 51 MB as float32 at 128 dimensions.
PARTITION_ROWS = 100_000
#: Sampled rows per partition: faiss advises 39 to 256 training points per centroid.
SAMPLE_PER_PARTITION = 256

_ROUNDS = 10


@dataclass(frozen=True)
class Partitions:
    """What decides the partition of a row.

    Attributes
    ----------
    centroids : (m, d) float32
        Neighbours in this order are near each other.
    prices : (m,) float32
        In squared distance.
    """

    centroids: npt.NDArray[np.float32]
    prices: npt.NDArray[np.float32]


def train_partitions(sample: npt.NDArray[Any], n_partitions: int, *, seed: int = 0) -> Partitions:
    """Find centroids and prices that share out a sample evenly.

    Parameters
    ----------
    sample : (s, d) array of uint8, int8 or float32, s >= n_partitions
    n_partitions : int
    seed : int

    Notes
    -----
    Balanced bisection gives the start; then rounds of assignment, new centroids, new prices. Rows that can't
    be told apart can't be balanced: whoever needs a hard limit must cut an overfull partition by row number.
    """
    vectors = np.ascontiguousarray(sample, dtype=np.float32)
    groups = group_evenly(vectors, n_partitions, seed=seed)
    centroids = np.stack([vectors[group].mean(axis=0, dtype=np.float32) for group in groups])
    prices = np.zeros(n_partitions, np.float32)
    share = len(vectors) / n_partitions
    for _ in range(_ROUNDS):
        partitions = Partitions(centroids, prices)
        nearest = assign_partitions(vectors, partitions)
        counts = np.bincount(nearest, minlength=n_partitions)
        sums = np.zeros(centroids.shape, np.float64)
        np.add.at(sums, nearest, vectors)
        filled = counts > 0
        centroids = centroids.copy()
        centroids[filled] = (sums[filled] / counts[filled, np.newaxis]).astype(np.float32)
        # A step of a tenth of the mean squared radius moves a border, not a partition.
        radius = float(np.mean((vectors - centroids[nearest]).astype(np.float64) ** 2)) * vectors.shape[1]
        prices = (prices + 0.1 * radius * np.clip(counts / share - 1, -1, 1)).astype(np.float32)
    return Partitions(centroids, prices - prices.min())


def assign_partitions(rows: npt.NDArray[Any], partitions: Partitions) -> npt.NDArray[np.int32]:
    """Give the partition of each row of a chunk, as (n,) int32."""
    nearest = np.empty(len(rows), np.int32)
    vectors = np.ascontiguousarray(rows, dtype=np.float32)
    kernels.nearest_priced(vectors, partitions.centroids, partitions.prices, nearest)
    return nearest
