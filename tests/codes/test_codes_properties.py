"""Codes against their oracle over odd shapes: encode, decode, tables and the scan of pages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import codes as oracle

from annserve.codes import kernels
from annserve.codes.encode import decode, encode
from annserve.codes.layout import (
    CODE_BYTES_MAX,
    NARROW_BYTES_MAX,
    SCAN_SLACK_BYTES,
    Codebook,
    allocate_pages,
    flat_with_slack,
    pack_page,
    table_passes,
    unpack_page,
)
from annserve.codes.train import second_moment, train_codebook

DIMS = st.sampled_from([1, 2, 3, 7, 16, 33])
BYTES = st.sampled_from([1, 2, 5, 12])
KINDS = st.sampled_from(["gauss", "skewed", "constant", "duplicates", "huge", "tiny"])


def draw_residuals(kind: str, n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim)) * np.geomspace(10, 0.5, dim)
    if kind == "skewed":
        rows = np.exp(rows / 8)
    elif kind == "constant":
        rows[:] = 3.0
    elif kind == "duplicates":
        rows = rows[rng.integers(0, 3, n)]
    elif kind == "huge":
        rows *= 1e12
    elif kind == "tiny":
        rows *= 1e-12
    return rows.astype(np.float32)


@settings(max_examples=60)
@given(KINDS, DIMS, BYTES, st.integers(0, 10_000))
def test_a_code_is_the_nearest_that_its_codebook_has(kind: str, dim: int, code_bytes: int, seed: int) -> None:
    """Equal to the oracle wherever float32 can't have turned a near tie."""
    residuals = draw_residuals(kind, 200, dim, seed)
    book = train_codebook(residuals, code_bytes)
    assert book.code_bytes <= code_bytes
    codes = encode(book, residuals)
    expected, margins = oracle.encode(book, residuals)
    scale = np.abs((residuals - book.mean) @ book.analysis).max(axis=1) + np.abs(book.field_levels).max()
    clear = margins > 1e-4 * scale
    np.testing.assert_array_equal(codes[clear], expected[clear])


@settings(max_examples=40)
@given(KINDS, DIMS, BYTES, st.integers(0, 10_000))
def test_decoding_adds_the_levels_that_the_code_names(kind: str, dim: int, code_bytes: int, seed: int) -> None:
    residuals = draw_residuals(kind, 150, dim, seed)
    book = train_codebook(residuals, code_bytes)
    any_code = np.random.default_rng(seed).integers(0, 256, (40, book.code_bytes), np.uint8)
    expected = oracle.decode(book, any_code)
    np.testing.assert_allclose(
        decode(book, any_code), expected, rtol=1e-4, atol=1e-5 * (np.abs(expected).max() + 1e-30)
    )


@settings(max_examples=60)
@given(
    st.sampled_from([1, 3, 10, 30, 31, 32, 33, 64, 70]),
    st.sampled_from([1, 2, 8, 17, CODE_BYTES_MAX]),
    st.integers(0, 10_000),
)
def test_every_scan_gives_the_same_integers(capacity: int, code_bytes: int, seed: int) -> None:
    """Any codes, any tables, extreme entries too: shuffles and plain loops equal sums by hand, exactly."""
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 256, (2 * code_bytes, 16)).astype(np.uint8)
    if seed % 3 == 0:
        tables[:] = 255
    pages = allocate_pages(3, code_bytes, capacity)
    rows = rng.integers(0, 256, (3, capacity, code_bytes)).astype(np.uint8)
    for page in range(3):
        pack_page(rows[page], pages, page)
    flat = flat_with_slack(pages)
    n_rows = int(rng.integers(1, capacity + 1))
    sums = np.empty(-(-capacity // 32) * 32, np.uint16)
    for page in (2, 0):
        expected = oracle.table_sums(rows[page], tables)[:n_rows]
        for scan in (kernels.scan_page, kernels.scan_page_portable):
            sums[:] = 7
            scan(flat, page * capacity * code_bytes, capacity, n_rows, tables, sums)
            np.testing.assert_array_equal(sums[:n_rows], expected)


def rounded_tables(book: Codebook, query: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Give exact tables, rounded ones, and step and offset of the rounded, all from kernels."""
    exact = np.empty((book.n_nibbles, 16), np.float32)
    kernels.nibble_tables(((book.synthesis @ query) * gains).astype(np.float32), book.tables, exact)
    entries = np.empty((table_passes(book.code_bytes), *exact.shape), np.uint8)
    return exact, entries, *kernels.quantize_tables(exact, entries)


@settings(max_examples=60)
@given(KINDS, DIMS, st.sampled_from([1, 2, 5, 12, NARROW_BYTES_MAX + 8]), st.integers(0, 10_000))
def test_rounded_tables_add_up_to_inner_products(kind: str, dim: int, code_bytes: int, seed: int) -> None:
    """Exact tables are the oracle's; sums of rounded ones are off by half a step a nibble at most."""
    rng = np.random.default_rng(seed)
    residuals = draw_residuals(kind, 120, dim, seed)
    book = train_codebook(residuals, code_bytes, second_moment(residuals[:50]))
    query = rng.normal(size=dim).astype(np.float32) * 20
    gains = rng.uniform(0.5, 1.5, book.n_components).astype(np.float32)
    codes = encode(book, residuals)
    exact, entries, step, offset = rounded_tables(book, query, gains)
    expected = oracle.exact_tables(book, query, gains)
    # Each entry sums fields of components, each of which summed over the dimensions.
    size = (np.abs(book.synthesis) @ np.abs(query) * gains).max() * np.abs(book.field_levels).max()
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * size + 1e-30)
    sums = sum(weight * oracle.table_sums(codes, table) for weight, table in zip((1, 256), entries, strict=False))
    inner = oracle.products(book, codes, query, gains) - book.mean.astype(np.float64) @ query
    off = np.abs(float(offset) + float(step) * sums - inner)
    assert off.max() <= 0.51 * float(step) * book.n_nibbles + 1e-4 * size + 1e-30


def test_long_codes_are_scanned_with_finer_tables(rng: np.random.Generator) -> None:
    """Above `NARROW_BYTES_MAX` two passes leave a two-hundredth of the rounding that one pass would."""
    residuals = (rng.normal(size=(400, 60)) * np.geomspace(10, 1, 60)).astype(np.float32)
    book = train_codebook(residuals, NARROW_BYTES_MAX + 8)
    query = rng.normal(size=60).astype(np.float32)
    exact, entries, step, _ = rounded_tables(book, query, np.ones(book.n_components, np.float32))
    assert entries.shape == (2, book.n_nibbles, 16)
    assert 200 * step < np.ptp(exact, axis=1).max() / 255


def test_products_by_tables_are_those_of_reconstructions(rng: np.random.Generator) -> None:
    residuals = draw_residuals("gauss", 120, 16, 3)
    book = train_codebook(residuals, 5)
    codes, query = encode(book, residuals), rng.normal(size=16) * 20
    np.testing.assert_allclose(oracle.products(book, codes, query), oracle.decode(book, codes) @ query, rtol=1e-9)


def test_a_page_unpacks_to_what_was_packed(rng: np.random.Generator) -> None:
    pages = allocate_pages(2, 5, 30)
    codes = rng.integers(0, 256, (17, 5)).astype(np.uint8)
    pages[1] = 9
    pack_page(codes, pages, 1)
    np.testing.assert_array_equal(unpack_page(pages, 1, 17), codes)
    assert not pages[1, :, 17:].any()
    assert not pages[0].any()
    assert flat_with_slack(pages).size == pages.size + SCAN_SLACK_BYTES


@pytest.mark.parametrize("n", [0, 1])
def test_no_rows_and_one_row_have_codes(n: int, rng: np.random.Generator) -> None:
    book = train_codebook(rng.normal(size=(100, 4)).astype(np.float32), 2)
    codes = encode(book, rng.normal(size=(n, 4)).astype(np.float32))
    assert codes.shape == (n, 2)
    assert decode(book, codes).shape == (n, 4)
