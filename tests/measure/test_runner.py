"""The loop is closed, fair and complete: every query once a pass, warm-up outside, loads in turn."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from broken_targets import ExactTarget

from annserve.errors import InputError, ServerError
from annserve.events import StageFinished, StageProgressed, StageStarted
from annserve.measure.runner import WARM_UP_QUERIES, Load, run_loads, run_pass


class Recording(ExactTarget):
    """Notes what it was asked, and how many callers were inside at once."""

    def __init__(self, base, seconds=0.0):
        super().__init__(base)
        self.asked, self.shapes, self.inside, self.inside_max = [], set(), 0, 0
        self.seconds, self._lock = seconds, threading.Lock()

    def search(self, queries, k=10, *, recall_target=0.95):
        with self._lock:
            self.asked.append((recall_target, k, int(queries[0, 0])))
            self.shapes.add(queries.shape)
            self.inside += 1
            self.inside_max = max(self.inside_max, self.inside)
        time.sleep(self.seconds)
        with self._lock:
            self.inside -= 1
            return super().search(queries, k, recall_target=recall_target)


@pytest.fixture
def base(rng):
    return rng.integers(0, 256, (40, 3), dtype=np.uint8)


@pytest.fixture
def queries():
    return np.repeat(np.arange(7, dtype=np.uint8), 3).reshape(7, 3)


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_every_query_is_asked_once_a_pass_alone_in_its_call(base, queries, threads):
    target = Recording(base)
    one = run_pass(target, queries, Load(0.9, threads), k=4)
    assert sorted(target.asked) == [(0.9, 4, row) for row in range(7)]
    assert target.shapes == {(1, 3)}
    expected = ExactTarget(base).search(queries, 4)
    np.testing.assert_array_equal(one.ids, expected.ids)
    np.testing.assert_array_equal(one.distances, expected.distances)
    assert (one.latency_us > 0).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_no_caller_asks_before_it_was_answered(base, queries, threads):
    target = Recording(base, seconds=0.02)
    run_pass(target, queries, Load(0.9, threads), k=1)
    assert target.inside_max == threads


def test_callers_begin_together_however_slowly_they_start(base, queries, monkeypatch):
    """Otherwise the first one would be measured alone."""

    class SlowToStart(threading.Thread):
        def start(self):
            super().start()
            time.sleep(0.15)

    monkeypatch.setattr(threading, "Thread", SlowToStart)
    one = run_pass(Recording(base, seconds=0.001), queries, Load(0.9, 3), k=1)
    assert one.seconds < 0.15


def test_times_are_those_of_the_calls(base, queries):
    one = run_pass(Recording(base, seconds=0.01), queries, Load(0.9, 1), k=1)
    assert (one.latency_us >= 10_000).all()
    assert one.seconds >= 0.07
    assert one.seconds * 1e6 >= one.latency_us.sum()


def test_warm_up_is_outside_and_repetitions_take_turns(base):
    target = Recording(base)
    queries = np.zeros((WARM_UP_QUERIES + 10, 3), np.uint8)
    loads = [Load(0.9, 1), Load(0.98, 1)]
    passes = run_loads(target, queries, loads, k=1, repetitions=2)
    targets = [recall_target for recall_target, _, _ in target.asked]
    warm, nq = WARM_UP_QUERIES, len(queries)
    assert targets == [0.9] * warm + [0.98] * warm + ([0.9] * nq + [0.98] * nq) * 2
    assert [len(passes[load]) for load in loads] == [2, 2]
    assert all(len(one.latency_us) == nq for load in loads for one in passes[load])


def test_the_targets_error_is_raised_as_it_is_and_stops_the_others(base, queries):
    class Failing(Recording):
        def search(self, queries, k=10, *, recall_target=0.95):
            if queries[0, 0] == 1:
                raise ServerError("the server is gone")
            time.sleep(0.02)
            return super().search(queries, k, recall_target=recall_target)

    target = Failing(base)
    with pytest.raises(ServerError, match="gone"):
        run_pass(target, np.tile(queries, (20, 1)), Load(0.9, 2), k=1)
    assert len(target.asked) <= 10  # of 140


def test_progress_is_told_to_the_end(base, queries):
    events = []
    run_loads(ExactTarget(base), queries, [Load(0.9, 1)], k=1, repetitions=3, listener=events.append)
    assert events[0] == StageStarted("measure", 21, "queries")
    assert [event.done for event in events if isinstance(event, StageProgressed)] == [7, 14, 21]
    assert isinstance(events[-1], StageFinished)


@pytest.mark.parametrize(
    ("n_queries", "threads", "repetitions", "says"),
    [(0, 1, 1, "no queries"), (1, 0, 1, "threads is 0"), (1, 1, 0, "repetitions is 0")],
)
def test_nothing_to_do_is_an_error(base, queries, n_queries, threads, repetitions, says):
    with pytest.raises(InputError, match=says):
        run_loads(ExactTarget(base), queries[:n_queries], [Load(0.9, threads)], k=1, repetitions=repetitions)
