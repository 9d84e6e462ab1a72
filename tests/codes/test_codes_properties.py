"""Codes against their oracle over odd shapes: encode, decode, tables and the scan of pages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.codes import kernels
from annserve.codes.encode import decode, encode
from annserve.codes.layout import CODE_BYTES_MAX, SCAN_SLACK_BYTES, allocate_pages, pack_page, unpack_page
from annserve.codes.scan import NARROW_BYTES_MAX, exact_tables, flat_with_slack, make_tables, scan
from annserve.codes.train import second_moment, train_codebook
from tests.oracles import codes as oracle

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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=40, deadline=None)
@given(KINDS, DIMS, BYTES, st.integers(0, 10_000))
def test_decoding_adds_the_levels_that_the_code_names(kind: str, dim: int, code_bytes: int, seed: int) -> None:
    residuals = draw_residuals(kind, 150, dim, seed)
    book = train_codebook(residuals, code_bytes)
    any_code = np.random.default_rng(seed).integers(0, 256, (40, book.code_bytes), np.uint8)
    expected = oracle.decode(book, any_code)
    np.testing.assert_allclose(
        decode(book, any_code), expected, rtol=1e-4, atol=1e-5 * (np.abs(expected).max() + 1e-30)
    )


@settings(max_examples=60, deadline=None)
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
    asked = np.array([2, 0, 2], np.int64)
    width = -(-capacity // 32) * 32
    sums = np.empty((3, width), np.uint16)
    kernels.scan_pages(flat, asked, capacity, tables, sums)
    plain = np.zeros(width, np.uint16)
    for at, page in enumerate(asked):
        expected = oracle.table_sums(rows[page], tables)
        np.testing.assert_array_equal(sums[at, :capacity], expected)
        kernels.scan_page_portable(flat, page * capacity * code_bytes, capacity, capacity, tables, plain)
        np.testing.assert_array_equal(plain[:capacity], expected)


@settings(max_examples=30, deadline=None)
@given(DIMS, BYTES, st.integers(0, 10_000))
def test_scanned_products_stay_within_the_rounding_of_their_tables(dim: int, code_bytes: int, seed: int) -> None:
    residuals = draw_residuals("gauss", 120, dim, seed)
    book = train_codebook(residuals, code_bytes, second_moment(residuals[:50]))
    query = np.random.default_rng(seed).normal(size=dim).astype(np.float32) * 20
    codes = encode(book, residuals)
    products = decode(book, codes).astype(np.float64) @ query
    exact = exact_tables(book, query)
    by_tables = oracle.table_sums(codes, exact) + book.mean.astype(np.float64) @ query
    np.testing.assert_allclose(by_tables, products, atol=1e-3 * (np.abs(products).max() + 1))
    tables = make_tables(book, query)
    pages = allocate_pages(4, book.code_bytes, 30)
    for page in range(4):
        pack_page(codes[30 * page : 30 * page + 30], pages, page)
    scanned = scan(tables, pages, np.arange(4)).ravel()
    slack = 0.51 * tables.step * book.n_nibbles + 1e-3 * (np.abs(products).max() + 1)
    assert np.abs(scanned - products).max() <= slack


def test_long_codes_are_scanned_with_finer_tables(rng: np.random.Generator) -> None:
    """Above `NARROW_BYTES_MAX` two passes leave a hundredth of the rounding that one pass would."""
    residuals = (rng.normal(size=(400, 60)) * np.geomspace(10, 1, 60)).astype(np.float32)
    book = train_codebook(residuals, NARROW_BYTES_MAX + 8)
    codes = encode(book, residuals[:30])
    query = rng.normal(size=60).astype(np.float32)
    tables = make_tables(book, query)
    assert tables.entries.shape == (2, book.n_nibbles, 16)
    pages = allocate_pages(1, book.code_bytes, 30)
    pack_page(codes, pages, 0)
    scanned = scan(tables, pages, np.zeros(1, np.int64))[0]
    by_tables = oracle.table_sums(codes, exact_tables(book, query)) + book.mean @ query
    assert np.abs(scanned - by_tables).max() <= 0.51 * tables.step * book.n_nibbles + 1e-3
    assert 200 * tables.step < np.ptp(exact_tables(book, query), axis=1).max() / 255


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
