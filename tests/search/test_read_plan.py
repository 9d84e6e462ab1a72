"""The read plan: more recall or more results never take less effort; a plan that fits not itself is damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import CorruptionError
from annserve.search.curves import at_difficulty, at_request
from annserve.search.read_plan import ReadPlan

KS, TARGETS = np.array([1, 10, 100]), np.array([0.8, 0.9, 0.95, 0.99])


def a_plan() -> ReadPlan:
    effort = np.arange(3)[:, None] + np.arange(4)
    return ReadPlan(
        KS,
        TARGETS,
        heads=4.0 * 2**effort,
        skip_terms=np.arange(24.0).reshape(3, 8),
        skip_below=-3.0 - effort,
        expected=1 - 0.3 * 0.5**effort,
    )


def test_calibrated_points_are_given_back():
    plan = a_plan()
    for a, k in enumerate(KS.tolist()):
        for b, target in enumerate(TARGETS.tolist()):
            assert plan.heads_wanted(k, target, 10_000) == plan.heads[a, b]
            assert plan.expected_wanted(k, target) == pytest.approx(plan.expected[a, b])
            skip = plan.skip(k, target)
            assert skip.below == pytest.approx(plan.skip_below[a, b])
            np.testing.assert_array_equal(skip.terms, plan.skip_terms[a].astype(np.float32))


@given(k=st.integers(1, 1_000), more=st.integers(1, 500), one=st.floats(0.80, 0.99), other=st.floats(0.80, 0.99))
def test_more_recall_or_more_results_never_take_less_effort(k, more, one, other):
    plan, n_heads = a_plan(), 1_000
    low, high = min(one, other), max(one, other)
    for larger_k, larger_target in ((k + more, low), (k, high)):
        assert plan.heads_wanted(larger_k, larger_target, n_heads) >= plan.heads_wanted(k, low, n_heads)
        assert plan.expected_wanted(larger_k, larger_target) >= plan.expected_wanted(k, low)
        assert plan.skip(larger_k, larger_target).below <= plan.skip(k, low).below
    assert 1 <= plan.heads_wanted(k, low, n_heads) <= n_heads
    assert 0 <= plan.expected_wanted(k, low) <= 1


@pytest.mark.parametrize(("k", "nearest"), [(1, 0), (3, 0), (4, 1), (10, 1), (31, 1), (32, 2), (1_000, 2)])
def test_pages_are_skipped_by_the_terms_of_the_nearest_calibrated_k(k, nearest):
    assert a_plan().skip(k, 0.9).terms[0] == 8 * nearest


def test_a_plan_survives_its_file():
    plan = a_plan()
    again = ReadPlan.of(plan.as_dict())
    for name in ("ks", "targets", "heads", "skip_terms", "skip_below", "expected"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plan, name))


@pytest.mark.parametrize(
    "broken",
    [
        {"ks": [1]},
        {"heads": "many"},
        {"targets": None},
        {"skip_terms": [[0.0] * 7] * 3},
        {"expected": [[0.5] * 4] * 2},
        {"skip_below": [0.0]},
    ],
    ids=str,
)
def test_a_plan_that_fits_not_itself_is_damaged(broken):
    content = {**a_plan().as_dict(), **broken}
    content = {name: value for name, value in content.items() if value is not None}
    with pytest.raises(CorruptionError):
        ReadPlan.of(content)


def test_a_plan_of_one_k_and_target_holds_everywhere():
    one = np.full((1, 1), 0.5)
    plan = ReadPlan(np.array([10]), np.array([0.9]), 14 * one, np.zeros((1, 8)), -one, one)
    for k, target in ((1, 0.8), (10, 0.9), (1_000, 0.99)):
        assert plan.heads_wanted(k, target, 100) == 7
        assert plan.expected_wanted(k, target) == pytest.approx(0.5)


@given(k=st.integers(1, 1_000), target=st.floats(0.8, 0.99))
def test_values_between_two_points_lie_between_their_values(k, target):
    values = np.array([[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 9.0], [8.0, 8.0, 8.0, 10.0]])
    found = float(at_request(KS, TARGETS, values, k, target))
    a, b = np.searchsorted(KS, min(k, 100)), np.searchsorted(TARGETS, target)
    corners = values[max(a - 1, 0) : a + 1, max(b - 1, 0) : b + 1]
    assert found >= corners.min() - 1e-9
    if k <= 100:
        assert found <= corners.max() + 1e-9


def test_difficulties_beyond_the_ends_take_the_value_at_the_end():
    found = at_difficulty(np.array([1.0, 100.0]), np.array([3.0, 5.0]), np.array([0.0, 1.0, 10.0, 1e9]))
    np.testing.assert_allclose(found, [3, 3, 4, 5])
