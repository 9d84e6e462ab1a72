"""Percentiles are samples, and the right ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.measure import nearest_rank

from annserve.measure.statistics import median_and_spread, percentiles
from annserve.measure.summary import hold_against

SHARES = (0.1, 5.0, 50.0, 95.0, 99.0, 99.9, 100.0)


@given(st.lists(st.integers(-5, 40), min_size=1, max_size=60))
def test_percentiles_agree_with_their_definition(samples):
    assert percentiles(np.array(samples), SHARES) == tuple(nearest_rank(samples, share) for share in SHARES)


@pytest.mark.parametrize(("n", "rank"), [(999, 999), (1_000, 999), (1_001, 1_000), (10_000, 9_990)])
def test_the_p999_is_exact_at_the_edges_of_a_rank(n, rank):
    samples = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert percentiles(samples, (99.9,)) == (rank,)


def test_one_slow_query_in_a_hundred_is_the_p100_and_not_the_p99():
    samples = np.array([1.0] * 99 + [500.0])
    assert percentiles(samples, (99.0, 99.9)) == (1.0, 500.0)


def test_spread_is_the_range_as_a_share_of_the_median():
    assert median_and_spread([110.0, 90.0, 100.0]) == (100.0, pytest.approx(0.2))
    assert median_and_spread([7.0]) == (7.0, 0.0)
    assert median_and_spread([0.0, 0.0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("predicted", "measured", "error"), [(12.0, 10.0, 0.2), (8.0, 10.0, -0.2), (None, 10.0, None), (12.0, None, None)]
)
def test_a_prediction_is_held_against_what_was_measured(predicted, measured, error):
    found = hold_against({"pages_read_mean": measured}, predicted)
    assert found["pages_predicted"] == predicted
    assert found["pages_predicted_error"] == (None if error is None else pytest.approx(error))
