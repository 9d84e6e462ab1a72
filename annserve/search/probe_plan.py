"""How many postings a query probes where there are no codes: what calibration found, asked at search time.

A query's *difficulty* is the squared distance to its nearest head: queries that lie away from the data have all
postings at about one distance and need more of them. Calibration (``calibrate.probes``) stores, for a few k
and recall targets, the probes that queries of each difficulty need; logarithms of probes are interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.search.curves import at_difficulty, at_request
from annserve.search.plan_fields import arrays_of, check_shapes


@dataclass(frozen=True)
class ProbePlan:
    """Probes by k, recall target and difficulty.

    Attributes
    ----------
    ks : (a,) int64
        Calibrated k, ascending.
    targets : (b,) float64
        Calibrated recall targets, ascending.
    difficulties : (c,) float64
        Squared distances to the nearest head, ascending, not negative.
    probes : (a, b, c) float64
        Postings to probe, at least 1; never falls along the last axis.
    """

    ks: npt.NDArray[np.int64]
    targets: npt.NDArray[np.float64]
    difficulties: npt.NDArray[np.float64]
    probes: npt.NDArray[np.float64]

    def curve(self, k: int, recall_target: float) -> npt.NDArray[np.float64]:
        """Give the probes at each difficulty of the table, as (c,) float64."""
        return np.exp(at_request(self.ks, self.targets, np.log(self.probes), k, recall_target))

    def probes_for(
        self, distances: npt.NDArray[np.float64], k: int, recall_target: float, most: int
    ) -> npt.NDArray[np.int64]:
        """Give the postings that each query probes, 1 … most, as (nq,) int64.

        Parameters
        ----------
        distances : (nq, w) float64
            Squared distances to its nearest heads, nearest first.
        """
        curve = np.log(self.curve(k, recall_target))
        wanted = np.exp(at_difficulty(self.difficulties, curve, distances[:, 0]))
        return np.clip(np.ceil(wanted - 1e-9), 1, most).astype(np.int64)

    def postings_range(self, k: int, recall_target: float, n_heads: int) -> tuple[int, int]:
        """Give the probes of the easiest and of the hardest query."""
        curve = np.ceil(self.curve(k, recall_target) - 1e-9)
        low, high = np.clip((curve.min(), curve.max()), 1, n_heads)
        return int(low), int(high)

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for the plan file."""
        return {
            "ks": self.ks.tolist(),
            "targets": self.targets.tolist(),
            "difficulties": self.difficulties.tolist(),
            "probes": np.round(self.probes, 3).tolist(),
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> ProbePlan:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If a field is missing or the shapes disagree.
        """
        plan = cls(**arrays_of(content, "ks", "targets", "difficulties", "probes"))
        check_shapes(plan, {"probes": (len(plan.ks), len(plan.targets), len(plan.difficulties))})
        return plan
