"""How right answers are: recall with ties by distance, and the faults that recall can't see.

Recall asks only whether the right rows are there. An engine that returns them in the wrong order, twice, or
too few of them is seen by `find_faults` and by the recall of the first place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.measure.target import NO_ID
from annserve.measure.truth import Truth

#: Answers compared at once: bounds the (chunk, k, depth) comparison to about 10 MB at k = depth = 100.
_CHUNK_QUERIES = 1_000


def recall_k_at_k(ids: npt.NDArray[np.uint64], truth: Truth, k: int) -> npt.NDArray[np.float64]:
    """Give the share of the k nearest rows that each answer holds.

    Parameters
    ----------
    ids : (nq, any) uint64
        Answers; only the first k of each count. `NO_ID` never counts, a repeated id counts once.
    truth : Truth
        Exact neighbours; ties at the k-th distance count (see ``annserve.measure.truth``).
    k : int
        1 to the truth's depth.

    Returns
    -------
    (nq,) float64, each a multiple of 1/k in 0 … 1

    Notes
    -----
    O(nq · k · depth) comparisons, vectorized.
    """
    assert len(ids) == len(truth.ids), (ids.shape, truth.ids.shape)
    assert 1 <= k <= truth.depth, (k, truth.depth)
    accepted = truth.accepted(k)
    recalls = np.empty(len(ids), np.float64)
    for start in range(0, len(ids), _CHUNK_QUERIES):
        rows = slice(start, start + _CHUNK_QUERIES)
        named = (truth.ids[rows, :, None] == ids[rows, None, :k]).any(axis=2)
        # One mark per true row, not per answer: a repeated id counts once, and no answer holds more than k.
        recalls[rows] = (named & accepted[rows]).sum(axis=1) / k
    return recalls


@dataclass(frozen=True)
class AnswerFaults:
    """Numbers of queries whose answer is malformed, whatever its recall.

    Attributes
    ----------
    padded : int
        Fewer than k results.
    repeated : int
        Some id stands twice.
    unordered : int
        A distance is smaller than the one before it, or NaN.
    """

    padded: int
    repeated: int
    unordered: int


def find_faults(ids: npt.NDArray[np.uint64], distances: npt.NDArray[np.float32]) -> AnswerFaults:
    """Count malformed answers.

    Parameters
    ----------
    ids : (nq, k) uint64
        Answers, `NO_ID` where there is no result.
    distances : (nq, k) float32
        What the target says their distances are; ignored beside `NO_ID`.
    """
    missing = ids == NO_ID
    ordered = np.sort(ids, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ID)
    both = ~missing[:, 1:] & ~missing[:, :-1]
    # Written as "not ascending", so that NaN is a fault too.
    falls = ~(distances[:, 1:] >= distances[:, :-1]) & both
    return AnswerFaults(
        padded=int(missing.any(axis=1).sum()),
        repeated=int(repeated.any(axis=1).sum()),
        unordered=int(falls.any(axis=1).sum()),
    )
