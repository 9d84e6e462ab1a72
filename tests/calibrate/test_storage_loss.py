"""What quantized rows cost: a true neighbour is kept if its stored row is still among the k nearest."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.calibrate.storage_loss import ranks_as_stored
from annserve.pages.rows import quantize_rows
from annserve.spec import IndexSpec


def ordered(queries, rows, metric):
    """All rows, nearest first; the earlier one where two are as near."""
    exact = rows.astype(np.float64)
    if metric == "l2":
        distances = ((queries[:, None] - exact) ** 2).sum(axis=2)
    else:
        exact = exact / np.linalg.norm(exact, axis=1, keepdims=True) if metric == "cosine" else exact
        distances = -(queries @ exact.T)
    return np.argsort(distances, axis=1, kind="stable")


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_kept_are_those_that_stored_rows_rank_among_the_k_nearest(rng, metric, k):
    """Against brute force over all stored rows; coarse ones, so that some neighbours are lost."""
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    rows[:, 0] *= 40
    spec = IndexSpec(4, "float32", metric)
    queries = (rng.normal(size=(40, 4)) * [40, 1, 1, 1]).astype(np.float32)
    neighbours = ordered(queries, rows, metric)
    stored = quantize_rows(rows, spec)
    values = stored.elements.astype(np.float64) * stored.scales[:, None]
    kept = ranks_as_stored(queries, neighbours, rows, spec)[:, :k] < k
    for i, query in enumerate(queries):
        # Places among the neighbours, so that of two stored alike the one that was nearer comes first.
        now = ordered(query[None], values[neighbours[i]], "ip" if metric == "cosine" else metric)[0, :k]
        assert kept[i].tolist() == [place in now for place in range(k)]
    assert kept.mean() > 0.5
    assert kept.mean() < 1 or k < 10 or metric == "ip"


def test_integers_lose_nothing():
    spec = IndexSpec(4, "uint8", "l2")
    ranks = ranks_as_stored(np.zeros((3, 4), np.float32), np.zeros((3, 9), np.int64), np.zeros((9, 4), np.uint8), spec)
    assert ranks.tolist() == [list(range(9))] * 3
