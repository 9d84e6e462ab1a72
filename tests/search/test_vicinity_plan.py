"""The plan of vicinities: calibrated points come back, more asked never takes less, damage is told."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.errors import CorruptionError
from annserve.search.vicinity_plan import VicinityPlan

KS, TARGETS = np.array([1, 10, 100]), np.array([0.8, 0.9, 0.95, 0.99])


def a_plan() -> VicinityPlan:
    effort = np.arange(3)[:, None] + np.arange(4)
    return VicinityPlan(KS, TARGETS, heads=4.0 * 2**effort, reach=1 + effort / 10, expected=1 - 0.3 * 0.5**effort)


def test_calibrated_points_are_given_back():
    plan = a_plan()
    for a, k in enumerate(KS.tolist()):
        for b, target in enumerate(TARGETS.tolist()):
            assert plan.heads_wanted(k, target, 10_000) == plan.heads[a, b]
            assert plan.reach_wanted(k, target) == pytest.approx(plan.reach[a, b])
            assert plan.expected_wanted(k, target) == pytest.approx(plan.expected[a, b])


def test_more_recall_or_more_results_never_reach_less_far():
    plan = a_plan()
    grid = [[plan.reach_wanted(k, target) for target in np.linspace(0.8, 0.99, 9)] for k in (1, 3, 10, 40, 100, 700)]
    assert (np.diff(grid, axis=0) >= 0).all()
    assert (np.diff(grid, axis=1) >= 0).all()


def test_a_plan_survives_its_file_and_damage_is_told():
    plan = a_plan()
    again = VicinityPlan.of(plan.as_dict())
    for name in ("ks", "targets", "heads", "reach", "expected"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plan, name))
    for name in plan.as_dict():
        broken = plan.as_dict()
        del broken[name]
        with pytest.raises(CorruptionError):
            VicinityPlan.of(broken)
    with pytest.raises(CorruptionError, match="shape"):
        VicinityPlan.of({**plan.as_dict(), "reach": [[1.0]]})
