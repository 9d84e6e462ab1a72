"""How sure a share is that was seen in a sample: bounds on a probability, and on a recall."""

from __future__ import annotations

from dataclasses import dataclass
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


def recall_bounds(hits: npt.NDArray[Any], wanted: npt.NDArray[Any], confidence: float = 0.95) -> RecallBounds:
    """Bound the recall of all queries by that of a sample.

    Parameters
    ----------
    hits : (n,) integers
        True neighbours that each query found, n ≥ 1.
    wanted : (n,) integers
        Those that it was to find, each at least 1.
    confidence : float
        How often both bounds are to be right.

    Returns
    -------
    RecallBounds

    Notes
    -----
    A query's hits aren't independent: one that misses a neighbour tends to miss others. So the sample counts for fewer
    trials than it has neighbours, by as much as the recalls of its queries differ more than independent hits would
    (the design effect), and Clopper's and Pearson's bounds are taken for these.

    References
    ----------
    [1] Kish, "Survey Sampling", 1965, section 8.2.
    [2] Korn, Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
        from survey data", Survey Methodology 24 (1998).
    """
    n_queries, trials = len(hits), int(wanted.sum())
    recall = float(hits.sum()) / trials
    effective = max(floor(trials / _design_effect(hits, wanted, recall)), 1)
    error_rate = (1 - confidence) / 2
    low, _ = clopper_pearson(floor(recall * effective + 1e-9), effective, error_rate)
    _, high = clopper_pearson(ceil(recall * effective - 1e-9), effective, error_rate)
    return RecallBounds(n_queries, recall, low, high, confidence)


def _design_effect(hits: npt.NDArray[Any], wanted: npt.NDArray[Any], recall: float) -> float:
    """Give how many times the variance is that of as many independent hits; 1 at least, and where none is seen."""
    n_queries, trials = len(hits), int(wanted.sum())
    independent = recall * (1 - recall) / trials
    if n_queries < 2 or independent <= 0:
        return 1.0
    residuals = hits - recall * wanted
    seen = n_queries / (n_queries - 1) * float(np.square(residuals).sum()) / trials**2
    return max(seen / independent, 1.0)
