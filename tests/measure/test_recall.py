"""Recall counts what it says: ties in, repeats once, padding never; a wrong truth is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.measure import recall_of_one

from annserve.errors import InputError
from annserve.measure.faults import faults_of
from annserve.measure.recall import find_faults, recall_k_at_k
from annserve.measure.target import NO_ID
from annserve.measure.truth import RELATIVE_EPSILON, check_truth


def truth_of(ids, distances=None, k=1):
    return check_truth(np.array(ids), None if distances is None else np.array(distances), n_queries=len(ids), k=k)


def recall(answer, truth, k):
    return recall_k_at_k(np.array([answer], np.uint64), truth, k)[0]


def test_a_row_as_near_as_the_kth_counts_as_right():
    truth = truth_of([[4, 7, 9, 2, 5]], [[1, 3, 6, 6, 8]], k=3)
    assert recall([4, 7, 2], truth, 3) == 1
    assert recall([4, 7, 5], truth, 3) == pytest.approx(2 / 3)


def test_all_tied_rows_together_are_no_more_than_everything():
    truth = truth_of([[4, 7, 9, 2, 5]], [[6, 6, 6, 6, 8]], k=2)
    assert recall([9, 2], truth, 2) == 1
    assert recall([9, 2, 4, 7], truth, 2) == 1


def test_without_distances_only_the_first_k_count():
    truth = truth_of([[4, 7, 9, 2, 5]], k=3)
    assert recall([4, 7, 2], truth, 3) == pytest.approx(2 / 3)


def test_a_repeated_id_counts_once():
    assert recall([4, 4, 4], truth_of([[4, 7, 9]], k=3), 3) == pytest.approx(1 / 3)


def test_padding_never_counts():
    truth = truth_of([[4, 7, 9]], k=3)
    assert recall([4, 7, NO_ID], truth, 3) == pytest.approx(2 / 3)
    assert recall([NO_ID] * 3, truth, 3) == 0


def test_only_the_first_k_of_a_wide_answer_count():
    assert recall([1, 2, 4, 7], truth_of([[4, 7, 9]], k=2), 2) == 0


def test_whole_numbers_tie_only_if_equal_and_floats_within_the_epsilon():
    big = 10_000_000
    assert recall([2], truth_of([[1, 2]], [[big, big + 1]]), 1) == 0
    assert recall([2], truth_of([[1, 2]], np.array([[big, big + 1]], np.float32)), 1) == 0
    near, far = 0.7 * (1 + RELATIVE_EPSILON / 2), 0.7 * (1 + 2 * RELATIVE_EPSILON)
    assert recall([2], truth_of([[1, 2]], [[0.7, near]]), 1) == 1
    assert recall([2], truth_of([[1, 2]], [[0.7, far]]), 1) == 0


def test_whole_floats_too_large_to_be_exact_tie_within_the_epsilon():
    distances = np.array([[2.0**26, 2.0**26 + 8]], np.float32)
    assert recall([2], truth_of([[1, 2]], distances), 1) == 1


def test_similarities_are_read_as_falling_distances():
    truth = truth_of([[4, 7, 9, 2]], np.array([[0.9, 0.8, 0.8, -0.1]], np.float32), k=2)
    assert recall([4, 9], truth, 2) == 1
    assert recall([4, 2], truth, 2) == 0.5


def test_ids_beyond_int64_keep_their_value():
    large = 2**63 + 5
    truth = check_truth(np.array([[large, 3]], np.uint64), None, n_queries=1, k=1)
    assert recall([large], truth, 1) == 1
    assert recall([large - 1], truth, 1) == 0


def test_more_queries_than_a_chunk_are_judged_each_by_its_own_truth(rng):
    ids = np.arange(5_000).reshape(2_500, 2)
    answers = ids.astype(np.uint64)
    answers[1_777, 0] = 0
    recalls = recall_k_at_k(answers, check_truth(ids, None, n_queries=2_500, k=2), 2)
    assert recalls[1_777] == 0.5
    assert recalls.sum() == 2_499.5


@st.composite
def judged_answers(draw):
    depth = draw(st.integers(1, 8))
    k = draw(st.integers(1, depth))
    n_queries = draw(st.integers(1, 4))
    id_ = st.integers(0, 12)
    truth = [draw(st.permutations(range(13)))[:depth] for _ in range(n_queries)]
    whole = draw(st.booleans())
    value = st.integers(0, 4) if whole else st.sampled_from([0.0, 0.25, 0.5, 0.5 * (1 + 4e-7), 3e7])
    known = draw(st.booleans())
    distances = [sorted(draw(value) for _ in range(depth)) for _ in range(n_queries)] if known else None
    width = draw(st.integers(0, k + 2))
    answers = [[draw(st.one_of(id_, st.just(int(NO_ID)))) for _ in range(width)] for _ in range(n_queries)]
    return k, truth, distances, answers


@given(judged_answers())
@settings(max_examples=300)
def test_recall_agrees_with_its_definition(case):
    k, ids, distances, answers = case
    truth = truth_of(ids, distances, k)
    found = recall_k_at_k(np.array(answers, np.uint64).reshape(len(ids), -1), truth, k)
    lists = distances if distances is not None else [None] * len(ids)
    expected = [recall_of_one(*one, k, truth.epsilon) for one in zip(answers, ids, lists)]
    np.testing.assert_array_equal(found, expected)


def test_a_list_that_ends_within_a_tie_is_reported():
    distances = [[1, 3, 3, 3], [1, 3, 3, 4]]
    truth = truth_of([[4, 7, 9, 2], [1, 2, 3, 4]], distances, k=2)
    assert truth.ties_cut(2) == 1
    assert truth.ties_cut(4) is None
    assert truth_of([[4, 7, 9]], k=2).ties_cut(2) is None


def test_malformed_answers_are_counted_by_kind():
    ids = np.array([[1, 2, 3], [1, 2, NO_ID], [NO_ID, NO_ID, NO_ID], [1, 1, 3], [1, 2, 3], [1, 2, 3]], np.uint64)
    distances = np.array([[1, 1, 2], [1, 2, np.nan], [np.nan] * 3, [1, 1, 3], [2, 1, 3], [1, np.nan, 3]], np.float32)
    faults = find_faults(ids, distances)
    assert (faults.padded, faults.repeated, faults.unordered) == (2, 1, 2)


@pytest.mark.parametrize(
    ("ids", "distances", "n_queries", "k", "says"),
    [
        ([[1, 2]], None, 2, 1, "1 rows, but there are 2 queries"),
        ([[1, 2]], None, 1, 3, "2 neighbours a query, but k is 3"),
        ([[1.0, 2.0]], None, 1, 1, "float64"),
        ([1, 2], None, 2, 1, "1-axis"),
        ([[1, 2], [3, -1]], None, 2, 1, "row 1 of the truth holds a negative id"),
        ([[1, 2], [3, 3]], None, 2, 1, "row 1 of the truth names a row twice"),
        ([[1, 2]], [[1.0]], 1, 1, "shape (1, 1)"),
        (
            [[1, 2], [3, 4]],
            [[1.0, 2.0], [1.0, np.nan]],
            2,
            1,
            "row 1 of the truth holds a distance that is NaN",
        ),
        ([[1, 2]] * 3, [[1, 2], [2, 1], [1, 3]], 3, 1, "row 1 of the truth isn't sorted"),
    ],
)
def test_a_truth_that_does_not_fit_is_refused_with_both_values(ids, distances, n_queries, k, says):
    with pytest.raises(InputError) as caught:
        check_truth(np.array(ids), None if distances is None else np.array(distances), n_queries=n_queries, k=k)
    assert says in str(caught.value)


@pytest.mark.needs_shared
def test_real_truth_files_are_accepted_and_agree_with_themselves(shared_data):
    """Their first ten ids are right; sift's whole distances are compared exactly."""
    from annserve.measure.workload import load_workload

    sift = shared_data / "sift-photos"
    exact = load_workload(sift / "query.u8bin", sift / "gt.ibin100", k=10)
    assert exact.truth.epsilon == 0
    assert (recall_k_at_k(exact.truth.ids[:, :10], exact.truth, 10) == 1).all()
    squad = shared_data / "squad-minilm"
    rounded = load_workload(squad / "queries.f16.npy", squad / "gt.ids.npy", squad / "gt.sims.npy", k=10)
    assert rounded.truth.epsilon == RELATIVE_EPSILON
    assert (recall_k_at_k(rounded.truth.ids[:, :10], rounded.truth, 10) == 1).all()
    assert rounded.inputs["truth"]["sha256"].startswith("7419ee3929d9")


def test_bytes_that_nobody_counts_are_a_fault_but_where_caches_were_dropped():
    record = {"load": "closed", "device_bytes_ratio": 1.5}
    assert list(faults_of(record)) == [
        "the kernel read 1.50 times the bytes that the system counts: reads go uncounted"
    ]
    assert list(faults_of({**record, "device_bytes_ratio": 1.01})) == []
    assert list(faults_of({**record, "load": "cold"})) == [], "what is mapped comes from the disk again"
