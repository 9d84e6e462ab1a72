"""Answers are held against the rows themselves: what no truth and no order shows, the base shows."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.measure.evidence import distances_of, examine
from annserve.measure.target import NO_ID
from annserve.measure.truth import check_truth
from annserve.vectors.truth import exact_neighbours

N, NQ, DIM, K = 500, 40, 12, 10
METRICS = ("l2", "ip", "cosine")


@pytest.fixture(params=METRICS)
def asked(request, rng):
    """Metric, base, queries, and right answers with their distances."""
    base = rng.normal(size=(N, DIM)).astype(np.float32)
    queries = rng.normal(size=(NQ, DIM)).astype(np.float32)
    ids, distances = exact_neighbours(base, queries, 30, request.param, threads=1)
    return request.param, base, queries, ids.astype(np.uint64), distances


def judged(asked, ids=None, claimed=None, truth=None):
    metric, base, queries, nearest, distances = asked
    ids = nearest[:, :K] if ids is None else ids
    claimed = distances[:, :K] if claimed is None else claimed
    truth = check_truth(nearest, distances, n_queries=NQ, k=K) if truth is None else truth
    return examine(ids, claimed.astype(np.float32), queries, base, truth, k=K, metric=metric)


def counts(found):
    return (found.unknown, found.misplaced, found.beat_truth)


def test_distances_are_those_of_the_rows(asked):
    metric, base, queries, ids, distances = asked
    assert np.allclose(distances_of(ids, queries, base, metric), distances, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("unit", [lambda d: d, lambda d: 2 * d, lambda d: d - 1], ids=["same", "twice", "less one"])
def test_right_answers_in_any_unit_have_no_fault(asked, unit):
    found = judged(asked, claimed=unit(asked[4][:, :K]))
    assert counts(found) == (0, 0, 0)
    assert found.distance_error < 1e-5


def test_rounded_distances_are_no_fault_and_their_error_is_told(asked, rng):
    distances = asked[4][:, :K]
    width = np.ptp(distances, axis=1).mean()
    found = judged(asked, claimed=distances + rng.normal(size=distances.shape) * 0.05 * width)
    assert counts(found) == (0, 0, 0)
    assert 0.01 < found.distance_error < 0.1


def test_ids_shuffled_under_their_distances_are_misplaced(asked, rng):
    found = judged(asked, ids=rng.permuted(asked[3][:, :K], axis=1))
    assert found.misplaced >= 0.95 * NQ


def test_one_wrong_id_in_a_hundred_is_found_where_it_stands(asked):
    ids = asked[3][:, :K].copy()
    ids[::10, 4] = (ids[::10, 4] + N // 2) % N
    assert judged(asked, ids=ids).misplaced == NQ // 10
    ids[5, 0] = N
    assert judged(asked, ids=ids).unknown == 1


def test_missing_results_are_no_other_fault(asked):
    ids, claimed = asked[3][:, :K].copy(), asked[4][:, :K].copy()
    ids[3, -2:], claimed[3, -2:] = NO_ID, np.inf
    assert counts(judged(asked, ids=ids, claimed=claimed)) == (0, 0, 0)


def test_a_truth_that_misses_rows_is_beaten_by_right_answers(asked):
    metric, base, queries, _, _ = asked
    ids, distances = exact_neighbours(base[: N // 2], queries, 30, metric, threads=1)
    truth = check_truth(ids, distances, n_queries=NQ, k=K)
    assert judged(asked, truth=truth).beat_truth > NQ // 2
