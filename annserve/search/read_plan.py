"""How much to expect before reading: what calibration found for queries whose pages are judged by codes.

A page's worth is the hits that it is expected to hold (``codes.rate``). A query reads its best pages until their worths
add up to a share of k, the *expected recall*, that calibration found to deliver the recall target.

The last page read brings more than was missing, and the more so the fewer pages hold the answer. How few shows before
anything is read in the *evenness* of a query, how near its nearest page is against its 20th: a query amid a cluster
has one page much nearer than the rest, a query off the data has all at about one distance. So expected recall is a
function of evenness. With one expected recall for all, which the most even queries must bear, 0.90 delivered 0.90 to
0.93; with this one, 0.887 to 0.907.

Worths are calibrated wherever a query lies. A limit on the worth of a single page, the same for all queries, reads 3 to
8 % fewer pages on queries like those that it was set on, and delivers 0.02 to 0.1 less recall on others. So a plan has
such a limit only where a user gave queries to calibrate with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rating, Skip
from annserve.errors import CorruptionError
from annserve.search.choose_kernels import evenness_of_each
from annserve.search.curves import at_request, expected_at, heads_at
from annserve.search.head_skip import HeadSkip
from annserve.search.plan_fields import arrays_of, check_shapes

F64 = npt.NDArray[np.float64]

_OPTIONAL = ("evenness", "worth_enough", "head_terms", "head_below")


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
    evenness : (c,) float64
        Evenness of queries, ascending, 0 … 1.
    expected : (a, b, c) float64
        Expected recall at which reading stops, below 1; linear in evenness, constant beyond its ends.
    worth_enough : (a, b) float64
        A page worth more is read whatever the others promise; infinite where no user's queries were given.
    head_terms : (a, 8) float64, optional
        Regression of a posting's log expected hits, for `HeadSkip`; None where no head is passed over.
    head_below : (a, b) float64, optional
        Its threshold.
    """

    ks: npt.NDArray[np.int64]
    targets: F64
    heads: F64
    skip_terms: F64
    skip_below: F64
    evenness: F64
    expected: F64
    worth_enough: F64
    head_terms: F64 | None = None
    head_below: F64 | None = None

    def heads_wanted(self, k: int, recall_target: float, n_heads: int) -> int:
        """Give the heads whose pages are ranked, 1 … n_heads."""
        return heads_at(self.ks, self.targets, self.heads, k, recall_target, n_heads)

    def skip(self, k: int, recall_target: float) -> Skip:
        """Give the rule by which pages are passed over; its terms are those of the nearest calibrated k."""
        below = float(at_request(self.ks, self.targets, self.skip_below, k, recall_target))
        return Skip(self.skip_terms[self._nearest(k)].astype(np.float32), below)

    def head_skip(self, k: int, recall_target: float) -> HeadSkip | None:
        """Give the rule by which heads are passed over, if there is one; its terms as those of `skip`."""
        if self.head_terms is None or self.head_below is None:
            return None
        below = float(at_request(self.ks, self.targets, self.head_below, k, recall_target))
        return HeadSkip(self.head_terms[self._nearest(k)].astype(np.float32), below)

    def _nearest(self, k: int) -> int:
        return int(np.argmin(np.abs(np.log(self.ks) - np.log(k))))

    def stop(self, k: int, recall_target: float) -> Stop:
        """Give the rule by which a query has read enough."""
        expected = expected_at(self.ks, self.targets, self.expected, k, recall_target)
        if np.isinf(self.worth_enough).all():
            return Stop(self.evenness, expected, np.inf)
        log_worth = at_request(self.ks, self.targets, np.log(self.worth_enough), k, recall_target)
        return Stop(self.evenness, expected, float(np.exp(log_worth)))

    def as_dict(self) -> dict[str, Any]:
        """Give plain values, for the plan file; what would say nothing is left out."""
        content = {
            name: getattr(self, name).tolist() for name in ("ks", "targets", "heads", "skip_terms", "skip_below")
        }
        if len(self.evenness) == 1:
            content["expected"] = self.expected[:, :, 0].tolist()
        else:
            content |= {"evenness": self.evenness.tolist(), "expected": self.expected.tolist()}
        if not np.isinf(self.worth_enough).all():
            content["worth_enough"] = self.worth_enough.tolist()
        if self.head_terms is not None and self.head_below is not None:
            content |= {"head_terms": self.head_terms.tolist(), "head_below": self.head_below.tolist()}
        return content

    @classmethod
    def of(cls, content: dict[str, Any]) -> ReadPlan:
        """Read what `as_dict` wrote.

        Raises
        ------
        CorruptionError
            If a field is missing or the shapes disagree.
        """
        optional = [name for name in _OPTIONAL if name in content]
        fields = arrays_of(content, "ks", "targets", "heads", "skip_terms", "skip_below", "expected", *optional)
        grid = len(fields["ks"]), len(fields["targets"])
        if "evenness" not in fields:
            fields |= {"evenness": np.ones(1), "expected": fields["expected"][..., None]}
        plan = cls(**{"worth_enough": np.full(grid, np.inf), **fields})
        check_shapes(plan, dict.fromkeys(("heads", "skip_below", "worth_enough"), grid))
        check_shapes(plan, {"skip_terms": (grid[0], 8), "evenness": (plan.evenness.size,)})
        check_shapes(plan, {"expected": (*grid, plan.evenness.size)})
        if (plan.head_terms is None) != (plan.head_below is None):
            raise CorruptionError("the plan holds half of a rule for heads; build the index anew")
        if plan.head_terms is not None:
            check_shapes(plan, {"head_terms": (grid[0], 8), "head_below": grid})
        return plan


@dataclass(frozen=True)
class Stop:
    """When a query has read enough, at one k and recall target.

    Attributes
    ----------
    evenness : (c,) float64
    expected : (c,) float64
        Expected recall at each evenness.
    worth_enough : float
        A page worth more is read in any case.
    """

    evenness: F64
    expected: F64
    worth_enough: float

    def hits_wanted(self, rating: Rating, k: int) -> F64:
        """Give what the worths of each query's pages must add up to, (nq,)."""
        return k * np.interp(evenness_of(rating), self.evenness, self.expected)


def evenness_of(rating: Rating) -> F64:
    """Give the squared distance of each query's nearest page as a share of that of its 20th, (nq,) float64, 0 … 1.

    Of the last where fewer pages were looked at. The first 32 never are passed over, so the 20th is the 20th of all.
    """
    evenness = np.empty(len(rating.sizes))
    evenness_of_each(rating.distances, rating.sizes, evenness)
    return evenness
