"""A raw row lies at its place, bit by bit; its distance is the metric's; a damaged page never gives one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import raw as oracle

from annserve.raw.layout import RawLayout
from annserve.raw.pack import pack_raw_pages, unpack_raw_pages
from annserve.raw.score import find_damage, score_rows
from annserve.spec import ROW_TYPES, IndexSpec
from annserve.storage.reader import aligned_frames

SALT = 0x5EED_CAFE


def random_rows(rng, n, dim, row_type):
    if row_type.startswith("float"):
        rows = (rng.normal(size=(n, dim)) * 10.0 ** rng.integers(-3, 4)).astype(row_type)
    else:
        info = np.iinfo(row_type)
        rows = rng.integers(info.min, info.max + 1, (n, dim)).astype(row_type)
    rows[~rows.any(axis=1)] = 1
    return rows


@given(
    st.sampled_from(ROW_TYPES),
    st.sampled_from([1, 3, 40, 384, 1_500, 5_000]),
    st.sampled_from(["l2", "ip", "cosine"]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_rows_lie_at_their_places_and_score_as_the_oracle_says(row_type, dim, metric, seed):
    rng = np.random.default_rng(seed)
    layout = RawLayout(IndexSpec(dim, row_type, metric), own=False)
    first, n_pages = int(rng.integers(0, 9)), 4
    n = int(rng.integers(1, min(20, n_pages * layout.capacity) + 1))
    places = np.sort(rng.choice(n_pages * layout.capacity, n, replace=False)) + first * layout.capacity
    rows = random_rows(rng, n, dim, row_type)
    pages = pack_raw_pages(rows, places, layout, first_page_id=first, n_pages=n_pages, salt=SALT)
    read = [oracle.read_raw_page(page, dim, row_type) for page in pages]
    assert [(one["page_id"], one["salt"], one["reserved"]) for one in read] == [
        (first + i, SALT, 0) for i in range(n_pages)
    ]
    assert all(one["crc32c"] == one["crc32c_found"] for one in read)
    everything = np.concatenate([one["rows"] for one in read])
    own = places - first * layout.capacity
    np.testing.assert_array_equal(everything[own], rows)
    assert not np.delete(everything, own, axis=0).any()
    np.testing.assert_array_equal(unpack_raw_pages(pages, layout), everything)

    frames = aligned_frames(n_pages, layout.page_bytes)
    frames[:] = pages
    queries = random_rows(rng, 3, dim, "float32")
    query_of = rng.integers(0, 3, n)
    found = score_rows(frames, *np.divmod(own, layout.capacity), queries, query_of, layout)
    for distance, query, row in zip(found, queries[query_of], rows):
        exact = float(oracle.distance(query, row, metric))
        length = np.linalg.norm(query.astype(float)), np.linalg.norm(row.astype(float))
        assert abs(distance - exact) <= 1e-13 * (1 if metric == "cosine" else 1 + sum(length) ** 2)


def test_equal_rows_are_equally_far(rng):
    layout = RawLayout(IndexSpec(333, "float32", "cosine"), own=True)
    rows = np.repeat(random_rows(rng, 1, 333, "float32"), 12, axis=0)
    frames = aligned_frames(4, layout.page_bytes)
    frames[:] = pack_raw_pages(rows, np.arange(12), layout, first_page_id=0, n_pages=4, salt=SALT)
    query = random_rows(rng, 1, 333, "float32")
    found = score_rows(frames, *np.divmod(np.arange(12), 3), query, np.zeros(12, np.int64), layout)
    assert len(set(found.tolist())) == 1


@pytest.mark.parametrize("at", [0, 3, 4, 9, 12, 16, 100, 4_095])
def test_every_damaged_page_is_named_and_the_others_are_not(rng, at):
    layout = RawLayout(IndexSpec(384, "float16", "cosine"), own=True)
    rows = random_rows(rng, 15, 384, "float16")
    pages = pack_raw_pages(rows, 30 + np.arange(15), layout, first_page_id=6, n_pages=3, salt=SALT)
    page_ids = np.array([6, 7, 8], np.uint32)
    assert find_damage(pages, page_ids, SALT) == []
    pages[1, at] ^= 1
    assert find_damage(pages, page_ids, SALT) == [(7, "its checksum is wrong")]
    pages[1, at] ^= 1
    assert [page for page, _ in find_damage(pages, np.array([6, 8, 8], np.uint32), SALT)] == [8]
    assert len(find_damage(pages, page_ids, SALT + 1)) == 3


def test_pages_waste_less_than_a_row_or_are_one_row_each():
    for dim, row_type, page_bytes, capacity in [
        (384, "float16", 4_096, 5),
        (768, "float32", 4_096, 1),
        (1_024, "float32", 8_192, 1),
        (1_536, "float16", 4_096, 1),
        (32_768, "float32", 135_168, 1),
    ]:
        layout = RawLayout(IndexSpec(dim, row_type, "l2"), own=False)
        assert (layout.page_bytes, layout.capacity) == (page_bytes, capacity)
        assert layout.n_pages(11) == -(-11 // capacity)
