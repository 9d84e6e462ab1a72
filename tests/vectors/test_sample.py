"""Samples are distinct, ascending, uniform and the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.vectors.sample import sample_row_ids, sample_rows
from annserve.vectors.source import ArraySource


@given(count=st.integers(1, 300), n_rows=st.integers(0, 320), seed=st.integers(0, 2**32))
def test_a_sample_is_distinct_ascending_and_repeatable(count: int, n_rows: int, seed: int) -> None:
    row_ids = sample_row_ids(count, n_rows, seed)
    assert len(row_ids) == min(count, n_rows)
    assert (np.diff(row_ids) > 0).all()
    if len(row_ids):
        assert 0 <= row_ids[0] <= row_ids[-1] < count
    np.testing.assert_array_equal(row_ids, sample_row_ids(count, n_rows, seed))


@pytest.mark.parametrize("n_rows", [3, 8])
def test_every_row_is_equally_likely(n_rows: int) -> None:
    """20,000 samples of ten rows: each count lies within five standard deviations."""
    counts = np.zeros(10)
    for seed in range(20_000):
        counts[sample_row_ids(10, n_rows, seed)] += 1
    share = n_rows / 10
    assert np.abs(counts - 20_000 * share).max() < 5 * np.sqrt(20_000 * share * (1 - share))


def test_a_sample_of_a_billion_takes_memory_for_the_sample_only() -> None:
    row_ids = sample_row_ids(10**12, 1_000, seed=5)
    assert len(np.unique(row_ids)) == 1_000
    assert row_ids.mean() == pytest.approx(5e11, rel=0.1)


def test_sampled_rows_are_the_rows_of_their_numbers(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(500, 4)).astype(np.float16)
    row_ids, sampled = sample_rows(ArraySource(rows), 60, seed=1)
    np.testing.assert_array_equal(sampled, rows[row_ids])
