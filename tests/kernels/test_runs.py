"""Runs of neighbouring numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annserve.kernels.runs import count_runs


@given(st.lists(st.lists(st.one_of(st.integers(0, 12), st.integers(2**32 - 4, 2**32 - 1)), max_size=9), max_size=5))
def test_a_run_ends_where_the_next_number_does_not_follow(parts):
    """Ends of parts end runs too; the largest number is not followed by zero."""
    numbers = np.array([number for part in parts for number in part], np.uint32)
    offsets = np.cumsum([0, *map(len, parts)])
    runs = np.full(len(parts), -1)
    count_runs(numbers, offsets, runs)
    assert runs.tolist() == [sum(i == 0 or part[i] != part[i - 1] + 1 for i in range(len(part))) for part in parts]
