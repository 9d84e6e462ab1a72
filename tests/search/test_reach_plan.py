"""The reach plan: which heads are near enough, whatever the query's distance to the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import CorruptionError
from annserve.search.reach_plan import ReachPlan, reaches

TARGETS = np.array([0.8, 0.95])


def a_plan() -> ReachPlan:
    limits = np.array([[[1.1, 1.2], [1.4, 1.5]], [[1.3, 1.3], [1.6, 2.0]]])
    postings = np.array([[[1, 10], [2, 20]], [[2, 20], [4, 40]]], float)
    return ReachPlan(np.array([1, 10]), TARGETS, np.array([1.0, 100.0]), limits, postings)


distances = st.lists(st.floats(0, 1e9), min_size=1, max_size=30).map(lambda values: np.array([sorted(values)]))


@given(distances)
def test_a_farther_head_is_never_nearer_by_reach(found):
    reach = reaches(found)
    assert (np.diff(reach) >= 0).all()
    assert not np.isnan(reach).any()


@given(distances, st.floats(1e-3, 1e3))
def test_reach_knows_no_unit(found, factor):
    found = found + 1e-3
    np.testing.assert_allclose(reaches(factor * found), reaches(found), rtol=1e-9)


def test_reach_by_hand():
    """Mean of the five nearest 3; the eighth is 24: 24 / 3 · 8^0.1."""
    found = np.array([[1.0, 2, 3, 4, 5, 6, 7, 24, np.inf]])
    reach = reaches(found)[0]
    assert reach[0] == pytest.approx(1 / 3)
    assert reach[7] == pytest.approx(8 * 8**0.1)
    assert np.isinf(reach[8])


@given(distances, st.integers(1, 100), st.floats(0.8, 0.95), st.floats(0.8, 0.95), st.integers(1, 30))
def test_more_recall_and_more_results_never_probe_fewer(found, k, low, high, most):
    low, high = min(low, high), max(low, high)
    plan = a_plan()
    probes = plan.probes_for(found, k, low, most)
    assert 1 <= probes[0] <= min(most, max(found.shape[1], 1))
    assert plan.probes_for(found, k, high, most) >= probes
    assert plan.probes_for(found, k + 1, low, most) >= probes


def test_heads_at_distance_zero_are_all_probed_and_missing_ones_are_not():
    plan = a_plan()
    assert plan.probes_for(np.zeros((1, 7)), 10, 0.95, 100).tolist() == [7]
    assert plan.probes_for(np.array([[1.0, np.inf, np.inf]]), 10, 0.95, 100).tolist() == [1]


def test_a_difficult_query_reaches_farther():
    """Reaches of two heads of about the same distance are 1 and 1.2; limits at 0.8 rise from 1.1 to 1.2."""
    found = np.array([[1.0, 1.2]])
    assert a_plan().probes_for(found, 1, 0.8, 9).tolist() == [1]
    assert a_plan().probes_for(100 * found, 1, 0.8, 9).tolist() == [2]


def test_the_range_of_postings_is_what_calibration_saw():
    assert a_plan().postings_range(10, 0.95, 1_000) == (4, 40)
    assert a_plan().postings_range(10, 0.95, 30) == (4, 30)


def test_a_plan_survives_its_file():
    again = ReachPlan.of(a_plan().as_dict())
    np.testing.assert_array_equal(again.limits, a_plan().limits)
    np.testing.assert_array_equal(again.postings, a_plan().postings)


@pytest.mark.parametrize("broken", [{"ks": [1]}, {"limits": "far"}, {"postings": [[1]]}, {"targets": None}])
def test_a_plan_that_doesn_t_fit_itself_is_damaged(broken):
    content = {name: value for name, value in {**a_plan().as_dict(), **broken}.items() if value is not None}
    with pytest.raises(CorruptionError):
        ReachPlan.of(content)
