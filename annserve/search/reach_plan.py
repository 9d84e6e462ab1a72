"""How far a query looks for postings that hold replicas: what calibration found, asked at search time.

With replicas a query needs the postings around it, whichever its nearest neighbours have for homes. A head's *reach* is
its squared distance, relative to the mean of the five nearest heads', times a tenth power of its rank. A query probes
the heads whose reach is within a limit: SPANN's query-aware pruning, but for its reference, the nearest head alone,
whose distance says little (one head may lie anywhere), and for the rank. Postings at recall 0.90 / 0.95 / 0.98 on
125,000 SIFT descriptors: SPANN's rule 18.5 / 33.4 / 63.8, one number for all queries 12 / 19 / 34, by reach 10.1 / 16.1
/ 27.4.

The limit depends on k, recall target and the query's *difficulty*, the mean squared distance of the five nearest heads:
its logarithm is linear in that of the difficulty. (SIFT queries need the same limit wherever they lie; embeddings of
questions need 1.6 where sentences like the base's need 1.35.)

References
----------
[1] Chen et al., "SPANN: Highly-efficient Billion-scale Approximate Nearest Neighbor Search", NeurIPS 2021, section
    3.3 (query-aware dynamic pruning).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.search.curves import at_difficulty, at_request
from annserve.search.plan_fields import arrays_of, check_shapes

F64 = npt.NDArray[np.float64]

#: Heads whose mean distance others are compared with, and the power of a head's rank.
_NEAREST = 5
_RANK_POWER = 0.1
#: Where several heads lie at distance 0, they are all within reach.
_DISTANCE_MIN = 1e-12


def reaches(distances: F64) -> F64:
    """Give the reach of each query's heads, ascending along a row.

    Parameters
    ----------
    distances : (nq, w) float64
        Squared distances to the nearest heads, ascending; infinity where there are no more.
    """
    rank = np.arange(1, distances.shape[1] + 1)
    return np.asarray(distances / np.maximum(difficulties(distances), _DISTANCE_MIN)[:, None] * rank**_RANK_POWER)


def difficulties(distances: F64) -> F64:
    """Give the mean squared distance of each query's five nearest heads, as (nq,) float64."""
    nearest = distances[:, :_NEAREST]
    found = np.isfinite(nearest)
    return np.asarray(np.where(found, nearest, 0).sum(axis=1) / found.sum(axis=1))


@dataclass(frozen=True)
class ReachPlan:
    """Limits of reach by k, recall target and difficulty.

    Attributes
    ----------
    ks : (a,) int64
        Calibrated k, ascending.
    targets : (b,) float64
        Calibrated recall targets, ascending.
    difficulties : (c,) float64
        Ascending, not negative.
    limits : (a, b, c) float64
        Heads within it are probed; above 0.
    postings : (a, b, 2) float64
        Postings that an easy query probes, and the most that any does, at least 1.
    """

    ks: npt.NDArray[np.int64]
    targets: F64
    difficulties: F64
    limits: F64
    postings: F64

    def probes_for(self, distances: F64, k: int, recall_target: float, most: int) -> npt.NDArray[np.int64]:
        """Give the postings that each query probes, 1 … most, as (nq,) int64; `distances` as for `reaches`."""
        curve = at_request(self.ks, self.targets, np.log(self.limits), k, recall_target)
        limits = np.exp(at_difficulty(self.difficulties, curve, difficulties(distances)))
        within = np.count_nonzero(reaches(distances) <= limits[:, None], axis=1)
        return np.asarray(np.clip(within, 1, most), np.int64)

    def postings_range(self, k: int, recall_target: float, n_heads: int) -> tuple[int, int]:
        """Give the postings that an easy query probes, and the most that any does."""
        low, high = np.exp(at_request(self.ks, self.targets, np.log(self.postings), k, recall_target))
        return int(np.clip(round(low), 1, n_heads)), int(np.clip(round(high), 1, n_heads))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for the plan file."""
        return {
            "ks": self.ks.tolist(),
            "targets": self.targets.tolist(),
            "difficulties": self.difficulties.tolist(),
            "limits": np.round(self.limits, 4).tolist(),
            "postings": np.round(self.postings, 1).tolist(),
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> ReachPlan:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If a field is missing or the shapes disagree.
        """
        plan = cls(**arrays_of(content, "ks", "targets", "difficulties", "limits", "postings"))
        requests = (len(plan.ks), len(plan.targets))
        check_shapes(plan, {"limits": (*requests, len(plan.difficulties)), "postings": (*requests, 2)})
        return plan
