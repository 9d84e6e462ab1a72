"""In the index space squared L2 keeps every metric's order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.metric import METRIC_CODES, distances_from_space, queries_to_space, rows_to_space
from annserve.spec import METRICS, IndexSpec


def test_every_metric_has_a_code():
    assert set(METRIC_CODES) == set(METRICS)
    assert len(set(METRIC_CODES.values())) == len(METRICS)


@pytest.mark.parametrize("row_type", ["uint8", "int8"])
def test_integers_under_l2_stay_as_they_are(rng, row_type):
    rows = rng.integers(0, 100, (7, 5)).astype(row_type)
    space = rows_to_space(rows, IndexSpec(5, row_type, "l2"))
    assert space.dtype == rows.dtype
    np.testing.assert_array_equal(space, rows)
    assert queries_to_space(rows, IndexSpec(5, row_type, "l2")).dtype == np.float32


@given(
    st.sampled_from(["l2", "ip", "cosine"]),
    st.sampled_from(["float32", "float16", "uint8"]),
    st.sampled_from([1, 3, 40]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_order_is_kept(metric, row_type, dim, seed):
    """Nearer by the metric is nearer in the space, up to float32; and its type and dimension are the spec's."""
    rng = np.random.default_rng(seed)
    spec = IndexSpec(dim, row_type, metric)
    rows = (rng.normal(size=(30, dim)) * 20 + (50 if row_type == "uint8" else 0)).clip(-200, 200).astype(row_type)
    rows[~rows.any(axis=1)] = 1
    queries = (rng.normal(size=(4, dim)) * 10).astype(np.float32) + np.float32(1e-3)
    norm_max = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    space, asked = rows_to_space(rows, spec, norm_max), queries_to_space(queries, spec, norm_max)
    assert space.shape == (30, spec.space_dim)
    assert space.dtype == spec.space_dtype
    assert asked.shape == (4, spec.space_dim)
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    products = q @ x.T
    if metric == "l2":
        wanted = ((q[:, None] - x) ** 2).sum(axis=2)
    elif metric == "ip":
        wanted = -products / np.linalg.norm(q, axis=1)[:, None] * 2 * norm_max + 2 * norm_max**2
    else:
        wanted = 2 - 2 * products / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    found = ((asked[:, None].astype(np.float64) - space) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * max(norm_max, 1) ** 2)
    reported = {"l2": wanted, "ip": -products, "cosine": wanted / 2}[metric]
    told = np.array([distances_from_space(wanted[:, i], queries, spec, norm_max) for i in range(30)]).T
    np.testing.assert_allclose(told, reported, rtol=1e-5, atol=1e-6 * max(norm_max, 1) ** 2)


def test_zeros_need_no_direction_under_inner_product():
    spec = IndexSpec(3, "float32", "ip")
    zeros = np.zeros((2, 3), np.float32)
    with np.errstate(all="raise"):
        assert not rows_to_space(zeros, spec, 0.0).any()
        assert not queries_to_space(zeros, spec, 5.0).any()
        assert not queries_to_space(np.ones((1, 3), np.float32), spec, 0.0).any()


def test_the_longest_row_has_no_tail(rng):
    """Rounding must not make the root of a negative number."""
    rows = rng.normal(size=(50, 33)).astype(np.float32)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    space = rows_to_space(rows, IndexSpec(33, "float32", "ip"), float(norms.max()) * (1 - 1e-12))
    assert np.isfinite(space).all()
    assert space[np.argmax(norms), -1] == 0
