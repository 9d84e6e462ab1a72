"""Which pages are worth a read, judged by codes: what calibration found, asked at search time.

A page's worth is the hits that it is expected to hold (``codes.rate``). A query reads the pages worth more than τ.
One τ for all queries of a recall target equalises the marginal value of a read; τ also depends on the query's
*difficulty*, its estimated distance of the k-th nearest row, because worths are less reliable far from the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Skip
from annserve.errors import CorruptionError
from annserve.search.curves import at_difficulty, at_request

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReadPlan:
    """Effort and threshold by k, recall target and difficulty.

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
    difficulties : (a, b, c) float64
        Estimated squared distances of the k-th nearest, ascending.
    log_worths : (a, b, c) float64
        log τ at each of them.
    """

    ks: npt.NDArray[np.int64]
    targets: F64
    heads: F64
    skip_terms: F64
    skip_below: F64
    difficulties: F64
    log_worths: F64

    def heads_wanted(self, k: int, recall_target: float, n_heads: int) -> int:
        """Give the heads whose pages are ranked, 1 … n_heads."""
        log_heads = at_request(self.ks, self.targets, np.log(self.heads), k, recall_target)
        return int(np.clip(np.ceil(np.exp(log_heads) - 1e-9), 1, n_heads))

    def skip(self, k: int, recall_target: float) -> Skip:
        """Give the rule by which pages are passed over; its terms are those of the nearest calibrated k."""
        below = float(at_request(self.ks, self.targets, self.skip_below, k, recall_target))
        nearest = int(np.argmin(np.abs(np.log(self.ks) - np.log(k))))
        return Skip(self.skip_terms[nearest].astype(np.float32), below)

    def worth_wanted(self, thresholds: npt.NDArray[np.float32], k: int, recall_target: float) -> F64:
        """Give τ of each query from its estimated k-th squared distance, as (nq,) float64."""

        def found(values: F64) -> F64:
            return at_request(self.ks, self.targets, values, k, recall_target)

        at = np.exp(found(np.log(self.difficulties)))
        return np.exp(at_difficulty(at, found(self.log_worths), thresholds.astype(np.float64)))

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
                "difficulties",
                "log_worths",
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
                    for name in ("targets", "heads", "skip_terms", "skip_below", "difficulties", "log_worths")
                ),
            )
        except (KeyError, ValueError) as error:
            raise CorruptionError(f"the plan lacks a field or holds a wrong one: {error}") from error
        grid = (len(plan.ks), len(plan.targets))
        if not (
            plan.heads.shape == plan.skip_below.shape == plan.log_worths.shape[:2] == grid
            and plan.difficulties.shape == plan.log_worths.shape
            and plan.skip_terms.shape == (grid[0], 8)
        ):
            raise CorruptionError("the arrays of the plan disagree in shape; build the index anew")
        return plan
