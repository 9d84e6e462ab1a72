"""Expected hits: the table of Φ, the sum of chances, and the distance of the k-th nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernels as oracle

from annserve.kernels.expected import expected_within, normal_cdf, solve_threshold

F32 = np.float32


def test_the_table_is_the_normal_distribution():
    """From end to end, between its points too, and beyond both ends."""
    for z in np.linspace(-6, 6, 3_001):
        assert abs(float(normal_cdf(F32(z))) - oracle.normal_cdf(F32(z))) < 2e-6, z
    assert normal_cdf(F32(-np.inf)) == normal_cdf(F32(-9e9)) == 0
    assert normal_cdf(F32(np.inf)) == normal_cdf(F32(9e9)) == 1


@st.composite
def rows(draw):
    """Estimates with errors: spread out, many alike, far from zero, errors of one size or of many."""
    n, rng = draw(st.integers(1, 60)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    estimates = rng.normal(size=n) * draw(st.sampled_from([1e-3, 1.0, 1e4])) + draw(st.sampled_from([0, 5, -300]))
    if draw(st.booleans()):
        estimates = estimates[rng.integers(0, n, n)]
    errors = np.exp(rng.normal(size=n) * draw(st.sampled_from([0, 1]))) * draw(st.sampled_from([1e-2, 1.0, 1e3]))
    return estimates.astype(F32), errors.astype(F32)


@given(rows(), st.integers(1, 70))
@settings(max_examples=300)
def test_the_threshold_is_where_k_rows_are_expected(case, k):
    """Counted in float64; the bracket is that of a rating: four errors below and above all rows."""
    estimates, errors = case
    low, high = (estimates - 4 * errors).min(), (estimates + 4 * errors).max()
    found = solve_threshold(estimates, errors, len(estimates), k, low, high)
    assert oracle.is_threshold(float(found), estimates, errors, k, float(low), float(high))
    if k > len(estimates):
        assert found == high


@given(rows(), st.floats(-3, 3))
@settings(max_examples=50)
def test_the_expected_rows_are_the_sum_of_their_chances(case, share):
    estimates, errors = case
    threshold = F32(np.median(estimates) + share * errors.max())
    found = expected_within(estimates, errors, len(estimates), threshold)
    assert abs(found - oracle.expected_within(estimates, errors, threshold)) < 1e-5 * len(estimates)


@pytest.mark.parametrize("size", [0, 3])
def test_rows_beyond_the_size_do_not_count(size):
    estimates, errors = np.zeros(9, F32), np.ones(9, F32)
    assert expected_within(estimates, errors, size, F32(0)) == size / 2
    assert solve_threshold(estimates, errors, size, 4, F32(-4), F32(4)) == 4
