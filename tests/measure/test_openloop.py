"""Arrivals keep their time, and a latency runs from when a query should have been asked."""

from __future__ import annotations

import time

import numpy as np
import pytest
from broken_targets import ExactTarget
from test_runner import Recording

from annserve.errors import InputError, ServerError
from annserve.measure.openloop import Schedule, rows_asked, run_open_pass
from annserve.measure.runner import Load


@pytest.fixture
def base(rng):
    return rng.integers(0, 256, (40, 3), dtype=np.uint8)


@pytest.fixture
def queries():
    return np.repeat(np.arange(7, dtype=np.uint8), 3).reshape(7, 3)


def test_arrivals_have_the_rate_that_was_asked_for():
    fixed = Schedule(200, 1_000, "fixed").times_ns()
    assert np.all(np.diff(fixed) == 5_000_000)
    poisson = np.diff(Schedule(200, 20_000, seed=3).times_ns())
    assert poisson.mean() == pytest.approx(5e6, rel=0.03)
    assert poisson.std() == pytest.approx(5e6, rel=0.05), "gaps of a Poisson process spread as wide as they are"
    assert np.array_equal(Schedule(200, 50, seed=3).times_ns(), Schedule(200, 50, seed=3).times_ns())


def test_every_arrival_is_asked_once_in_turn(base, queries):
    target = Recording(base)
    schedule = Schedule(2_000, 20, "fixed")
    done = run_open_pass(target, queries, Load(0.9, 3), schedule, k=4)
    rows = rows_asked(schedule, len(queries))
    assert sorted(query for _, _, query in target.asked) == sorted(rows.tolist())
    assert np.array_equal(done.ids, ExactTarget(base).search(queries[rows], 4).ids)


def test_waiting_behind_a_slow_answer_is_part_of_the_latency(base, queries):
    """One caller, 10 ms an answer, an arrival every 2 ms: the n-th waits for 8 ms more than the one before.

    A closed loop would report 10 ms for each of them.
    """
    slow = Recording(base, seconds=0.010)
    done = run_open_pass(slow, queries, Load(0.9, 1), Schedule(500, 10, "fixed"), k=2)
    assert done.latency_us[0] < 25_000
    assert np.all(np.diff(done.latency_us) > 7_000)
    assert done.latency_us[-1] > 80_000


def test_callers_at_hand_answer_side_by_side(base, queries):
    slow = Recording(base, seconds=0.010)
    done = run_open_pass(slow, queries, Load(0.9, 8), Schedule(500, 20, "fixed"), k=2)
    assert slow.inside_max > 1
    assert np.median(done.latency_us) < 40_000


def test_an_idle_target_is_not_asked_before_its_time(base, queries):
    began = time.perf_counter()
    done = run_open_pass(ExactTarget(base), queries, Load(0.9, 2), Schedule(100, 10, "fixed"), k=2)
    assert time.perf_counter() - began > 0.095
    assert done.latency_us.min() > 0


def test_an_error_ends_the_run(base, queries):
    class Failing(ExactTarget):
        def search(self, queries, k=10, *, recall_target=0.95):
            raise ServerError("gone")

    with pytest.raises(ServerError, match="gone"):
        run_open_pass(Failing(base), queries, Load(0.9, 2), Schedule(1_000, 50), k=2)


@pytest.mark.parametrize(
    ("wrong", "says"), [((0, 5), "rate is 0"), ((5, 0), "count 0"), ((5, 5, "often"), "arrivals is 'often'")]
)
def test_a_wrong_schedule_is_named(wrong, says):
    with pytest.raises(InputError, match=says):
        Schedule(*wrong)
