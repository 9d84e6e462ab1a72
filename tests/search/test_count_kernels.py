"""Costs of a block against counting by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annserve.results import SearchStats
from annserve.search.count_kernels import count_costs


@given(
    st.lists(st.lists(st.one_of(st.integers(0, 12), st.integers(2**32 - 4, 2**32 - 1)), max_size=9), max_size=5),
    st.integers(1, 10),
)
def test_a_run_ends_where_the_next_number_does_not_follow_or_it_is_long_enough(parts, longest):
    """Ends of parts end runs too; the largest number is not followed by zero."""
    numbers = np.array([number for part in parts for number in part], np.uint32)
    offsets = np.cumsum([0, *map(len, parts)])
    chosen = np.cumsum([0, *(len(part) + i for i, part in enumerate(parts))])
    counts = np.full((len(SearchStats.COUNTS), len(parts)), -1)
    count_costs(numbers, offsets, chosen, longest, 4_096, counts)
    costs = dict(zip(SearchStats.COUNTS, counts.tolist()))
    assert costs.pop("pages_read") == [len(part) for part in parts]
    assert costs.pop("reads") == [count(part, longest) for part in parts]
    assert costs.pop("bytes_read") == [4_096 * len(part) for part in parts]
    assert costs.pop("pages_cached") == list(range(len(parts)))
    assert not any(map(any, costs.values()))


def count(part: list[int], longest: int) -> int:
    """Count runs of one part, by a list of their lengths."""
    lengths: list[int] = []
    for i, number in enumerate(part):
        if i and number == part[i - 1] + 1 and lengths[-1] < longest:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return len(lengths)
