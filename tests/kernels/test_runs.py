"""Runs of neighbouring numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annserve.kernels.runs import count_runs


@given(
    st.lists(st.lists(st.one_of(st.integers(0, 12), st.integers(2**32 - 4, 2**32 - 1)), max_size=9), max_size=5),
    st.integers(1, 10),
)
def test_a_run_ends_where_the_next_number_does_not_follow_or_it_is_long_enough(parts, longest):
    """Ends of parts end runs too; the largest number is not followed by zero."""
    numbers = np.array([number for part in parts for number in part], np.uint32)
    offsets = np.cumsum([0, *map(len, parts)])
    runs = np.full(len(parts), -1)
    count_runs(numbers, offsets, longest, runs)
    assert runs.tolist() == [count(part, longest) for part in parts]


def count(part: list[int], longest: int) -> int:
    """Count runs of one part, by a list of their lengths."""
    lengths: list[int] = []
    for i, number in enumerate(part):
        if i and number == part[i - 1] + 1 and lengths[-1] < longest:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return len(lengths)
