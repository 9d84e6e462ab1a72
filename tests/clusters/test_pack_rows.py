"""Packing as a whole: what `pack_rows` promises, on random, degenerate and real rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import clusters as oracle

from annserve import events
from annserve.clusters import partitions
from annserve.clusters.hierarchy import cut_overfull, label_rows, offsets_of, pack_rows
from annserve.errors import InputError


def assert_sound(packing, n, capacity, pages_per_posting=1):
    """Check every invariant of a packing."""
    assert packing.order.dtype == np.int64
    assert np.array_equal(np.sort(packing.order), np.arange(n))
    for offsets, last, most in (
        (packing.page_offsets, n, capacity),
        (packing.posting_offsets, len(packing.page_offsets) - 1, pages_per_posting),
    ):
        assert offsets.dtype == np.int64
        assert offsets[0] == 0
        assert offsets[-1] == last
        assert np.diff(offsets).min() >= 1
        assert np.diff(offsets).max() <= most
    pages = len(packing.page_offsets) - 1
    if n >= 20 * capacity and capacity >= 10:
        assert n / (pages * capacity) >= 0.95


def pages_as_lists(packing):
    return np.split(packing.order, packing.page_offsets[1:-1])


DEGENERATE = {
    "one row": np.ones((1, 5)),
    "fewer than a page": np.arange(14).reshape(7, 2),
    "all equal": np.full((400, 8), 7),
    "two points": np.repeat([[0, 0], [9, 9]], 150, axis=0),
    "one-hot": np.eye(64),
    "zeros": np.zeros((101, 3)),
    "one dimension": np.arange(333)[:, np.newaxis] % 120,
    "one dimension, one value": np.ones((95, 1)),
    "duplicates beyond a page": np.concatenate([np.full((90, 4), 3), np.arange(120).reshape(30, 4)]),
    "one far row": np.concatenate([np.zeros((99, 3)), np.full((1, 3), 120)]),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
@pytest.mark.parametrize(("capacity", "pages_per_posting"), [(10, 1), (3, 4), (1, 16)])
def test_degenerate_rows_are_packed_whole(name, dtype, capacity, pages_per_posting):
    rows = np.ascontiguousarray(DEGENERATE[name].astype(dtype))
    packing = pack_rows(rows, capacity, pages_per_posting)
    assert_sound(packing, len(rows), capacity, pages_per_posting)


@given(
    n=st.integers(1, 700),
    dim=st.sampled_from([1, 2, 5, 31]),
    capacity=st.integers(1, 40),
    pages_per_posting=st.integers(1, 20),
    n_places=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_no_row_is_lost_and_no_page_is_over_capacity(n, dim, capacity, pages_per_posting, n_places, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (n_places, dim), dtype=np.uint8)[rng.integers(0, n_places, n)]
    packing = pack_rows(rows, capacity, pages_per_posting, seed=seed % 1000)
    assert_sound(packing, n, capacity, pages_per_posting)


#: Partitions and regions so small that a thousand rows make many of them.
SMALL = {"partition_rows": 200, "region_pages": 12}


def test_the_number_of_threads_changes_nothing(rng):
    rows = rng.normal(size=(1_500, 9)).astype(np.float32)
    one, three = (pack_rows(rows, 10, 4, seed=5, threads=threads, **SMALL) for threads in (1, 3))
    assert np.array_equal(one.order, three.order)
    assert np.array_equal(one.page_offsets, three.page_offsets)
    assert np.array_equal(one.posting_offsets, three.posting_offsets)


def test_many_partitions_lose_no_row_and_cost_little(rng):
    rows = rng.normal(size=(1_500, 6)).astype(np.float32)
    many, one = pack_rows(rows, 10, 4, **SMALL), pack_rows(rows, 10, 4)
    assert_sound(many, len(rows), 10, 4)
    assert max(labels.max() for _, labels in label_rows(rows, 200)) >= 4
    whole = oracle.sum_of_squares(rows, pages_as_lists(one))
    assert oracle.sum_of_squares(rows, pages_as_lists(many)) < 1.05 * whole


def test_rows_that_cannot_be_told_apart_stay_within_the_partition_limit():
    rows = np.zeros((2_000, 4), np.uint8)
    counts = np.bincount(np.concatenate([labels for _, labels in label_rows(rows, 200)]))
    offsets = cut_overfull(counts, 200)
    assert offsets[-1] == 2_000
    assert 1 <= np.diff(offsets).min() <= np.diff(offsets).max() <= 2 * 200
    assert set(offsets_of(counts)) <= set(offsets), "partitions are cut, not joined"
    assert_sound(pack_rows(rows, 10, 4, **SMALL), 2_000, 10, 4)


def test_prices_balance_partitions_of_skewed_rows(rng):
    """Nine tenths of the rows in one cluster: no partition has more than twice its share."""
    rows = np.concatenate([rng.normal(size=(3_600, 8)), 30 + 5 * rng.normal(size=(400, 8))]).astype(np.float32)
    trained = partitions.train_partitions(rows[::2], 8)
    counts = np.bincount(partitions.assign_partitions(rows, trained), minlength=8)
    assert counts.max() < 2 * 500


def test_refinement_lowers_the_sum_of_squares(rng):
    rows = rng.normal(size=(3_000, 12)).astype(np.float32)
    bisected, refined = (
        oracle.sum_of_squares(rows, pages_as_lists(pack_rows(rows, 10, refine_rounds=rounds))) for rounds in (0, 6)
    )
    assert refined < 0.9 * bisected


def test_a_memory_map_packs_like_an_array(tmp_path, rng):
    rows = rng.integers(-128, 128, (900, 7), dtype=np.int8)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert np.array_equal(pack_rows(mapped, 10).order, pack_rows(rows, 10).order)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"page_capacity": 0}, "page_capacity"),
        ({"page_capacity": 5, "pages_per_posting": 0}, "pages_per_posting"),
        ({"page_capacity": 5, "refine_rounds": -1}, "refine_rounds"),
        ({"page_capacity": 5, "threads": 0}, "threads"),
    ],
)
def test_an_option_out_of_range_is_an_error_that_names_it(options, field):
    with pytest.raises(InputError, match=f"{field} is .* at least") as caught:
        pack_rows(np.ones((3, 2), np.float32), **options)
    assert caught.value.field == field


def test_no_rows_is_an_error():
    with pytest.raises(InputError, match="at least one row"):
        pack_rows(np.empty((0, 4), np.float32), 5)


def test_the_listener_hears_each_stage_begin_progress_and_end(rng):
    heard: list[events.Event] = []
    pack_rows(rng.normal(size=(1_000, 3)).astype(np.float32), 10, 4, listener=heard.append, **SMALL)
    begun = [event.stage for event in heard if isinstance(event, events.StageStarted)]
    ended = [event.stage for event in heard if isinstance(event, events.StageFinished)]
    assert begun == ended == ["partition", "bisect", "refine", "group"]
    for stage in begun:
        done = [e.done for e in heard if isinstance(e, events.StageProgressed) and e.stage == stage]
        assert done == sorted(done)


@pytest.mark.needs_shared
def test_pages_of_real_paragraphs_hold_their_neighbours_together(shared_data):
    """The true top-10 of a question lie on 5.5 pages on average (8.9 with rows in random order)."""
    base = np.load(shared_data / "squad-minilm/base.f16.npy", allow_pickle=False).astype(np.float32)
    truth = np.load(shared_data / "squad-minilm/gt.ids.npy", allow_pickle=False)[:, :10]
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    packing = pack_rows(base, 10)
    assert_sound(packing, len(base), 10)
    page_of = np.empty(len(base), np.int64)
    page_of[packing.order] = np.repeat(np.arange(len(packing.page_offsets) - 1), np.diff(packing.page_offsets))
    assert np.mean([len(set(page_of[hits].tolist())) for hits in truth]) < 5.6


def test_many_partitions_are_found_by_groups(monkeypatch, rng):
    """Rows fall about evenly into partitions, whose centroids are hardly farther than where all are compared."""
    rows = (4 * rng.normal(size=(30, 8))[rng.integers(0, 30, 12_000)] + rng.normal(size=(12_000, 8))).astype(np.float32)
    flat = partitions.train_partitions(rows[::2], 60)
    monkeypatch.setattr(partitions, "_COMPARED_MAX", 10)
    grouped = partitions.train_partitions(rows[::2], 60)
    assert len(flat.within) == 1
    assert len(grouped.within) == 8
    spreads = []
    for trained in (flat, grouped):
        found = partitions.assign_partitions(rows, trained)
        counts = np.bincount(found)
        assert 50 <= len(counts) <= 70
        assert counts.max() < 4 * len(rows) / 60
        centroids = np.concatenate([centres.centroids for centres in trained.within])
        spreads.append(float(((rows - centroids[found]) ** 2).sum()))
    assert spreads[1] < 1.15 * spreads[0]
