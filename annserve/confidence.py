"""How sure a share is that was seen in a sample: bounds on a probability, and on a recall."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import ceil, exp, floor, lgamma, log, log1p
from typing import Any

import numpy as np
import numpy.typing as npt

#: Share of a sum below which its further terms don't matter.
_NEGLIGIBLE = 1e-17


def clopper_pearson(hits: int, trials: int, error_rate: float) -> tuple[float, float]:
    """Bound a probability by what was seen of it.

    Parameters
    ----------
    hits, trials : int
        0 ≤ hits ≤ trials, trials ≥ 1.
    error_rate : float
        How often each bound may be wrong.

    Returns
    -------
    low, high : float
        The probability lies above `low` but for `error_rate` of all samples, and below `high` likewise.

    Notes
    -----
    O(√trials) time for each step of a bisection.

    References
    ----------
    [1] Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26 (1934).
    """
    assert 0 <= hits <= trials >= 1, (hits, trials)
    # By how many were missed the lower bound is the upper one of the misses.
    high = 1.0 if hits == trials else _largest(hits, trials, error_rate)
    low = 0.0 if hits == 0 else 1.0 - _largest(trials - hits, trials, error_rate)
    return low, high


def _largest(hits: int, trials: int, error_rate: float) -> float:
    """Give the probability at which at most so many hits are as rare as `error_rate`, by bisection."""
    low, high = hits / trials, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(hits, trials, middle) > error_rate else (low, middle)
    return high


def _at_most(hits: int, trials: int, probability: float) -> float:
    """Give how often so many hits, or fewer, are seen, where more are expected: terms fall from the first on."""
    log_hit, log_miss = log(probability), log1p(-probability)
    of_all, total = lgamma(trials + 1), 0.0
    for n in range(hits, -1, -1):
        term = exp(of_all - lgamma(n + 1) - lgamma(trials - n + 1) + n * log_hit + (trials - n) * log_miss)
        total += term
        if term < _NEGLIGIBLE * total:
            break
    return total


@dataclass(frozen=True)
class RecallBounds:
    """What a sample of queries tells of the recall of all such queries.

    Attributes
    ----------
    queries : int
    recall : float
        Share of their neighbours that the queries of the sample found.
    low, high : float
        Bounds on that of all.
    confidence : float
        How often both are right.
    """

    queries: int
    recall: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class RecallSums:
    """What bounds of a recall take of a sample of queries: sums, so that those of several samples add up to one.

    Attributes
    ----------
    queries : int
    hits, wanted : int
        True neighbours that the queries found, and those that they were to find.
    hits_squared, hits_wanted, wanted_squared : int
        Sums over the queries of the products.
    """

    queries: int = 0
    hits: int = 0
    wanted: int = 0
    hits_squared: int = 0
    hits_wanted: int = 0
    wanted_squared: int = 0

    @classmethod
    def of(cls, hits: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> RecallSums:
        """Add up a sample: (n,) integers of either, each of the latter at least 1."""
        h, w = hits.astype(np.int64), wanted.astype(np.int64)
        return cls(len(h), int(h.sum()), int(w.sum()), int(h @ h), int(h @ w), int(w @ w))

    def __add__(self, other: RecallSums) -> RecallSums:
        return RecallSums(*(one + more for one, more in zip(astuple(self), astuple(other))))

    def bounds(self, confidence: float = 0.95) -> RecallBounds:
        """Bound the recall of all queries by that of these, one at least.

        Parameters
        ----------
        confidence : float
            How often both bounds are to be right.

        Returns
        -------
        RecallBounds

        Notes
        -----
        A query's hits aren't independent: one that misses a neighbour tends to miss others. So the sample counts for
        fewer trials than it has neighbours, by as much as the recalls of its queries differ more than independent hits
        would (the design effect), and Clopper's and Pearson's bounds are taken for these.

        References
        ----------
        [1] Kish, "Survey Sampling", 1965, section 8.2.
        [2] Korn, Graubard, "Confidence intervals for proportions with small expected number of positive counts
            estimated from survey data", Survey Methodology 24 (1998).
        """
        recall = self.hits / self.wanted
        effective = max(floor(self.wanted / self._design_effect()), 1)
        error_rate = (1 - confidence) / 2
        low, _ = clopper_pearson(floor(recall * effective + 1e-9), effective, error_rate)
        _, high = clopper_pearson(ceil(recall * effective - 1e-9), effective, error_rate)
        return RecallBounds(self.queries, recall, low, high, confidence)

    def _design_effect(self) -> float:
        """Give how many times the variance is that of independent hits; 1 at least, and where none is seen."""
        n, hits, wanted = self.queries, self.hits, self.wanted
        if n < 2 or hits in (0, wanted):
            return 1.0
        # Σ (h − recall · w)² · wanted², in whole numbers: nothing cancels.
        residuals = wanted**2 * self.hits_squared - 2 * hits * wanted * self.hits_wanted + hits**2 * self.wanted_squared
        independent = hits * (wanted - hits) * wanted
        return max(n / (n - 1) * residuals / independent, 1.0)


def recall_bounds(hits: npt.NDArray[Any], wanted: npt.NDArray[Any], confidence: float = 0.95) -> RecallBounds:
    """Bound the recall of all queries by that of a sample, see ``RecallSums``."""
    return RecallSums.of(hits, wanted).bounds(confidence)
