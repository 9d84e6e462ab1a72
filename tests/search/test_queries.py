"""Kernels say of queries, and make of them, what NumPy does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import InputError
from annserve.metric import queries_to_space
from annserve.pages.rows import quantize_queries
from annserve.search.queries import prepared, suspect
from annserve.spec import IndexSpec, check_vectors, first_invalid_row

SPECIAL = [np.nan, np.inf, -np.inf, 1e15, -1e15, 1.1e15, -1e38, 1e-45, 0.0]


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from([1, 3, 40]), st.sampled_from(["l2", "ip", "cosine"])
)
def test_what_is_suspected_is_invalid_and_nothing_else(seed, n_queries, dim, metric):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(n_queries, dim)).astype(np.float32)
    if n_queries and seed % 2:
        queries[rng.integers(n_queries), rng.integers(dim)] = rng.choice(SPECIAL)
    if n_queries and seed % 3 == 0:
        queries[rng.integers(n_queries)] = 0
    assert suspect(queries, metric) == (first_invalid_row(queries, metric) is not None)
    whole = np.clip(np.nan_to_num(queries), -100, 100).astype(np.int8)
    assert suspect(whole, metric) == (first_invalid_row(whole, metric) is not None)


def test_a_suspicion_names_the_row():
    queries = np.ones((5, 3))
    queries[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3 of the queries holds NaN"):
        check_vectors(queries, IndexSpec(3, "float32", "l2"), suspect=suspect)
    assert len(check_vectors(queries[:3], IndexSpec(3, "float32", "l2"), suspect=suspect)) == 3


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.sampled_from([1, 3, 40]),
    st.sampled_from(["l2", "ip", "cosine"]),
    st.sampled_from(["float32", "uint8", "int8"]),
)
def test_queries_are_prepared_as_numpy_carries_them_into_the_index_space(seed, n_queries, dim, metric, row_type):
    """But for the last place: NumPy adds squares in an order of its own."""
    rng = np.random.default_rng(seed)
    queries = (rng.normal(size=(n_queries, dim)) * 10.0 ** rng.integers(-9, 14)).astype(np.float32)
    if row_type != "float32":
        queries = rng.integers(0, 100, (n_queries, dim)).astype(row_type)
    if metric == "cosine":
        queries[:, 0] = np.maximum(np.abs(queries[:, 0]), 1)
    elif n_queries and seed % 3 == 0:
        queries[0] = 0
    spec = IndexSpec(dim, row_type, metric)
    space, quantized = prepared(queries, spec, 3.5)
    np.testing.assert_allclose(space, queries_to_space(queries, spec, 3.5), rtol=2e-7, atol=0)
    alone = quantize_queries(queries)
    np.testing.assert_array_equal(quantized.elements, alone.elements)
    np.testing.assert_array_equal(quantized.scales, alone.scales)
    np.testing.assert_array_equal(quantized.norms, alone.norms)
