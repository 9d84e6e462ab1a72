"""Sets at the edge of what an index can be: each is built, proven, and answers as brute force does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, build_index

import annserve as product


def built(folder: Path, rows: np.ndarray, *options: object) -> Path:
    np.save(folder / "rows.npy", rows)
    index = build_index(folder / "rows.npy", folder / "index", *options)
    assert annserve("verify", index).code == 0
    assert annserve("inspect", index).code == 0
    return index


def test_one_row(tmp_path):
    with product.open(built(tmp_path, np.array([[3, 4, 5]], np.uint8))) as index:
        for target in (0.8, 0.95, 1.0):
            found = index.search(np.array([[3, 4, 7], [0, 0, 0]], np.uint8), 1, recall_target=target)
            assert found.ids.tolist() == [[0], [0]]
            assert found.distances.tolist() == [[4], [50]]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_two_rows(tmp_path, metric):
    rows = np.array([[1, 0, 0, 2], [0, 3, 1, 0]], np.float32)
    with product.open(built(tmp_path, rows, "--metric", metric)) as index:
        assert index.search(rows, 2).ids.tolist() == [[0, 1], [1, 0]]


def test_fewer_rows_than_a_page_holds(tmp_path, rng):
    rows = rng.integers(0, 256, (20, 16)).astype(np.uint8)
    with product.open(built(tmp_path, rows)) as index:
        assert index.info()["pages"] == 1
        assert index.search(rows, 20).ids[:, 0].tolist() == list(range(20))


def test_k_may_be_all_rows(tmp_path, rng):
    """Several pages, every row wanted, at every target: exactly k come back, each once."""
    rows = rng.integers(0, 256, (300, 128)).astype(np.uint8)
    queries = rng.integers(0, 256, (5, 128)).astype(np.uint8)
    right = ((queries[:, None].astype(int) - rows.astype(int)) ** 2).sum(2)
    with product.open(built(tmp_path, rows)) as index:
        assert index.info()["pages"] >= 10
        for target in (0.8, 0.95, 1.0):
            found = index.search(queries, 300, recall_target=target)
            np.testing.assert_array_equal(found.ids, np.argsort(right, axis=1, kind="stable"))
            np.testing.assert_array_equal(found.distances, np.sort(right, axis=1))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_all_rows_equal(tmp_path, metric):
    """Ties go to the smaller id, over many pages."""
    with product.open(built(tmp_path, np.full((700, 64), 9, np.uint8), "--metric", metric)) as index:
        found = index.search(np.full((2, 64), 9, np.uint8), 700, recall_target=1.0)
        assert found.ids.tolist() == [list(range(700))] * 2
        assert np.abs(found.distances).max() <= 1e-6
        assert index.search(np.full(64, 9, np.uint8), 10).distances.shape == (1, 10)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float32"])
def test_one_dimension(tmp_path, dtype):
    rows = np.arange(-60, 60).astype(dtype)[:, None] if dtype != "uint8" else np.arange(120, dtype=dtype)[:, None]
    with product.open(built(tmp_path, rows)) as index:
        found = index.search(rows, 3, recall_target=1.0)
    assert found.ids[:, 0].tolist() == list(range(120))
    assert set(found.ids[50, 1:].tolist()) == {49, 51}


def test_rows_wider_than_a_small_page(tmp_path, rng):
    """5,000 dimensions take pages of 8 KB, one row each."""
    rows = rng.normal(size=(40, 5_000)).astype(np.float32)
    with product.open(built(tmp_path, rows)) as index:
        assert (index.spec.page_bytes, index.spec.page_capacity) == (8_192, 1)
        assert index.search(rows, 1).ids[:, 0].tolist() == list(range(40))
        assert (index.search(rows, 1).stats.bytes_read % 8_192 == 0).all()


@pytest.mark.parametrize("page_bytes", [8_192, 16_384])
def test_pages_of_any_size_give_the_same_answers(small_index, small_rows, small_file, tmp_path, page_bytes):
    larger = build_index(small_file, tmp_path / "larger", "--page-bytes", page_bytes)
    with product.open(small_index) as index, product.open(larger) as other:
        expected = index.search(small_rows[:50], 10, recall_target=1.0)
        found = other.search(small_rows[:50], 10, recall_target=1.0)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)
        stats = other.search(small_rows[:50], 10).stats
        assert (stats.bytes_read == page_bytes * stats.pages_read).all()
        assert other.spec.page_capacity > index.spec.page_capacity


@pytest.mark.parametrize("form", [np.float64, np.float16, np.int64, "list", "columns", "read-only", "big-endian"])
def test_queries_of_any_form_are_answered_alike(small_index, small_rows, form):
    """Whole numbers, so that every form holds the same values."""
    plain = np.round(small_rows[:6] * 4).astype(np.float32)
    forms = {
        "list": plain.tolist,
        "columns": lambda: np.asfortranarray(plain),
        "read-only": lambda: np.frombuffer(plain.tobytes(), np.float32).reshape(plain.shape),
        "big-endian": lambda: plain.astype(">f4"),
    }
    queries = forms[form]() if isinstance(form, str) else plain.astype(form)
    with product.open(small_index) as index:
        found, expected = index.search(queries, 5), index.search(plain, 5)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)


def test_one_query_may_be_a_vector(small_index, small_rows):
    with product.open(small_index) as index:
        found = index.search(small_rows[3], 5)
        assert found.ids.shape == found.distances.shape == (1, 5)
        np.testing.assert_array_equal(found.ids, index.search(small_rows[3:4], 5).ids)


def test_no_queries_give_no_answers(small_index):
    with product.open(small_index, threads=3) as index:
        found = index.search(np.zeros((0, 24), np.float32), 5)
        assert found.ids.shape == found.distances.shape == (0, 5)
        assert len(found.stats.pages_read) == 0


def test_the_largest_ids_come_back(tmp_path, rng):
    ids = np.array([0, 2**63, 2**64 - 2, 1, 2**32], np.uint64)
    rows = rng.integers(0, 256, (5, 8)).astype(np.uint8)
    np.save(tmp_path / "ids.npy", ids)
    with product.open(built(tmp_path, rows, "--ids", tmp_path / "ids.npy")) as index:
        np.testing.assert_array_equal(index.search(rows, 1).ids[:, 0], ids)


def test_values_of_the_largest_size_are_found(tmp_path):
    """1e15 is the most that is taken; distances then lie near the end of float32."""
    rows = (np.eye(12) * 1e15).astype(np.float32)
    with product.open(built(tmp_path, rows)) as index:
        found = index.search(rows, 2, recall_target=1.0)
    assert found.ids[:, 0].tolist() == list(range(12))
    assert np.isfinite(found.distances).all()
