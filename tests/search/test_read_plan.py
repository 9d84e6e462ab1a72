"""The read plan: more recall or more results never take less effort; a plan that fits not itself is damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.codes.rate import Rating
from annserve.errors import CorruptionError
from annserve.search.curves import at_difficulty, at_request
from annserve.search.read_plan import ReadPlan, evenness_of

KS, TARGETS = np.array([1, 10, 100]), np.array([0.8, 0.9, 0.95, 0.99])
FIELDS = ("ks", "targets", "heads", "skip_terms", "skip_below", "evenness", "expected", "worth_enough")
OF_HEADS = ("head_terms", "head_below")


def a_plan() -> ReadPlan:
    effort = np.arange(3)[:, None] + np.arange(4)
    return ReadPlan(
        KS,
        TARGETS,
        heads=4.0 * 2**effort,
        skip_terms=np.arange(24.0).reshape(3, 8),
        skip_below=-3.0 - effort,
        evenness=np.array([0.25, 0.75]),
        expected=1 - np.array([0.3, 0.2]) * 0.5 ** effort[..., None],
        worth_enough=0.5**effort,
        head_terms=np.arange(24.0).reshape(3, 8) / 2,
        head_below=-2.0 - effort,
    )


def rating_of(distances, sizes):
    """A rating of which only distances matter."""
    distances, sizes = np.array(distances, np.float32), np.array(sizes)
    nothing = np.zeros(len(sizes), np.int64)
    pages = np.zeros(distances.shape, np.uint32)
    return Rating(pages, distances, distances, sizes, distances[:, 0], distances[:, 0], nothing, nothing)


def even(*shares):
    """A rating of one query for each share: nearest page at that distance, the 20th and the rest at 1."""
    return rating_of([[share, *[1.0] * 29] for share in shares], [30] * len(shares))


def test_calibrated_points_are_given_back():
    plan = a_plan()
    for a, k in enumerate(KS.tolist()):
        for b, target in enumerate(TARGETS.tolist()):
            assert plan.heads_wanted(k, target, 10_000) == plan.heads[a, b]
            stop = plan.stop(k, target)
            np.testing.assert_allclose(stop.hits_wanted(even(0.25, 0.75), k), k * plan.expected[a, b], rtol=1e-6)
            assert stop.worth_enough == pytest.approx(plan.worth_enough[a, b])
            skip = plan.skip(k, target)
            assert skip.below == pytest.approx(plan.skip_below[a, b])
            np.testing.assert_array_equal(skip.terms, plan.skip_terms[a].astype(np.float32))
            head_skip = plan.head_skip(k, target)
            assert head_skip.below == pytest.approx(plan.head_below[a, b])
            np.testing.assert_array_equal(head_skip.terms, plan.head_terms[a].astype(np.float32))


@given(
    k=st.integers(1, 1_000),
    more=st.integers(1, 500),
    one=st.floats(0.80, 0.99),
    other=st.floats(0.80, 0.99),
    share=st.floats(0, 1),
)
def test_more_recall_or_more_results_never_take_less_effort(k, more, one, other, share):
    plan, n_heads = a_plan(), 1_000
    low, high = min(one, other), max(one, other)

    def expected(k, target):
        return plan.stop(k, target).hits_wanted(even(share), k)[0] / k

    for larger_k, larger_target in ((k + more, low), (k, high)):
        assert plan.heads_wanted(larger_k, larger_target, n_heads) >= plan.heads_wanted(k, low, n_heads)
        assert expected(larger_k, larger_target) >= expected(k, low) - 1e-12
        assert plan.stop(larger_k, larger_target).worth_enough <= plan.stop(k, low).worth_enough + 1e-12
        assert plan.skip(larger_k, larger_target).below <= plan.skip(k, low).below
    assert 1 <= plan.heads_wanted(k, low, n_heads) <= n_heads
    assert 0 <= expected(k, low) <= 1


@pytest.mark.parametrize(("k", "nearest"), [(1, 0), (3, 0), (4, 1), (10, 1), (31, 1), (32, 2), (1_000, 2)])
def test_pages_are_skipped_by_the_terms_of_the_nearest_calibrated_k(k, nearest):
    assert a_plan().skip(k, 0.9).terms[0] == 8 * nearest


@pytest.mark.parametrize(
    ("distances", "size", "evenness"),
    [
        ([0.5] + [2.0] * 24, 25, 0.25),
        ([1.0] * 19 + [4.0] * 6, 25, 0.25),
        ([3.0, 4.0, 6.0, 0.0], 3, 0.5),
        ([3.0, 9.0], 1, 1.0),
        ([0.0, 0.0], 2, 0.0),
        ([7.0, 7.0], 0, 1.0),
        ([2.0, 1.9], 2, 1.0),
    ],
)
def test_evenness_is_the_nearest_page_against_the_20th_or_the_last(distances, size, evenness):
    assert evenness_of(rating_of([distances], [size])) == pytest.approx([evenness], abs=1e-6)


def test_between_two_points_of_evenness_hits_wanted_are_linear_and_beyond_them_constant():
    stop = a_plan().stop(10, 0.9)
    low, high = stop.expected
    wanted = stop.hits_wanted(even(0.0, 0.25, 0.5, 0.75, 1.0), 10) / 10
    np.testing.assert_allclose(wanted, [low, low, (low + high) / 2, high, high], rtol=1e-6)


@pytest.mark.parametrize(
    "left_out", [(), ("evenness",), ("worth_enough",), ("evenness", "worth_enough"), OF_HEADS], ids=str
)
def test_a_plan_survives_its_file_and_what_says_nothing_is_not_written(left_out):
    plan = a_plan()
    if "evenness" in left_out:
        plan = replace(plan, evenness=np.ones(1), expected=plan.expected[..., :1])
    if "worth_enough" in left_out:
        plan = replace(plan, worth_enough=np.full((3, 4), np.inf))
    if left_out == OF_HEADS:
        plan = replace(plan, head_terms=None, head_below=None)
    content = plan.as_dict()
    assert set(content) == {*FIELDS, *OF_HEADS} - set(left_out)
    again = ReadPlan.of(content)
    for name in (*FIELDS, *OF_HEADS):
        np.testing.assert_array_equal(getattr(again, name), getattr(plan, name))


@pytest.mark.parametrize(
    "broken",
    [
        {"ks": [1]},
        {"heads": "many"},
        {"targets": None},
        {"skip_terms": [[0.0] * 7] * 3},
        {"expected": [[0.5] * 4] * 3},
        {"expected": [[[0.5] * 3] * 4] * 3},
        {"evenness": [0.5]},
        {"evenness": None},
        {"evenness": [[0.2, 0.7]]},
        {"worth_enough": [[0.5] * 4] * 2},
        {"worth_enough": {}},
        {"skip_below": [0.0]},
        {"head_below": None},
        {"head_terms": None},
        {"head_terms": [[0.0] * 7] * 3},
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
    plan = ReadPlan(np.array([10]), np.array([0.9]), 14 * one, np.zeros((1, 8)), -one, one[0], one[..., None], one)
    for k, target in ((1, 0.8), (10, 0.9), (1_000, 0.99)):
        assert plan.heads_wanted(k, target, 100) == 7
        assert plan.stop(k, target).hits_wanted(even(0.1), k) == pytest.approx([k / 2])


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
