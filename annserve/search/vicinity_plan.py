"""How far to look and how much to expect, where the codes of rows lie on the SSD: what calibration found.

A query reads the vicinities of all pages whose decoded centroid lies within *reach* times the squared distance of the
fourth nearest. A query in the midst of the data has few pages so near, one far off has many at about one distance, so
one number serves both. The nearest page as the measure takes a third more vicinities within the data and five times
as many off it, the 12th nearest nearly twice as many within it; a regression on rank and distance did no better. Then
pages are read until their worths add up to the *expected recall*, as in ``read_plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.search.curves import at_request, expected_at, heads_at
from annserve.search.plan_fields import arrays_of, check_shapes

F64 = npt.NDArray[np.float64]
_TABLES = ("heads", "reach", "expected")


@dataclass(frozen=True)
class VicinityPlan:
    """Effort by k and recall target.

    Attributes
    ----------
    ks : (a,) int64
        Calibrated k, ascending.
    targets : (b,) float64
        Calibrated recall targets, ascending.
    heads : (a, b) float64
        Heads whose pages are ranked by their codes.
    reach : (a, b) float64
        Vicinities are read up to so many times the squared distance of the fourth nearest page.
    expected : (a, b) float64
        Expected recall at which reading stops, below 1.
    """

    ks: npt.NDArray[np.int64]
    targets: F64
    heads: F64
    reach: F64
    expected: F64

    def heads_wanted(self, k: int, recall_target: float, n_heads: int) -> int:
        """Give the heads whose pages are ranked, 1 … n_heads."""
        return heads_at(self.ks, self.targets, self.heads, k, recall_target, n_heads)

    def reach_wanted(self, k: int, recall_target: float) -> float:
        """Give how far vicinities are read."""
        return float(np.exp(at_request(self.ks, self.targets, np.log(self.reach), k, recall_target)))

    def expected_wanted(self, k: int, recall_target: float) -> float:
        """Give the expected recall that a query's pages must add up to."""
        return float(expected_at(self.ks, self.targets, self.expected, k, recall_target))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for the plan file."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in ("ks", "targets", *_TABLES)}

    @classmethod
    def of(cls, content: dict[str, Any]) -> VicinityPlan:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If a field is missing or the shapes disagree.
        """
        plan = cls(**arrays_of(content, "ks", "targets", *_TABLES))
        check_shapes(plan, dict.fromkeys(_TABLES, (len(plan.ks), len(plan.targets))))
        return plan
