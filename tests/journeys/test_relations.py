"""What must not change an answer: the order of rows, the way of reading, threads, batches, a second build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journeys.doors import build_index, search_files

import annserve as product
from annserve.errors import InputError
from annserve.vectors import bundled

N_ROWS = 3_000
#: Few queries to calibrate by: what must be the same is so whatever the plan is.
OPTIONS = ("--metric", "cosine", "--calibration-queries", 600)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """The first docstrings, equal ones left out: between twins the smaller id wins, whichever that is."""
    base = bundled.load("stdlib-minilm").base[:N_ROWS]
    _, first = np.unique(base, axis=0, return_index=True)
    return base[np.sort(first)]


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return bundled.load("stdlib-minilm").queries[:100]


@pytest.fixture(scope="module")
def index(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relations")
    np.save(folder / "rows.npy", rows)
    return build_index(folder / "rows.npy", folder / "index", *OPTIONS)


def test_permuted_rows_with_ids_of_their_own_give_the_same_answers(rows, queries, index, tmp_path):
    """Ids far beyond 32 bits travel with their rows; at target 1 pages and heads play no part."""
    order = np.random.default_rng(3).permutation(len(rows))
    ids = order.astype(np.uint64) + np.uint64(2**40)
    np.save(tmp_path / "permuted.npy", rows[order])
    np.save(tmp_path / "ids.npy", ids)
    permuted = build_index(tmp_path / "permuted.npy", tmp_path / "index", *OPTIONS, "--ids", tmp_path / "ids.npy")
    with product.open(index) as one, product.open(permuted) as other:
        expected = one.search(queries, 20, recall_target=1.0)
        found = other.search(queries, 20, recall_target=1.0)
    np.testing.assert_array_equal(found.ids, expected.ids + np.uint64(2**40))
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("io", ["uring", "pread", "mmap"])
def test_every_way_of_reading_gives_the_same_answers(queries, index, io):
    with product.open(index, threads=1) as automatic:
        expected = automatic.search(queries, 10)
    try:
        other = product.open(index, io=io, threads=1)
    except InputError as error:
        pytest.skip(f"needs {io}: {error}")
    with other:
        found = other.search(queries, 10)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.stats.pages_read, expected.stats.pages_read)


def test_threads_and_batches_change_no_answer(queries, index):
    with product.open(index, threads=1) as one, product.open(index, threads=4) as four:
        expected = one.search(queries, 10)
        for found in (
            [four.search(queries, 10)],
            [four.search(queries[:3], 10), four.search(queries[3:], 10)],
            [one.search(query, 10) for query in queries],
        ):
            np.testing.assert_array_equal(np.concatenate([part.ids for part in found]), expected.ids)
            np.testing.assert_array_equal(np.concatenate([part.distances for part in found]), expected.distances)


def test_fewer_neighbours_are_the_nearest_of_more(queries, index):
    """At target 1, where k changes nothing but the cut."""
    with product.open(index) as opened:
        many = opened.search(queries, 50, recall_target=1.0)
        for k in (1, 7, 49):
            few = opened.search(queries, k, recall_target=1.0)
            np.testing.assert_array_equal(few.ids, many.ids[:, :k])
    assert (np.diff(many.distances, axis=1) >= 0).all()


def test_a_higher_recall_target_never_reads_less(queries, index):
    with product.open(index) as opened:
        pages = [opened.search(queries, 10, recall_target=t).stats.pages_read for t in (0.8, 0.9, 0.95, 0.99, 1)]
    assert (np.diff(pages, axis=0) >= 0).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_seed_gives_the_same_files_on_any_number_of_threads(index, tmp_path, threads):
    source = index.parent / "rows.npy"
    again = build_index(source, tmp_path / "again", *OPTIONS, "--threads", threads)
    assert search_files(again) == search_files(index)
    assert {name.partition("/")[2] for name in search_files(again)} == {
        "heads.bin",
        "codes.bin",
        "pages.bin",
        "plan.json",
    }


def test_another_seed_gives_other_files_that_answer_as_well(queries, index, tmp_path):
    other = build_index(index.parent / "rows.npy", tmp_path / "other", *OPTIONS, "--seed", 5)
    assert search_files(other) != search_files(index)
    with product.open(index) as one, product.open(other) as two:
        expected = one.search(queries, 10, recall_target=1.0)
        found = two.search(queries, 10, recall_target=1.0)
    np.testing.assert_array_equal(found.ids, expected.ids)
