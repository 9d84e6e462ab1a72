"""Ratings against their oracle: which pages are looked at, in which order, and what each is worth.

Codebooks, heads and queries are small whole numbers, so all but what tables round is exact in float32.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import codes as oracle
from oracles.kernels import is_threshold

from annserve.codes import kernels
from annserve.codes.centroid_kernels import BUCKETS
from annserve.codes.estimate import FACTOR_BYTES, FACTOR_VALUES, Estimate, centroid_constants
from annserve.codes.layout import (
    Codebook,
    allocate_pages,
    flat_with_slack,
    flatten_postings,
    pack_page,
    table_passes,
    unflatten_postings,
)
from annserve.codes.rate import SKIP_NONE, Rater, Skip
from annserve.codes.rating_kernels import PAGES_FIRST
from annserve.codes.tiers import CodeTiers

F32 = np.float32


def a_codebook(rng, dim, code_bytes):
    """A codebook of whole numbers: fields of 1 to 4 bits, several to a nibble or to a component."""
    n_components, fields = int(rng.integers(1, dim + 1)), []
    for nibble in range(2 * code_bytes):
        shift = 0
        while shift < 4:
            bits = int(rng.integers(1, 5 - shift))
            fields.append((rng.integers(n_components), nibble, shift, bits))
            shift += bits
    component, nibble, shift, bits = np.array(fields, np.int32).T
    return Codebook(
        mean=rng.integers(-2, 3, dim).astype(F32),
        analysis=np.zeros((dim, n_components), F32),
        synthesis=rng.integers(-1, 2, (n_components, dim)).astype(F32),
        field_component=component.copy(),
        field_nibble=nibble.copy(),
        field_shift=shift.copy(),
        field_bits=bits.copy(),
        field_levels=np.sort(rng.integers(-4, 5, (len(fields), 16)), axis=1).astype(F32),
    )


def made(rng, page_offsets, capacity, row_bytes, dim):
    """Tiers of random pages in the given postings; the head of each page, and the codes of its rows."""
    n_pages = int(page_offsets[-1])
    page_book, row_book = a_codebook(rng, dim, 3), a_codebook(rng, dim, row_bytes)
    heads = rng.integers(-30, 31, (len(page_offsets) - 1, dim)).astype(F32)
    anchors = np.repeat(heads, np.diff(page_offsets.astype(int)), axis=0)
    page_codes = rng.integers(0, 256, (n_pages, page_book.code_bytes)).astype(np.uint8)
    origin = rng.integers(-3, 4, dim).astype(F32)
    counts = rng.integers(1, capacity + 1, n_pages)
    codes = rng.integers(0, 256, (n_pages, capacity, row_bytes)).astype(np.uint8)
    pages = allocate_pages(n_pages, row_bytes, capacity)
    for page in range(n_pages):
        pack_page(codes[page, : counts[page]], pages, page)
    estimate = Estimate(
        origin=origin,
        gains=rng.uniform(0.5, 1.5, row_book.n_components).astype(F32),
        shrinks=np.linspace(0.3, 1.3, FACTOR_VALUES).astype(F32),
        spreads=np.linspace(2, 9, FACTOR_VALUES).astype(F32),
        shrink_terms=np.zeros(3, F32),
        norm_scale=1.0,
        offset=0.0,
        distance_scale=0.9,
        spread_power=0.4,
        constant_min=-50.0,
        constant_step=3.0,
    )
    tiers = CodeTiers(
        page_book=page_book,
        page_codes=flatten_postings(page_codes, page_offsets),
        page_constants=centroid_constants(page_book, page_codes, anchors, origin),
        page_spreads=rng.normal(6, 1, n_pages).astype(F32),
        row_book=row_book,
        row_codes=flat_with_slack(pages),
        row_counts=counts.astype(np.uint16),
        row_factors=rng.integers(0, FACTOR_VALUES, (n_pages, FACTOR_BYTES, capacity)).astype(np.uint8),
        estimate=estimate,
    )
    return tiers, heads, codes


def rows_of_a_page(tiers, codes, query):
    """Say what estimates and errors a page's rows have; tables are rounded as the scan's are.

    How far rounding may be off is proven with the tables.
    """
    book, estimate = tiers.row_book, tiers.estimate
    offset_query = query - estimate.origin
    exact = oracle.exact_tables(book, offset_query, estimate.gains).astype(F32)
    entries = np.empty((table_passes(book.code_bytes), *exact.shape), np.uint8)
    step, offset = kernels.quantize_tables(exact, entries)
    offset = float(offset) + float(book.mean.astype(np.float64) @ offset_query)

    def rows(page, distance):
        own = codes[page, : tiers.row_counts[page]]
        sums = sum(weight * oracle.table_sums(own, table) for weight, table in zip((1, 256), entries, strict=False))
        factors = tiers.row_factors[page, :, : len(own)].T
        return oracle.estimate_distances(estimate, offset + float(step) * sums, factors, np.full(len(own), distance))

    return rows, float(step) * 2 * estimate.shrinks.max()


@st.composite
def cases(draw):
    """Tiers with postings of several pages, queries, the heads they come to, and what is asked."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dim, capacity = draw(st.sampled_from([1, 2, 7, 12])), draw(st.sampled_from([1, 5, 30, 33]))
    row_bytes, n_heads = draw(st.sampled_from([1, 4, 30])), draw(st.integers(1, 12))
    sizes = rng.integers(1, 9, n_heads)
    page_offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.uint32)
    tiers, heads, codes = made(rng, page_offsets, capacity, row_bytes, dim)
    queries = rng.integers(-40, 41, (3, dim)).astype(F32)
    head_ids = np.array([rng.permutation(n_heads) for _ in queries], np.int32)
    # A walk may find fewer heads than it was asked for, or, for one query, none.
    for i in range(len(queries)):
        head_ids[i, draw(st.integers(0 if i else 1, n_heads)) :] = -1
    k, pages_max = draw(st.sampled_from([1, 3, 10, 700])), draw(st.sampled_from([1, 7, 40, 8_192]))
    skip = SKIP_NONE
    if draw(st.booleans()):
        skip = Skip(rng.normal(0, 0.3, 8).astype(F32), float(rng.normal(0, 0.5)))
    excluded = np.column_stack((rng.integers(0, page_offsets[-1], 3), rng.integers(0, capacity, 3)))
    excluded[0] = -1
    return tiers, page_offsets, codes, queries, heads, head_ids, k, pages_max, skip, excluded


def head_distances_of(heads, queries, head_ids):
    """Exact squared distances, (nq, h) float32."""
    return ((queries[:, None].astype(np.float64) - heads[head_ids]) ** 2).sum(axis=2).astype(F32)


def rated(case):
    """Rate as the product does."""
    tiers, page_offsets, _, queries, heads, head_ids, k, pages_max, skip, excluded = case
    distances = head_distances_of(heads, queries, head_ids)
    rater = Rater(tiers, page_offsets)
    return rater.rate(queries, head_ids, distances, k, pages_max=pages_max, skip=skip, excluded=excluded)


def page_distances_of(tiers, page_offsets, query, head_ids, head_distances):
    """Give the pages of some heads and their distances by tables that are rounded as the product's are.

    How far rounding may be off is proven with the tables.
    """
    book = tiers.page_book
    offset_query = query - tiers.estimate.origin
    exact = oracle.exact_tables(book, offset_query).astype(F32)
    entries = np.empty((1, *exact.shape), np.uint8)
    step, offset = kernels.quantize_tables(exact, entries)
    offset = F32(offset) + F32(book.mean @ offset_query)
    sums = oracle.table_sums(unflatten_postings(tiers.page_codes, book.code_bytes, page_offsets), entries[0])
    pages, distances = [], []
    for head, distance in zip(head_ids, head_distances, strict=True):
        own = np.arange(page_offsets[head], page_offsets[head + 1])
        base = distance - F32(2) * offset
        pages.append(own)
        distances.append(base - F32(2) * F32(step) * sums[own].astype(F32) + tiers.page_constants[own])
    return np.concatenate(pages), np.maximum(np.concatenate(distances), F32(1e-12)), float(step)


def exact_page_distances(tiers, page_offsets, heads, queries):
    """Give the squared distance of every query to every page's decoded centroid, (nq, pages) float64."""
    page_codes = unflatten_postings(tiers.page_codes, tiers.page_book.code_bytes, page_offsets)
    anchors = np.repeat(heads, np.diff(page_offsets.astype(int)), axis=0)
    centroids = anchors + oracle.decode(tiers.page_book, page_codes)
    return ((queries[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)


def expected_of(case, i):
    """Rate query i with the oracle; give it, and the slack that float32 needs."""
    tiers, page_offsets, codes, queries, heads, head_ids, k, pages_max, skip, excluded = case
    own = head_ids[i][head_ids[i] >= 0]
    rows, one_entry = rows_of_a_page(tiers, codes, queries[i])
    pages, distances, exact = np.zeros(0, int), np.zeros(0, F32), np.zeros(0, F32)
    if len(own):
        near = head_distances_of(heads, queries[i : i + 1], own[None])[0]
        pages, distances, _ = page_distances_of(tiers, page_offsets, queries[i], own, near)
        exact = np.maximum(exact_page_distances(tiers, page_offsets, heads, queries[i : i + 1])[0, pages], 1e-12)
        assert exact.max() < 2**24, "exact in float32"
    answer = oracle.rate(
        tiers,
        pages,
        distances,
        exact,
        rows,
        k,
        pages_max=pages_max,
        first=PAGES_FIRST,
        buckets=BUCKETS,
        terms=skip.terms,
        below=skip.below,
        excluded=excluded[i],
    )
    answer["clear"] = not len(pages) or is_clear(distances)
    # float32 sums, and in each table an entry that rounds the other way: whole numbers often lie halfway.
    return pages, answer, tiers.row_book.n_nibbles * one_entry + 1e-5 * float(distances.max(initial=0) + 1_000)


def is_clear(distances):
    """Whether no distance lies so near the edge of a bucket of the sort that its last bits decide."""
    low, high = distances.min(), distances.max()
    places = (distances[(distances > low) & (distances < high)].astype(float) - low) * (BUCKETS - 1) / (high - low)
    return not (np.abs(places - np.rint(places)) < 1e-3).any()


@given(cases())
@settings(max_examples=250)
def test_ratings_are_those_of_the_oracle(case):
    """Pages and their order exactly; the threshold where the oracle's rows expect k; worths at that threshold."""
    tiers, k = case[0], case[6]
    rating = rated(case)
    for i in range(3):
        pages, expected, slack = expected_of(case, i)
        size = int(rating.sizes[i])
        assert rating.page_codes[i] == len(pages)
        assert not rating.worths[i, size:].any()
        if expected["margin"] < 1e-3 or not expected["clear"]:
            # A promise at the very threshold, or a page between two buckets, may go either way.
            continue
        assert rating.pages[i, :size].tolist() == expected["pages"]
        np.testing.assert_array_equal(rating.distances[i, :size], np.array(expected["distances"], F32))
        assert rating.row_codes[i] == expected["rows"] == tiers.row_counts[expected["pages"]].sum()
        if np.isfinite(expected["bar"]):
            assert abs(rating.bars[i] - expected["bar"]) <= slack
        else:
            assert rating.bars[i] == np.inf
        found = float(rating.thresholds[i])
        if not expected["estimates"]:
            assert found == np.inf
            continue
        # The slack of estimates widens the bracket by as much.
        wide = 4_096 * slack
        assert is_threshold(
            found, expected["estimates"], expected["errors"], k, expected["low"] - wide, expected["high"] + wide
        ) or (found >= expected["high"] - slack and len(expected["estimates"]) <= 2 * k)
        steepest = len(expected["estimates"]) * 0.4 * 2 * slack / min(expected["errors"])
        np.testing.assert_allclose(
            rating.worths[i, :size],
            oracle.worths(expected, found),
            rtol=0,
            atol=steepest + 1e-4 * tiers.row_counts.max(),
        )


@given(cases())
@settings(max_examples=40)
def test_worths_add_up_to_k_where_there_are_enough_rows(case):
    case = (*case[:9], np.full((3, 2), -1))
    rating, k = rated(case), case[6]
    enough = rating.row_codes >= 2 * k
    np.testing.assert_allclose(rating.worths.sum(axis=1)[enough], k, rtol=0.02, atol=0.02)
    assert (rating.worths.sum(axis=1) <= rating.row_codes + 0.01).all()


def test_a_rater_that_served_others_gives_the_same_answers():
    """Larger and smaller requests in turn, on one scratch."""
    rng = np.random.default_rng(8)
    page_offsets = np.arange(91, dtype=np.uint32)
    tiers, heads, _ = made(rng, page_offsets, 30, 4, 7)
    queries = rng.integers(-40, 41, (5, 7)).astype(F32)
    worn = Rater(tiers, page_offsets)
    for n_heads, k, pages_max in ((3, 2, 2), (90, 100, 90), (1, 700, 90), (60, 10, 40), (90, 1, 1)):
        head_ids = np.array([rng.permutation(90)[:n_heads] for _ in queries], np.int32)
        distances = ((queries[:, None] - heads[head_ids]) ** 2).sum(axis=2)
        answers = [
            rater.rate(queries, head_ids, distances, k, pages_max=pages_max)
            for rater in (worn, Rater(tiers, page_offsets))
        ]
        for name, array in vars(answers[0]).items():
            np.testing.assert_array_equal(array, vars(answers[1])[name], err_msg=name)


def test_an_excluded_row_is_as_if_it_were_not_there():
    """The page is looked at all the same; its worth is that of the others, and the threshold theirs."""
    rng = np.random.default_rng(9)
    page_offsets, head_ids = np.arange(5, dtype=np.uint32), np.arange(4, dtype=np.int32)[None]
    tiers, heads, _ = made(rng, page_offsets, 5, 4, 3)
    query = heads[:1] + 1
    distances = ((query - heads) ** 2).sum(axis=1)[None]
    page, slot = 0, int(tiers.row_counts[0]) - 1
    without = Rater(tiers, page_offsets).rate(
        query, head_ids, distances, 3, pages_max=9, excluded=np.array([[page, slot]])
    )
    counts = tiers.row_counts.copy()
    counts[page] -= 1
    shorter = CodeTiers(**{**vars(tiers), "row_counts": counts})
    expected = Rater(shorter, page_offsets).rate(query, head_ids, distances, 3, pages_max=9)
    np.testing.assert_array_equal(without.worths, expected.worths)
    np.testing.assert_array_equal(without.thresholds, expected.thresholds)
    assert without.row_codes[0] == expected.row_codes[0] + 1


@pytest.mark.parametrize("sign", [-1, 1])
def test_nothing_is_skipped_before_two_k_rows_are_known(sign):
    """Where the first pages hold fewer, there is no bar to judge later pages by: all are looked at."""
    rng = np.random.default_rng(10)
    page_offsets, head_ids = np.arange(81, dtype=np.uint32), np.arange(80, dtype=np.int32)[None]
    tiers, heads, _ = made(rng, page_offsets, 1, 4, 7)
    query = np.zeros((1, 7), F32)
    distances = (heads**2).sum(axis=1)[None]
    # Terms that promise nothing at an infinite bar, whatever its sign does to them.
    terms = np.array([-9, sign, -1, sign, -1, -1, -1, sign], F32)
    for k, sizes in ((17, 80), (16, PAGES_FIRST)):
        rating = Rater(tiers, page_offsets).rate(query, head_ids, distances, k, pages_max=99, skip=Skip(terms, 99.0))
        assert rating.sizes.tolist() == [sizes]
        assert np.isfinite(rating.bars[0]) == (k == 16)


def test_no_head_gives_no_page():
    rng = np.random.default_rng(11)
    page_offsets = np.arange(5, dtype=np.uint32)
    tiers, _, _ = made(rng, page_offsets, 5, 4, 3)
    none = np.full((2, 3), -1, np.int32)
    rating = Rater(tiers, page_offsets).rate(np.zeros((2, 3), F32), none, np.zeros((2, 3), F32), 3, pages_max=9)
    assert rating.sizes.tolist() == [0, 0]
    assert rating.worths.sum() == 0
    assert rating.row_codes.tolist() == rating.page_codes.tolist() == [0, 0]


def test_page_distances_are_those_of_decoded_centroids(rng):
    """Real numbers this time: to float32's last bits; the order is that of rounded distances."""
    page_offsets = np.array([0, 1, 4, 20, 60], np.uint32)
    tiers, heads, _ = made(rng, page_offsets, 5, 4, 12)
    book = tiers.page_book
    page_codes = unflatten_postings(tiers.page_codes, book.code_bytes, page_offsets)
    fields = {name: array for name, array in book.as_arrays().items() if name.startswith("field_")}
    book = Codebook(
        mean=rng.normal(size=12).astype(F32),
        analysis=book.analysis,
        synthesis=rng.normal(size=book.synthesis.shape).astype(F32),
        **{**fields, "field_levels": np.sort(rng.normal(size=book.field_levels.shape), axis=1).astype(F32)},
    )
    origin = rng.normal(size=12).astype(F32)
    anchors = np.repeat(heads, np.diff(page_offsets.astype(int)), axis=0)
    constants = centroid_constants(book, page_codes, anchors, origin)
    estimate = Estimate(**{**vars(tiers.estimate), "origin": origin})
    tiers = CodeTiers(**{**vars(tiers), "page_book": book, "page_constants": constants, "estimate": estimate})
    queries = (rng.normal(size=(9, 12)) * 20).astype(F32)
    head_ids = np.tile(np.arange(4, dtype=np.int32), (9, 1))
    distances = head_distances_of(heads, queries, head_ids)
    rating = Rater(tiers, page_offsets).rate(queries, head_ids, distances, 3, pages_max=99)
    exact = exact_page_distances(tiers, page_offsets, heads, queries)
    np.testing.assert_allclose(rating.distances, np.take_along_axis(exact, rating.pages.astype(int), axis=1), rtol=1e-4)
    for i in range(len(queries)):
        pages, rounded, step = page_distances_of(tiers, page_offsets, queries[i], head_ids[i], distances[i])
        assert (pages == np.arange(60)).all()
        assert np.abs(rounded - exact[i]).max() <= step * book.n_nibbles + 1e-4 * exact[i].max()
        spread = 1.01 * np.ptp(rounded) / (BUCKETS - 1)
        assert (np.diff(rounded[rating.pages[i].astype(int)]) >= -spread).all()
