"""How many postings a query probes: what calibration found, asked at search time.

A query's *difficulty* is the squared distance to its nearest head: queries that lie away from the data have all
postings at about one distance and need more of them. Calibration (``build.calibrate``) stores, for a few k and
recall targets, the probes that queries of each difficulty need; between these points the plan interpolates the
logarithm of probes, over log difficulty, log k and log(1 − target).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError


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
        by_k = _along(np.log(self.ks), np.log(self.probes), np.log(k), extrapolate=True)
        share_missed = -np.log1p(-self.targets)
        return np.exp(_along(share_missed, by_k, -np.log1p(-recall_target), extrapolate=False))

    def probes_for(
        self, difficulties: npt.NDArray[np.float64], k: int, recall_target: float, n_heads: int
    ) -> npt.NDArray[np.int64]:
        """Give the postings that each query probes, 1 … n_heads, as (nq,) int64."""
        curve = np.log(self.curve(k, recall_target))
        wanted = np.exp(np.interp(_log(difficulties), _log(self.difficulties), curve))
        return np.clip(np.ceil(wanted - 1e-9), 1, n_heads).astype(np.int64)

    def probes_max(self, k: int, recall_target: float, n_heads: int) -> int:
        """Give the most that any query probes."""
        return int(np.clip(np.ceil(self.curve(k, recall_target).max() - 1e-9), 1, n_heads))

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
        try:
            plan = cls(
                np.array(content["ks"], np.int64),
                np.array(content["targets"], np.float64),
                np.array(content["difficulties"], np.float64),
                np.array(content["probes"], np.float64),
            )
        except (KeyError, ValueError) as error:
            raise CorruptionError(f"the plan lacks a field or holds a wrong one: {error}") from error
        if plan.probes.shape != (len(plan.ks), len(plan.targets), len(plan.difficulties)):
            raise CorruptionError(f"the plan's probes have shape {plan.probes.shape}, which fits not its axes")
        return plan


def _log(difficulties: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.log(np.maximum(difficulties, 1e-12))


def _along(
    axis: npt.NDArray[np.float64], values: npt.NDArray[np.float64], at: float, *, extrapolate: bool
) -> npt.NDArray[np.float64]:
    """Interpolate `values` linearly along their first axis; beyond the last point go on, or hold."""
    if len(axis) == 1:
        return np.asarray(values[0])
    right = int(np.clip(np.searchsorted(axis, at), 1, len(axis) - 1))
    share = (at - axis[right - 1]) / (axis[right] - axis[right - 1])
    share = max(share, 0.0) if extrapolate else min(max(share, 0.0), 1.0)
    interpolated: npt.NDArray[np.float64] = (1 - share) * values[right - 1] + share * values[right]
    return interpolated
