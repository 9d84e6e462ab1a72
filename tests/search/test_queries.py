"""Suspecting queries in a kernel says what NumPy says of each row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annserve.errors import InputError
from annserve.search.queries import suspect
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
