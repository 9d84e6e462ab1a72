"""Quantization loses nothing of integers, and of floats never more than it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import pages as oracle

from annserve.pages.rows import quantize_queries, quantize_rows
from annserve.spec import IndexSpec


@st.composite
def float_rows(draw):
    """Valid float rows: plain, one coordinate alone, tiny down to subnormal, huge, mixed magnitudes, zero."""
    dim, row_type = draw(st.sampled_from([1, 2, 3, 17, 257])), draw(st.sampled_from(["float16", "float32"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["plain", "alone", "tiny", "huge", "mixed", "zero", "equal"]))
    rows = rng.normal(size=(6, dim))
    if kind == "alone":
        rows[:, 1:] = 0
    elif kind == "tiny":
        rows *= 1e-44 if row_type == "float32" else 1e-7
    elif kind == "huge":
        rows *= 1e14 if row_type == "float32" else 1e4
    elif kind == "mixed":
        rows *= 10.0 ** rng.integers(-6, 4, rows.shape)
    elif kind == "equal":
        rows[:] = rows[:, :1]
    elif kind == "zero":
        rows[::2] = 0
    return rows.astype(row_type)


@given(float_rows(), st.sampled_from(["l2", "ip", "cosine"]))
@settings(max_examples=300)
def test_the_error_bound_is_never_less_than_the_true_error(rows, metric):
    if metric == "cosine":
        rows = rows[rows.any(axis=1)]
    spec = IndexSpec(rows.shape[1], str(rows.dtype), metric)
    stored = quantize_rows(rows, spec)
    assert stored.elements.dtype == np.int8
    for row, elements, scale, bound in zip(rows, stored.elements, stored.scales, stored.errors):
        exact = oracle.exact_row(row, metric)
        true_error = np.linalg.norm(exact - np.float64(scale) * elements)
        # Under cosine the unit vector itself is only known to float64.
        assert bound >= true_error - (1e-15 if metric == "cosine" else 0.0)
        step = np.abs(exact).max() / 127
        # Nor is it loose: half a step a coordinate, and what rounding the scale to float32 adds.
        rounding = 1e-7 * np.abs(exact).max() + 127 * 1e-45
        assert bound <= (0.51 * step + rounding) * np.sqrt(len(row))
        assert np.abs(elements.astype(int)).max() <= 127


@given(float_rows())
@settings(max_examples=100)
def test_the_scale_is_the_best_of_its_direction(rows):
    """Under L2 no other scale brings the stored row nearer (to float32); under cosine it has length one."""
    stored = quantize_rows(rows, IndexSpec(rows.shape[1], str(rows.dtype), "l2"))
    for row, elements, scale in zip(rows.astype(np.float64), stored.elements.astype(np.float64), stored.scales):
        if np.abs(row).max() < 1e-30:
            continue
        here = np.linalg.norm(row - np.float64(scale) * elements)
        for other in (0.999, 1.001):
            assert np.linalg.norm(row - other * np.float64(scale) * elements) >= here * (1 - 1e-9)
    some = rows[rows.any(axis=1)]
    unit = quantize_rows(some, IndexSpec(rows.shape[1], str(rows.dtype), "cosine"))
    lengths = unit.scales * np.linalg.norm(unit.elements.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


@pytest.mark.parametrize("row_type", ["uint8", "int8"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_integer_rows_are_stored_bit_by_bit(rng, row_type, metric):
    info = np.iinfo(row_type)
    rows = rng.integers(info.min, info.max + 1, (50, 9)).astype(row_type)
    rows[0], rows[1] = info.min, info.max
    stored = quantize_rows(rows, IndexSpec(9, row_type, metric))
    assert stored.elements.dtype == rows.dtype
    np.testing.assert_array_equal(stored.elements, rows)
    assert (stored.scales == 1).all()
    assert (stored.errors == 0).all()


@given(float_rows())
@settings(max_examples=150)
def test_a_query_is_within_a_32768th_of_its_largest_coordinate(rows):
    queries = quantize_queries(rows.astype(np.float32))
    assert queries.elements.dtype == np.int16
    elements, scales = oracle.quantize_queries(rows.astype(np.float32))
    np.testing.assert_array_equal(queries.elements, elements)
    np.testing.assert_array_equal(queries.scales, scales)
    restored = queries.scales[:, None] * queries.elements
    limits = np.abs(rows.astype(np.float64)).max(axis=1, keepdims=True) / 32_767
    assert (np.abs(restored - rows.astype(np.float32)) <= 0.5001 * limits).all()
    np.testing.assert_array_equal(queries.norms, (queries.elements.astype(np.float64) ** 2).sum(axis=1))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_queries_of_whole_numbers_are_exact(rng, dtype):
    values = rng.integers(0, 120, (20, 33)).astype(dtype)
    queries = quantize_queries(values)
    assert (queries.scales == 1).all()
    np.testing.assert_array_equal(queries.elements, values)
    far = np.array([[32_767.0, -32_767.0, 5.0], [32_768.0, 1.0, 0.0]], np.float32)
    assert quantize_queries(far).scales.tolist() == [1.0, 32_768 / 32_767]


def test_a_zero_query_stays_zero():
    queries = quantize_queries(np.zeros((2, 3), np.float32))
    assert not queries.elements.any()
    assert (queries.norms == 0).all()
