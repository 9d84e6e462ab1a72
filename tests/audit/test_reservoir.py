"""Each query that was offered is as likely to be kept as any other, at next to no cost."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from annserve.audit import Reservoir

IDS, DISTANCES = np.zeros((1, 3), np.uint64), np.zeros((1, 3), np.float32)


def offer(reservoir: Reservoir, numbers: np.ndarray) -> None:
    n = len(numbers)
    reservoir.offer(numbers[:, None], np.repeat(IDS, n, 0), np.repeat(DISTANCES, n, 0), 0.95, 0.95, 1)


@pytest.mark.parametrize("calls", [[1] * 200, [200], [7] * 28 + [4], [1, 150, 49]])
def test_every_query_is_kept_as_often_as_any_other(calls):
    """However many come in one call: each of 200 is kept in 10 of 200 cases; five standard deviations are allowed."""
    rounds, counts = 800, np.zeros(200)
    for seed in range(rounds):
        reservoir, at = Reservoir(10, seed), 0
        for n in calls:
            offer(reservoir, np.arange(at, at + n))
            at += n
        kept = [int(sample.query[0]) for sample in reservoir.take()]
        assert len(kept) == len(set(kept)) == 10
        counts[kept] += 1
    expected = rounds * 10 / 200
    assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_what_is_kept_is_copied_and_taken_once():
    reservoir, numbers = Reservoir(4), np.arange(3)
    offer(reservoir, numbers)
    numbers[:] = 9
    assert [int(sample.query[0]) for sample in reservoir.take()] == [0, 1, 2]
    assert reservoir.take() == []
    offer(reservoir, numbers[:1])
    assert len(reservoir) == 1


def test_a_call_of_which_nothing_is_kept_costs_next_to_nothing():
    reservoir, one = Reservoir(32), np.zeros((1, 128), np.float32)
    for _ in range(200_000):
        reservoir.offer(one, IDS, DISTANCES, 0.95, 0.95, 1)
    begun = time.process_time()
    for _ in range(10_000):
        reservoir.offer(one, IDS, DISTANCES, 0.95, 0.95, 1)
    assert (time.process_time() - begun) / 10_000 < 10e-6


def test_threads_may_share_it():
    reservoir = Reservoir(16)

    def work():
        for i in range(3_000):
            offer(reservoir, np.array([i]))
            if i % 500 == 0:
                reservoir.take()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reservoir) <= 16
