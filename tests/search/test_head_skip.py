"""Heads that promise too little are left out, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.heads import head_promise

from annserve.search.choose_kernels import NEAREST
from annserve.search.head_skip import HeadSkip

F32 = np.float32


@st.composite
def requests(draw):
    """Heads of a few queries, nearest first, some queries with fewer than others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_queries, width, n_heads = draw(st.integers(1, 4)), draw(st.integers(1, 40)), 50
    head_ids = np.full((n_queries, width), -1, np.int32)
    for own in head_ids:
        found = rng.integers(1, width + 1)
        own[:found] = rng.permutation(n_heads)[:found]
    distances = np.sort(rng.gamma(4, 100, (n_queries, width)), axis=1).astype(F32)
    radii = rng.gamma(9, 2, n_heads).astype(F32)
    return head_ids, distances, radii, HeadSkip(rng.normal(0, 0.5, 8).astype(F32), float(rng.normal(0, 1)))


@given(requests())
def test_a_head_stays_if_it_is_near_or_promises_enough(case):
    head_ids, distances, radii, skip = case
    left_ids, left_distances = skip.keep(head_ids, distances, radii)
    assert left_ids.dtype == np.int32
    for i, own in enumerate(head_ids):
        found = own[own >= 0]
        promises = [head_promise(distances[i], radii, found, rank, NEAREST, skip.terms) for rank in range(len(found))]
        if any(abs(promise - skip.below) < 1e-3 for promise in promises):
            continue
        kept = [rank for rank, promise in enumerate(promises) if rank < NEAREST or promise >= skip.below]
        size = int((left_ids[i] >= 0).sum())
        assert left_ids[i, :size].tolist() == found[kept].tolist()
        assert (left_ids[i, size:] == -1).all()
        np.testing.assert_array_equal(left_distances[i, :size], distances[i][kept])


@pytest.mark.parametrize(("below", "kept"), [(-np.inf, 30), (np.inf, NEAREST)])
def test_the_nearest_heads_are_never_passed_over(rng, below, kept):
    head_ids = np.tile(rng.permutation(30).astype(np.int32), (3, 1))
    distances = np.sort(rng.random((3, 30)), axis=1).astype(F32)
    left, _ = HeadSkip(np.ones(8, F32), below).keep(head_ids, distances, np.ones(30, F32))
    np.testing.assert_array_equal(left, head_ids[:, :kept])


def test_rows_all_alike_pass_over_nothing_by_accident():
    """Distances and radii of 0: no logarithm of zero, no head lost."""
    head_ids = np.arange(12, dtype=np.int32)[None]
    left, _ = HeadSkip(np.eye(8, dtype=F32)[0], 0.5).keep(head_ids, np.zeros((1, 12), F32), np.zeros(12, F32))
    np.testing.assert_array_equal(left, head_ids)
