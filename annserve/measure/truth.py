"""Exact neighbours of the queries, checked once, and which of them an answer may name.

Ties
----
If several rows lie at the distance of the k-th neighbour, any of them is a right answer. So a row counts if
it is among the first k of the truth, or further down at a distance equal to d_k. Whole-numbered distances are
compared exactly, others within `RELATIVE_EPSILON` of d_k. Without distances only the first k count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError

#: Distances closer than this share of d_k are one distance: some sixteen roundings of float32.
RELATIVE_EPSILON = 1e-6


@dataclass(frozen=True)
class Truth:
    """Exact neighbours, nearest first; make it with `check_truth`.

    Attributes
    ----------
    ids : (nq, depth) uint64
        Row ids, none twice in a row.
    distances : (nq, depth) float64 or None
        Ascending in each row; similarities stand here negated.
    epsilon : float
        Share of d_k within which a distance equals it: 0 or `RELATIVE_EPSILON`.
    """

    ids: npt.NDArray[np.uint64]
    distances: npt.NDArray[np.float64] | None = None
    epsilon: float = 0.0

    @property
    def depth(self) -> int:
        """Neighbours that are known of each query."""
        return int(self.ids.shape[1])

    def of(self, rows: npt.NDArray[np.int64]) -> Truth:
        """Give the truth of some queries, in their order."""
        distances = None if self.distances is None else self.distances[rows]
        return replace(self, ids=self.ids[rows], distances=distances)

    def accepted(self, k: int) -> npt.NDArray[np.bool_]:
        """Mark the entries that count as right in a top-k answer, as (nq, depth) bool."""
        counts = np.zeros(self.ids.shape, np.bool_)
        counts[:, :k] = True
        if self.distances is not None:
            d_k = self.distances[:, k - 1 : k]
            counts |= self.distances <= d_k + self.epsilon * np.abs(d_k)
        return counts

    def ties_cut(self, k: int) -> int | None:
        """Count the queries whose ties at d_k may go on beyond the list, so that right answers look wrong.

        None where that can't be known: no distances, or a list that ends at k.
        """
        if self.distances is None or self.depth <= k:
            return None
        return int(self.accepted(k)[:, -1].sum())


def check_truth(ids: npt.NDArray[Any], distances: npt.NDArray[Any] | None, *, n_queries: int, k: int) -> Truth:
    """Check exact neighbours as they came from a file, and make them comparable.

    Parameters
    ----------
    ids : (nq, depth) integers
        Row ids, nearest first.
    distances : (nq, depth) numbers or None
        Ascending distances, or similarities in descending order.
    n_queries : int
        Queries that the truth must cover, one row each.
    k : int
        Results that will be asked for; depth must reach it.

    Raises
    ------
    InputError
        If it is another query set's truth, too short, not a truth at all, or disagrees with itself; the first
        bad row is named.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(
            f"the truth is a {ids.ndim}-axis array of {ids.dtype}; give a matrix of whole-numbered row ids",
            field="truth",
        )
    if len(ids) != n_queries:
        raise InputError(
            f"the truth has {len(ids)} rows, but there are {n_queries} queries; give these queries' truth",
            field="truth",
        )
    if ids.shape[1] < k:
        raise InputError(
            f"the truth lists {ids.shape[1]} neighbours a query, but k is {k}; "
            "compute a deeper truth or ask for a smaller k",
            field="truth",
        )
    _raise_at_first((ids < 0).any(axis=1), "holds a negative id; every query needs its full list")
    ordered = np.sort(ids, axis=1)
    _raise_at_first((ordered[:, 1:] == ordered[:, :-1]).any(axis=1), "names a row twice")
    if distances is None:
        return Truth(ids.astype(np.uint64))
    ascending, epsilon = _check_distances(distances, ids.shape)
    return Truth(ids.astype(np.uint64), ascending, epsilon)


def _check_distances(distances: npt.NDArray[Any], shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], float]:
    """Give distances in ascending order with the tolerance that their type deserves."""
    if distances.shape != shape or distances.dtype.kind not in "iuf":
        raise InputError(
            f"the truth's distances are {distances.dtype} of shape {distances.shape}, but its ids have shape "
            f"{shape}; give one number for each id",
            field="truth_distances",
        )
    values = distances.astype(np.float64)
    _raise_at_first(~np.isfinite(values).all(axis=1), "holds a distance that is NaN or infinite")
    epsilon = 0.0 if _is_exact(distances) else RELATIVE_EPSILON
    falls = values[:, -1] < values[:, 0]
    if falls.mean() > 0.5:
        values = -values
    slack = epsilon * np.abs(values[:, :-1])
    _raise_at_first(
        (values[:, 1:] < values[:, :-1] - slack).any(axis=1),
        "isn't sorted; give distances in ascending or similarities in descending order",
    )
    return values, epsilon


def _is_exact(distances: npt.NDArray[Any]) -> bool:
    """Tell whether the values are whole numbers that their type holds without rounding."""
    if distances.dtype.kind in "iu":
        return True
    whole_max = 2.0 ** (np.finfo(distances.dtype).nmant + 1)
    return bool(np.all(distances == np.rint(distances)) and np.all(np.abs(distances) <= whole_max))


def _raise_at_first(bad: npt.ArrayLike, reason: str) -> None:
    if np.any(bad):
        raise InputError(f"row {int(np.argmax(bad))} of the truth {reason}", field="truth")
