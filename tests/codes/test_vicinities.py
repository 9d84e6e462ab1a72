"""Vicinities against the ratings of codes in RAM and their oracle; what a vicinity must be, and how it may break."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from codes.test_rating import cases, head_distances_of, made, rows_of_a_page
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import codes as oracle
from oracles.kernels import is_threshold

from annserve.codes.rate import Rater
from annserve.codes.tiers import CodeTiers
from annserve.codes.vicinities import (
    NearPages,
    Surveyor,
    check_vicinities,
    pack_vicinities,
)
from annserve.codes.vicinity_kernels import MEASURE_RANK
from annserve.codes.vicinity_layout import NO_PLACE, VicinityLayout, check_places
from annserve.errors import CorruptionError, InputError
from annserve.storage.page_kernels import seal_pages
from annserve.storage.reader import aligned_frames

F32 = np.float32
SALT = 77


def layout_of(tiers):
    return VicinityLayout(4_096, tiers.row_factors.shape[2], tiers.row_book.code_bytes)


def places_of(tiers, layout, rng, share):
    """Give each page its own rows and, of all others, about this share, as far as there is room."""
    capacity, counts = layout.page_capacity, tiers.row_counts.astype(int)
    every = np.concatenate([page * capacity + np.arange(count) for page, count in enumerate(counts)])
    places = np.full((len(counts), layout.capacity), NO_PLACE, np.uint32)
    for page, count in enumerate(counts):
        own = page * capacity + np.arange(count)
        others = np.setdiff1d(every, own)
        others = rng.permutation(others[rng.random(len(others)) < share])[: layout.capacity - count]
        chosen = np.sort(np.concatenate((own, others)))
        places[page, : len(chosen)] = chosen
    return places


def surveyed(surveyor, layout, pages, near, queries, reach, k, excluded=None):
    """Read as the product does, and rate."""
    page_ids, offsets = near.within(reach)
    frames = aligned_frames(len(page_ids), layout.page_bytes)
    frames[:] = pages[page_ids]
    return page_ids, offsets, surveyor.rate(
        queries, near, frames, page_ids, offsets, k,
        salt=SALT, path=Path("vicinities.bin"), pages_offset=4_096, excluded=excluded,
    )  # fmt: skip


def expected_worths(tiers, near, i, rows, places, k, excluded):
    """Worths by page, threshold's bracket and rows of one query, by the oracle: rows of these places alone count."""
    capacity = tiers.row_factors.shape[2]

    def present(page, distance):
        own = places[places // capacity == page] % capacity
        estimates, errors = rows(page, distance)
        own = own[own + page * capacity != excluded]
        return estimates[own], errors[own]

    size = int(near.sizes[i])
    distances = near.distances[i, :size]
    return oracle.rate(
        tiers, near.pages[i, :size].astype(int), distances, distances, present, k, pages_max=10**9, first=10**9,
        buckets=1, terms=np.zeros(8), below=0.0, excluded=(-1, -1),
    )  # fmt: skip


@given(cases(), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.5, 1.0, 1.3, 9.0]), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_pages_are_worth_what_the_rows_in_the_vicinities_promise(case, share, reach, seed):
    """Each row counts once however many vicinities it stands in, and not at all if its page is of no near head."""
    tiers, page_offsets, codes, queries, heads, head_ids, k, *_ = case
    rng = np.random.default_rng(seed)
    layout = layout_of(tiers)
    places = places_of(tiers, layout, rng, share)
    pages = pack_vicinities(places, tiers, layout, first_page_id=0, salt=SALT)
    surveyor = Surveyor(tiers.without_rows(), page_offsets, layout)
    near = surveyor.near_pages(queries, head_ids, head_distances_of(heads, queries, head_ids))
    excluded = rng.integers(-1, places[places != NO_PLACE].max() + 1, len(queries)).astype(np.int64)
    page_ids, offsets, rating = surveyed(surveyor, layout, pages, near, queries, reach, k, excluded)
    for i in range(len(queries)):
        read = page_ids[offsets[i] : offsets[i + 1]]
        held = np.unique(places[read][places[read] != NO_PLACE]).astype(int)
        rows, slack = rows_of_a_page(tiers, codes, queries[i].astype(np.float64))
        expected = expected_worths(tiers, near, i, rows, held, k, excluded[i])
        size = int(rating.sizes[i])
        known = np.unique(held // layout.page_capacity)
        assert rating.pages[i, :size].tolist() == np.intersect1d(known, near.pages[i, : near.sizes[i]]).tolist()
        assert rating.row_codes[i] == (places[read] != NO_PLACE).sum()
        if not expected["estimates"]:
            continue
        wide = 4_096 * slack
        found = float(rating.thresholds[i])
        assert is_threshold(
            found, expected["estimates"], expected["errors"], k, expected["low"] - wide, expected["high"] + wide
        ) or (found >= expected["high"] - slack and len(expected["estimates"]) <= 2 * k)
        by_page = dict(zip(expected["pages"], oracle.worths(expected, found), strict=True))
        steepest = len(expected["estimates"]) * 0.4 * 2 * slack / min(expected["errors"])
        np.testing.assert_allclose(
            rating.worths[i, :size],
            [by_page[page] for page in rating.pages[i, :size].tolist()],
            rtol=0,
            atol=steepest + 1e-4 * tiers.row_counts.max(),
        )


@given(cases())
@settings(max_examples=25)
def test_vicinities_that_hold_everything_say_what_codes_in_ram_say(case):
    """Two ways to the same rows: the worth of each page, and the threshold, to the order of float32 sums."""
    tiers, page_offsets, _, queries, heads, head_ids, k, *_ = case
    layout = layout_of(tiers)
    places = places_of(tiers, layout, np.random.default_rng(0), 0)
    pages = pack_vicinities(places, tiers, layout, first_page_id=0, salt=SALT)
    distances = head_distances_of(heads, queries, head_ids)
    surveyor = Surveyor(tiers.without_rows(), page_offsets, layout)
    near = surveyor.near_pages(queries, head_ids, distances)
    _, _, found = surveyed(surveyor, layout, pages, near, queries, 1e30, k)
    expected = Rater(tiers, page_offsets).rate(queries, head_ids, distances, k, pages_max=10_000)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    np.testing.assert_array_equal(found.row_codes, expected.row_codes)
    np.testing.assert_allclose(found.thresholds, expected.thresholds, rtol=1e-3, atol=1e-2)
    for i, size in enumerate(found.sizes):
        order = np.argsort(expected.pages[i, :size])
        np.testing.assert_array_equal(found.pages[i, :size], expected.pages[i, order])
        np.testing.assert_array_equal(found.distances[i, :size], expected.distances[i, order])
        np.testing.assert_allclose(found.worths[i, :size], expected.worths[i, order], rtol=1e-3, atol=1e-2)


def test_a_surveyor_that_served_others_gives_the_same_answers():
    """Few vicinities, then many, then few again; a table of places that isn't cleared would hide rows."""
    rng = np.random.default_rng(4)
    page_offsets = np.arange(61, dtype=np.uint32)
    tiers, heads, _ = made(rng, page_offsets, 30, 4, 7)
    layout = layout_of(tiers)
    pages = pack_vicinities(places_of(tiers, layout, rng, 0.1), tiers, layout, first_page_id=0, salt=SALT)
    queries = rng.integers(-40, 41, (4, 7)).astype(F32)
    head_ids = np.tile(np.arange(60, dtype=np.int32), (4, 1))
    distances = head_distances_of(heads, queries, head_ids)
    worn = Surveyor(tiers, page_offsets, layout)
    for reach, k in ((0.5, 2), (99, 300), (0.5, 2), (1.1, 10)):
        answers = []
        for surveyor in (worn, Surveyor(tiers, page_offsets, layout)):
            near = surveyor.near_pages(queries, head_ids, distances)
            answers.append(surveyed(surveyor, layout, pages, near, queries, reach, k)[2])
        for name, array in vars(answers[0]).items():
            np.testing.assert_array_equal(array, vars(answers[1])[name], err_msg=name)


def near_of(distances, sizes, measures):
    """The part of NearPages by which vicinities are chosen."""
    pages = np.tile(np.arange(distances.shape[1], dtype=np.uint32), (len(distances), 1))
    return NearPages(pages, np.zeros(pages.shape, np.int32), distances, sizes, measures, ())


def test_a_farther_reach_reads_more_and_the_nearest_always():
    rng = np.random.default_rng(5)
    distances = rng.random((6, 30)).astype(F32) + F32(0.01)
    sizes = np.array([30, 30, 20, 3, 1, 0])
    ordered = [np.sort(row[:size]) for row, size in zip(distances, sizes)]
    measures = np.array([row[min(MEASURE_RANK, len(row)) - 1] if len(row) else 0 for row in ordered], F32)
    near = near_of(distances, sizes, measures)
    before = np.zeros(6)
    for reach in (1e-9, 0.5, 1.0, 1.5, 99.0):
        pages, offsets = near.within(reach)
        counts = np.diff(offsets)
        assert (counts >= before).all()
        before = counts
        for i in np.flatnonzero(sizes):
            assert distances[i, : sizes[i]].argmin() in pages[offsets[i] : offsets[i + 1]]
        if reach == 1.0:
            assert counts.tolist() == [MEASURE_RANK, MEASURE_RANK, MEASURE_RANK, 3, 1, 0]
    assert before.tolist() == sizes.tolist()


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(6)
    tiers, _, _ = made(rng, np.arange(9, dtype=np.uint32), 20, 5, 6)
    layout = layout_of(tiers)
    places = places_of(tiers, layout, rng, 0.5)
    return tiers, layout, pack_vicinities(places, tiers, layout, first_page_id=0, salt=SALT)


def sealed_anew(tiers, layout, pages, change):
    """Change one vicinity's record, and seal it correctly."""
    pages = pages.copy()
    change(pages.view(layout.dtype)[:, 0][3])
    seal_pages(pages.view(np.uint32), pages, 0, np.uint32(SALT))
    return pages


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("count", 0, "number of rows"),
        ("count", 9_999, "number of rows"),
        ("flags", 1, "flags"),
        ("count", 1, "own page are missing"),
    ],
)
def test_a_sealed_vicinity_that_makes_no_sense_is_named(packed, field, value, says):
    tiers, layout, pages = packed
    every = np.arange(8, dtype=np.uint32)
    assert check_vicinities(pages, every, tiers.row_counts, layout, SALT) == []

    def change(record):
        record[field] = value

    spoiled = sealed_anew(tiers, layout, pages, change)
    (problem,) = check_vicinities(spoiled, every, tiers.row_counts, layout, SALT)
    assert problem.startswith("vicinity 3:")
    assert says in problem


def test_places_that_do_not_rise_or_exist_are_named(packed):
    tiers, layout, pages = packed

    def swap(record):
        record["places"][:2] = record["places"][1::-1].copy()

    def beyond(record):
        record["places"][record["count"] - 1] = 8 * layout.page_capacity

    for change in (swap, beyond):
        spoiled = sealed_anew(tiers, layout, pages, change)
        (problem,) = check_vicinities(spoiled, np.arange(8, dtype=np.uint32), tiers.row_counts, layout, SALT)
        assert problem.startswith("vicinity 3: its rows don't rise, or don't exist")


def test_a_damaged_or_misplaced_vicinity_stops_the_query(packed):
    tiers, layout, pages = packed
    surveyor = Surveyor(tiers.without_rows(), np.arange(9, dtype=np.uint32), layout)
    query, heads = np.zeros((1, 6), F32), np.arange(8, dtype=np.int32)[None]
    near = surveyor.near_pages(query, heads, np.ones((1, 8), F32))

    def read(changed):
        surveyed(surveyor, layout, changed, near, query, 1e30, 3)

    read(pages)
    for at in (0, 4, 13, 40, 4_095):
        spoiled = pages.copy()
        spoiled[5, at] ^= 4
        with pytest.raises(CorruptionError, match=r"vicinity 5 of vicinities\.bin is damaged") as caught:
            read(spoiled)
        assert caught.value.offset == 4_096 + 5 * 4_096
    with pytest.raises(CorruptionError, match="of another place or index"):
        read(pages[[0, 1, 2, 3, 4, 6, 5, 7]])
    for change in (lambda record: record.__setitem__("count", 0), lambda record: record.__setitem__("flags", 0)):
        with pytest.raises(CorruptionError, match=r"vicinity 3 .* number of rows or its flags"):
            read(sealed_anew(tiers, layout, pages, change))


def test_more_places_than_32_bits_count_are_refused():
    check_places((2**32 - 1) // 30, 30)
    with pytest.raises(InputError, match="keep codes in RAM"):
        check_places(2**32 // 30 + 1, 30)


def test_tiers_without_rows_survive_their_file_and_keep_the_rest():
    tiers, _, _ = made(np.random.default_rng(7), np.arange(6, dtype=np.uint32), 9, 3, 4)
    lean = tiers.without_rows()
    assert lean.rows_on_ssd
    assert not tiers.rows_on_ssd
    again = CodeTiers.from_arrays(lean.as_arrays())
    assert again.rows_on_ssd
    assert lean.tier_bytes["row_factors"] == 0
    assert lean.tier_bytes["page_codes"] == tiers.tier_bytes["page_codes"]
    np.testing.assert_array_equal(again.row_counts, tiers.row_counts)
