"""Rows go onto pages and come back: every id, factor and element, at its byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import pages as oracle

from annserve.pages.check import check_pages, check_rows
from annserve.pages.layout import FLAG_FACTORS, PageLayout
from annserve.pages.pack import pack_pages, unpack_pages
from annserve.pages.rows import quantize_rows
from annserve.spec import IndexSpec
from annserve.storage.checksum import crc32c

#: A page of two blocks, one row a page, and the dimensions between.
DIMS = [1, 3, 17, 128, 257, 2_035, 4_056, 5_000]


def rows_of(rng, n, spec):
    """Valid rows of an index's type: its whole range, or normal numbers."""
    if spec.lossless:
        info = np.iinfo(spec.row_type)
        return rng.integers(info.min, info.max + 1, (n, spec.dim)).astype(spec.row_type)
    return (rng.normal(size=(n, spec.dim)) + 0.1).astype(spec.row_type)


def ids_of(rng, n):
    """Distinct ids of the whole range that users may give."""
    ids = rng.choice(2**40, n, replace=False).astype(np.uint64)
    if n:
        ids[0] = 2**64 - 2
    return ids


@st.composite
def packings(draw):
    """A spec, rows, ids and how many rows each page gets."""
    row_type = draw(st.sampled_from(["uint8", "int8", "float16", "float32"]))
    metric = draw(st.sampled_from(["l2", "ip", "cosine"]))
    spec = IndexSpec(draw(st.sampled_from(DIMS)), row_type, metric)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_pages = draw(st.integers(0, 4))
    counts = rng.integers(1, spec.page_capacity + 1, n_pages)
    if n_pages:
        counts[0] = spec.page_capacity
    n = int(counts.sum())
    return spec, rows_of(rng, n, spec), ids_of(rng, n), counts, int(rng.integers(2**32))


@given(packings(), st.integers(0, 2**31))
@settings(max_examples=80)
def test_every_row_comes_back_from_its_page(packing, first_page_id):
    spec, rows, ids, counts, salt = packing
    layout, stored = PageLayout.of(spec), quantize_rows(rows, spec)
    pages = pack_pages(stored, ids, counts, layout, first_page_id=first_page_id, salt=salt)
    assert pages.shape == (len(counts), spec.page_bytes)
    at = 0
    for number, page in enumerate(pages):
        # The oracle sums bit by bit: slow, so only the first page is summed there.
        found = oracle.read_page(
            page, layout.capacity, spec.dim, factors=not spec.lossless, signed=spec.row_type != "uint8"
        )
        some = slice(at, at + counts[number])
        assert found["page_id"] == first_page_id + number
        assert found["count"] == counts[number]
        assert found["salt"] == salt
        assert found["flags"] == (0 if spec.lossless else FLAG_FACTORS)
        assert found["ids"] == ids[some].tolist()
        np.testing.assert_array_equal(found["elements"], stored.elements[some])
        if not spec.lossless:
            assert found["scales"] == stored.scales[some].tolist()
            assert found["errors"] == stored.errors[some].tolist()
        assert found["used_bytes"] <= spec.page_bytes
        assert not page[found["used_bytes"] :].any()
        at += counts[number]
    if len(pages):
        first = oracle.read_page(pages[0], layout.capacity, spec.dim, factors=not spec.lossless, signed=False)
        assert first["crc32c"] == first["crc32c_found"]
    read_ids, problems = check_pages(pages, np.arange(len(pages), dtype=np.uint32) + first_page_id, layout, salt)
    assert problems == []
    np.testing.assert_array_equal(read_ids, ids)


@given(packings(), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_replicas_are_told_from_rows_at_home_and_each_row_has_its_seal(packing, seed):
    """The seal is the sum of the row's elements, then of its scale and error, as the oracle parses them."""
    spec, rows, ids, counts, salt = packing
    layout, stored = PageLayout.of(spec), quantize_rows(rows, spec)
    replicas = np.random.default_rng(seed).integers(0, counts + 1)
    pages = pack_pages(stored, ids, counts, layout, first_page_id=0, salt=salt, replicas=replicas)
    found, problems = check_rows(pages, np.arange(len(pages), dtype=np.uint32), layout, salt)
    assert problems == []
    np.testing.assert_array_equal(found.ids, ids)
    at_home = [slot < count - some for count, some in zip(counts, replicas) for slot in range(count)]
    assert found.at_home.tolist() == at_home
    for row in range(0, len(ids), 7):
        content = stored.elements[row].tobytes()
        if not spec.lossless:
            content += stored.scales[row].tobytes() + stored.errors[row].tobytes()
        assert found.seals[row] == crc32c(content)


@pytest.mark.parametrize(("row_type", "dim"), [("uint8", 128), ("float32", 384), ("int8", 2_032), ("uint8", 4_072)])
def test_a_page_holds_as_many_rows_as_fit_and_not_one_more(row_type, dim):
    spec = IndexSpec(dim, row_type, "l2")
    layout = PageLayout.of(spec)
    one_more = layout.rows_offset + layout.capacity * dim + spec.slot_bytes
    assert layout.rows_offset + layout.capacity * dim <= spec.page_bytes < one_more
    assert spec.page_capacity == {128: 30, 384: 10, 2_032: 2, 4_072: 1}[dim]


def test_a_row_of_one_byte_more_needs_the_next_page_size():
    assert IndexSpec(4_072, "uint8", "l2").page_bytes == 4_096
    assert IndexSpec(4_073, "uint8", "l2").page_bytes == 8_192
    assert IndexSpec(4_064, "float32", "l2").page_bytes == 4_096
    assert IndexSpec(4_065, "float32", "l2").page_bytes == 8_192


@pytest.mark.parametrize("counts", [[31], [5, 0], [4]])
def test_a_packing_that_does_not_fit_is_never_written(counts):
    spec = IndexSpec(128, "uint8", "l2")
    n = 5 if counts != [31] else 31
    rows = quantize_rows(np.zeros((n, 128), np.uint8), spec)
    with pytest.raises(AssertionError):
        pack_pages(rows, np.arange(n, dtype=np.uint64), np.array(counts), PageLayout.of(spec), first_page_id=0, salt=0)


def test_parts_of_a_page_are_aligned_for_their_types():
    for dim in range(1, 3_000, 7):
        for row_type in ("uint8", "float32"):
            layout = PageLayout.of(IndexSpec(dim, row_type, "l2"))
            assert layout.ids_offset % 8 == 0
            assert layout.factors_offset % 4 == 0


@given(packings(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_what_was_packed_is_unpacked_but_for_replicas(packing, first_page_id):
    spec, rows, ids, counts, salt = packing
    layout, stored = PageLayout.of(spec), quantize_rows(rows, spec)
    replicas = np.random.default_rng(salt).integers(0, counts + 1)
    pages = pack_pages(stored, ids, counts, layout, first_page_id=first_page_id, salt=salt, replicas=replicas)
    page = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    home = slot < (counts - replicas)[page]
    found = unpack_pages(pages, layout)
    np.testing.assert_array_equal(found.ids, ids[home])
    np.testing.assert_array_equal(found.places, (page * layout.capacity + slot)[home])
    for name in ("elements", "scales", "errors"):
        np.testing.assert_array_equal(getattr(found.stored, name), getattr(stored, name)[home])
