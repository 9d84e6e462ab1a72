"""How much to expect before reading: what calibration found for queries whose pages are judged by codes.

A page's worth is the hits that it is expected to hold (``codes.rate``). A query reads its best pages until their worths
add up to a share of k, the *expected recall*, that calibration found to deliver the recall target. Worths are well
calibrated wherever a query lies, so queries unlike the base get the pages that they need. A limit on the worth of a
single page, the same for all queries, reads 3 to 8 % fewer pages on queries like the base, and delivers 0.02 to 0.1
less recall on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Skip
from annserve.errors import CorruptionError
from annserve.search.curves import at_request

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadPlan:
    """Effort by k and recall target.

    Attributes
    ----------
    ks : (a,) int64
        Calibrated k, ascending.
    targets : (b,) float64
        Calibrated recall targets, ascending.
    heads : (a, b) float64
        Heads whose pages are ranked by their codes.
    skip_terms : (a, 8) float64
        Regression of a page's log expected hits, for `Skip`.
    skip_below : (a, b) float64
        Its threshold.
    expected : (a, b) float64
        Expected recall at which reading stops, below 1.
    """

    ks: npt.NDArray[np.int64]
    targets: F64
    heads: F64
    skip_terms: F64
    skip_below: F64
    expected: F64

    def heads_wanted(self, k: int, recall_target: float, n_heads: int) -> int:
        """Give the heads whose pages are ranked, 1 … n_heads."""
        log_heads = at_request(self.ks, self.targets, np.log(self.heads), k, recall_target)
        return int(np.clip(np.ceil(np.exp(log_heads) - 1e-9), 1, n_heads))

    def skip(self, k: int, recall_target: float) -> Skip:
        """Give the rule by which pages are passed over; its terms are those of the nearest calibrated k."""
        below = float(at_request(self.ks, self.targets, self.skip_below, k, recall_target))
        nearest = int(np.argmin(np.abs(np.log(self.ks) - np.log(k))))
        return Skip(self.skip_terms[nearest].astype(np.float32), below)

    def expected_wanted(self, k: int, recall_target: float) -> float:
        """Give the expected recall that a query's pages must add up to."""
        log_missed = at_request(self.ks, self.targets, np.log1p(-self.expected), k, recall_target)
        return float(np.clip(-np.expm1(log_missed), 0.0, 1.0))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for the plan file."""
        return {
            name: np.asarray(getattr(self, name)).tolist()
            for name in (
                "ks",
                "targets",
                "heads",
                "skip_terms",
                "skip_below",
                "expected",
            )
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> ReadPlan:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If a field is missing or the shapes disagree.
        """
        try:
            plan = cls(
                np.array(content["ks"], np.int64),
                *(
                    np.array(content[name], np.float64)
                    for name in ("targets", "heads", "skip_terms", "skip_below", "expected")
                ),
            )
        except (KeyError, ValueError) as error:
            raise CorruptionError(f"the plan lacks a field or holds a wrong one: {error}") from error
        grid = (len(plan.ks), len(plan.targets))
        if not (
            plan.heads.shape == plan.skip_below.shape == plan.expected.shape == grid
            and plan.skip_terms.shape == (grid[0], 8)
        ):
            raise CorruptionError("the arrays of the plan disagree in shape; build the index anew")
        return plan
