"""Bounds of a share are right as often as they say, for hits that depend on each other too."""

from __future__ import annotations

import time
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.confidence import RecallSums, clopper_pearson, recall_bounds


@given(trials=st.integers(1, 60), data=st.data())
def test_bounds_are_those_at_which_what_was_seen_is_rare(trials, data):
    """By definition: at the upper bound at most so many hits come once in a thousand times, at the lower at least."""
    hits = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(hits, trials, 0.001)
    assert 0 <= low <= hits / trials <= high <= 1

    def seen(probability: float, counts: range) -> float:
        return sum(comb(trials, n) * probability**n * (1 - probability) ** (trials - n) for n in counts)

    if hits < trials:
        assert seen(high, range(hits + 1)) == pytest.approx(0.001, rel=1e-6)
    if hits:
        assert seen(low, range(hits, trials + 1)) == pytest.approx(0.001, rel=1e-6)


def test_bounds_of_a_hundred_thousand_trials_take_a_moment():
    begun = time.process_time()
    low, high = clopper_pearson(95_000, 100_000, 0.025)
    assert time.process_time() - begun < 1
    assert low < 0.95 < high
    assert high - low == pytest.approx(2 * 1.96 * (0.95 * 0.05 / 1e5) ** 0.5, rel=0.02)


@pytest.mark.parametrize("clumping", [0.0, 0.05, 0.3], ids=["independent", "weak", "strong"])
@pytest.mark.parametrize("recall", [0.85, 0.95, 0.99])
@pytest.mark.parametrize("n_queries", [64, 500])
def test_the_true_recall_lies_within_the_bounds_as_often_as_they_say(n_queries, recall, clumping):
    """Recalls of queries are drawn from a beta distribution, hits from them: a query that misses one misses more.

    A sample of few queries may hold none of the few bad ones where misses are strongly clumped, and nothing shows it:
    then the lower bound is right less often, most of all near recall 1.
    """
    rng, k, rounds = np.random.default_rng(1), 10, 200
    right = {"low": 0, "high": 0}
    for _ in range(rounds):
        shares = np.full(n_queries, recall)
        if clumping:
            size = 1 / clumping - 1
            shares = rng.beta(recall * size, (1 - recall) * size, n_queries)
        bounds = recall_bounds(rng.binomial(k, shares), np.full(n_queries, k), 0.9)
        assert bounds.low <= bounds.recall <= bounds.high
        right["low"] += bounds.low <= recall
        right["high"] += recall <= bounds.high
    blind = clumping == 0.3 and n_queries * (1 - recall) < 10
    assert right["low"] / rounds >= (0.75 if blind else 0.91)
    assert right["high"] / rounds >= 0.91


def test_hits_that_come_together_count_for_less():
    together = recall_bounds(np.repeat([10, 0], [95, 5]), np.full(100, 10))
    apart = recall_bounds(np.repeat([9, 10], [50, 50]), np.full(100, 10))
    assert together.recall == apart.recall == 0.95
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize(("hits", "wanted"), [([0], [1]), ([1], [1]), ([10], [10]), ([0, 0], [5, 3]), ([5, 3], [5, 3])])
def test_the_smallest_samples_have_bounds(hits, wanted):
    bounds = recall_bounds(np.array(hits), np.array(wanted))
    assert 0 <= bounds.low <= bounds.recall <= bounds.high <= 1


def test_sums_of_two_samples_bound_as_one_sample_of_both():
    rng = np.random.default_rng(3)
    wanted = rng.integers(1, 30, 200)
    hits = rng.binomial(wanted, 0.9)
    parts = [
        RecallSums.of(hits[part], wanted[part]) for part in (slice(0, 1), slice(1, 80), slice(80, 80), slice(80, 200))
    ]
    assert sum(parts, RecallSums()).bounds(0.9) == recall_bounds(hits, wanted, 0.9)
