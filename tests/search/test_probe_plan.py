"""The probe plan: what calibration found, between and beyond its points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import CorruptionError
from annserve.search.probe_plan import ProbePlan

TARGETS = np.array([0.8, 0.9, 0.95, 0.99])


def a_plan() -> ProbePlan:
    probes = np.empty((2, 4, 3))
    probes[0] = np.outer([2, 4, 8, 32], [1, 2, 4])
    probes[1] = 3 * probes[0]
    return ProbePlan(np.array([1, 10]), TARGETS, np.array([1.0, 10.0, 100.0]), probes)


def test_calibrated_points_are_given_back():
    plan = a_plan()
    for a, k in enumerate(plan.ks):
        for b, target in enumerate(plan.targets):
            got = plan.probes_for(plan.difficulties[:, None], int(k), float(target), 10_000)
            np.testing.assert_array_equal(got, plan.probes[a, b])


@given(
    k=st.integers(1, 1000),
    low=st.floats(0.80, 0.99),
    high=st.floats(0.80, 0.99),
    difficulty=st.floats(0, 1e9),
    harder=st.floats(1, 100),
)
def test_more_recall_more_results_and_harder_queries_never_take_fewer_probes(k, low, high, difficulty, harder):
    plan, n_heads = a_plan(), 1_000
    low, high = min(low, high), max(low, high)
    at = np.array([[difficulty], [difficulty * harder]])
    easy, hard = plan.probes_for(at, k, low, n_heads)
    assert 1 <= easy <= hard <= n_heads
    assert (plan.probes_for(at, k, high, n_heads) >= [easy, hard]).all()
    assert (plan.probes_for(at, k + 1, low, n_heads) >= [easy, hard]).all()
    assert plan.postings_range(k, low, n_heads)[1] >= hard


def test_a_plan_survives_its_file():
    plan = a_plan()
    again = ProbePlan.of(plan.as_dict())
    np.testing.assert_array_equal(again.probes, plan.probes)
    np.testing.assert_array_equal(again.difficulties, plan.difficulties)


@pytest.mark.parametrize("broken", [{"ks": [1]}, {"probes": "many"}, {"targets": None}])
def test_a_plan_that_doesn_t_fit_itself_is_damaged(broken):
    content = {**a_plan().as_dict(), **broken}
    content = {name: value for name, value in content.items() if value is not None}
    with pytest.raises(CorruptionError):
        ProbePlan.of(content)


def test_a_plan_of_one_k_and_target_holds_everywhere():
    plan = ProbePlan(np.array([10]), np.array([0.9]), np.array([5.0]), np.array([[[7.0]]]))
    assert plan.probes_for(np.array([[0.0], [5.0], [1e6]]), 3, 0.95, 100).tolist() == [7, 7, 7]
