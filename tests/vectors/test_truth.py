"""Exact neighbours are exact: equal to an oracle that sorts, and to the truth that came with real sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.errors import InputError
from annserve.vectors.formats import open_vectors, read_matrix, read_truth
from annserve.vectors.truth import exact_neighbours
from tests.oracles import vectors as oracle

METRICS = ("l2", "ip", "cosine")
EXTREME = {"uint8": (0, 255), "int8": (-128, 127)}


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.integers(1, 70),
    n_rows=st.integers(1, 40),
    n_queries=st.integers(1, 6),
    dtype=st.sampled_from(("uint8", "int8", "float16", "float32")),
    metric=st.sampled_from(METRICS),
    spread=st.sampled_from(("coarse", "extreme", "normal")),
    leave_out=st.booleans(),
)
def test_neighbours_are_those_of_the_oracle(
    seed: int, dim: int, n_rows: int, n_queries: int, dtype: str, metric: str, spread: str, leave_out: bool
) -> None:
    """Coarse values make ties, extreme ones the largest sums; ids must agree where distances are exact."""
    rng = np.random.default_rng(seed)
    n_total = n_rows + n_queries
    if dtype in EXTREME and spread == "extreme":
        rows = rng.choice(EXTREME[dtype], (n_total, dim))
    elif spread == "normal" and dtype not in EXTREME:
        rows = rng.normal(size=(n_total, dim))
    else:
        rows = rng.integers(0, 3, (n_total, dim))
    rows[:, 0] += ~rows.any(axis=1)  # no zero vector, for cosine's sake
    rows = rows.astype(dtype)
    base, queries = rows[:n_rows], rows[n_rows:]
    exclude = rng.integers(-1, n_rows, n_queries) if leave_out and n_rows > 1 else None
    k = int(rng.integers(1, n_rows + (exclude is None)))
    row_ids, distances = exact_neighbours(base, queries, k, metric, exclude=exclude, threads=2)
    expected_ids, expected = oracle.nearest(base, queries, k, metric, exclude)
    np.testing.assert_allclose(distances, expected, rtol=1e-12, atol=1e-11)
    if metric != "cosine" and (spread != "normal" or dtype in EXTREME):
        np.testing.assert_array_equal(row_ids, expected_ids)
    else:
        np.testing.assert_allclose(distances_of(base, queries, row_ids, metric), expected, rtol=1e-11, atol=1e-11)


def distances_of(base: np.ndarray, queries: np.ndarray, row_ids: np.ndarray, metric: str) -> np.ndarray:
    found = [oracle.nearest(base[ids], query[None], 1000, metric) for ids, query in zip(row_ids, queries)]
    return np.concatenate([distances for _, distances in found])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
def test_ties_go_to_the_smaller_id_across_chunks_and_threads(
    rng: np.random.Generator, metric: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows repeat far apart, and chunks are cut small, so that ties meet in different chunks."""
    monkeypatch.setattr("annserve.vectors.source.CHUNK_BYTES", 64)
    base = np.tile(rng.integers(1, 4, (20, 3)), (5, 1)).astype(dtype)
    queries = base[:7]
    row_ids, _ = exact_neighbours(base, queries, 30, metric, threads=3)
    expected, _ = oracle.nearest(base, queries, 30, metric)
    np.testing.assert_array_equal(row_ids, expected)


def test_scaled_copies_tie_under_cosine() -> None:
    direction = np.random.default_rng(1).normal(size=37).astype(np.float32)
    base = np.outer([3, 1, 7, 0.3], direction).astype(np.float32)
    row_ids, distances = exact_neighbours(base, direction[None], 4, "cosine")
    assert row_ids.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(distances, 0, atol=1e-7)


@pytest.mark.needs_shared
def test_the_truth_of_real_bytes_is_met_exactly(shared_data: Path) -> None:
    given_ids, given_distances = read_truth(shared_data / "sift-photos" / "gt.ibin100")
    queries = read_matrix(shared_data / "sift-photos" / "query.u8bin")[:50]
    with open_vectors(shared_data / "sift-photos" / "base.u8bin") as base:
        row_ids, distances = exact_neighbours(base, queries, 100, "l2", threads=2)
    np.testing.assert_array_equal(row_ids, given_ids[:50])
    assert given_distances is not None
    np.testing.assert_array_equal(distances, given_distances[:50])


@pytest.mark.needs_shared
def test_the_truth_of_real_embeddings_is_met(shared_data: Path) -> None:
    folder = shared_data / "squad-minilm"
    queries = read_matrix(folder / "queries.f16.npy")
    with open_vectors(folder / "base.f16.npy") as base:
        row_ids, distances = exact_neighbours(base, queries, 100, "cosine", threads=2)
    np.testing.assert_array_equal(row_ids, read_matrix(folder / "gt.ids.npy"))
    np.testing.assert_allclose(1 - distances, read_matrix(folder / "gt.sims.npy"), atol=1e-7)


def test_what_cannot_be_answered_is_refused() -> None:
    base, queries = np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)
    for k in (0, -1, 6):
        with pytest.raises(InputError, match="k is"):
            exact_neighbours(base, queries, k, "l2")
    with pytest.raises(InputError, match="k is 5"):
        exact_neighbours(base, queries, 5, "l2", exclude=np.array([0, 1]))
    with pytest.raises(InputError, match="metric"):
        exact_neighbours(base, queries, 1, "hamming")
    with pytest.raises(InputError, match="dimension 3"):
        exact_neighbours(base, queries[:, :2], 1, "l2")
    with pytest.raises(InputError, match="exclude"):
        exact_neighbours(base, queries, 1, "l2", exclude=np.array([0]))
    with pytest.raises(InputError, match="type int64"):
        exact_neighbours(base, queries.astype(np.int64), 1, "l2")
    base[3, 1] = np.nan
    with pytest.raises(InputError, match=r"row 3 of base holds NaN"):
        exact_neighbours(base, queries, 1, "l2")
    base[3] = 0
    with pytest.raises(InputError, match=r"row 3 of base is a zero vector"):
        exact_neighbours(base, queries, 1, "cosine")
