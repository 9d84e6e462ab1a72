"""Distances between a query and a stored row are exact, whatever dimension and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernels as oracle

from annserve.kernels.distance import dot_and_norm, squared_l2

#: Around the block of 256 elements, odd ones, and one.
DIMS = [1, 2, 3, 17, 255, 256, 257, 511, 512, 515]


@st.composite
def pairs(draw, limit):
    """A query of int16 within ±limit, a buffer of rows, and where the row starts in it."""
    dim, dtype = draw(st.sampled_from(DIMS)), np.dtype(draw(st.sampled_from(["uint8", "int8"])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    info, start = np.iinfo(dtype), draw(st.integers(0, 5))
    if draw(st.booleans()):
        query = rng.integers(-limit, limit + 1, dim).astype(np.int16)
        rows = rng.integers(info.min, info.max + 1, start + dim + 3).astype(dtype)
    else:
        query = rng.choice([-limit, 0, limit], dim).astype(np.int16)
        rows = rng.choice([info.min, 0, info.max], start + dim + 3).astype(dtype)
    return query, rows, start


@given(pairs(limit=32_767))
@settings(max_examples=150)
def test_inner_product_and_norm_are_exact(pair):
    query, rows, start = pair
    dim = len(query)
    assert dot_and_norm(query, rows, start, dim) == oracle.dot_and_norm(query, rows[start : start + dim])


@given(pairs(limit=2_500))
@settings(max_examples=150)
def test_squared_distance_is_exact(pair):
    query, rows, start = pair
    dim = len(query)
    assert squared_l2(query, rows, start, dim) == oracle.squared_l2(query, rows[start : start + dim])


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("dim", [256, 32_768])
def test_the_largest_sums_do_not_overflow(dtype, dim):
    """All coordinates at their limits, with signs that make every term as large as it can be."""
    info = np.iinfo(dtype)
    far = info.max if info.min == 0 else info.min
    row = np.full(dim, far, dtype)
    for sign in (-1, 1):
        query = np.full(dim, sign * 32_767, np.int16)
        assert dot_and_norm(query, row, 0, dim) == (sign * 32_767 * far * dim, far * far * dim)
        query = np.full(dim, sign * 2_500, np.int16)
        assert squared_l2(query, row, 0, dim) == (sign * 2_500 - far) ** 2 * dim
