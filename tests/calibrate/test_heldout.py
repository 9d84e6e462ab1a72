"""Held-out queries: rows as they are, and rows pushed off the data, of the length that real queries have."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.calibrate.heldout import PUSHES, hold_out
from annserve.spec import IndexSpec


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_unpushed_queries_are_rows_and_pushed_ones_lie_farther_the_more_they_are_pushed(rng, metric):
    rows = (rng.standard_normal((4_000, 4)) @ rng.standard_normal((4, 24))).astype(np.float32)
    spec = IndexSpec(24, "float32", metric)
    held = hold_out(rows, spec, 1_000, seed=1)
    exact = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    same = held.push == 0
    np.testing.assert_allclose(held.queries[same], exact[held.rows[same]], rtol=1e-6)
    moved = np.linalg.norm(held.queries - exact[held.rows], axis=1)
    means = [moved[held.push == group].mean() for group in range(len(PUSHES))]
    assert means == sorted(means)
    assert means[0] < 1e-5


def test_pushing_keeps_mean_and_spread(rng):
    rows = rng.standard_normal((4_000, 8)).astype(np.float32) * [1, 2, 3, 4, 5, 6, 7, 8] + 10
    held = hold_out(rows.astype(np.float32), IndexSpec(8, "float32", "l2"), 4_000, seed=2)
    for group in range(len(PUSHES)):
        some = held.queries[held.push == group]
        np.testing.assert_allclose(some.mean(axis=0), rows.mean(axis=0), atol=1.0)
        np.testing.assert_allclose(some.std(axis=0), rows.std(axis=0), rtol=0.15)


def test_each_row_is_held_out_once_and_the_seed_fixes_which(rng):
    rows = rng.integers(0, 255, (50, 6)).astype(np.uint8)
    spec = IndexSpec(6, "uint8", "l2")
    a, b = hold_out(rows, spec, 1_000, seed=3), hold_out(rows, spec, 1_000, seed=3)
    assert len(a.rows) == 50 == len(set(a.rows.tolist()))
    np.testing.assert_array_equal(a.queries, b.queries)
    assert (hold_out(rows, spec, 20, seed=4).rows != a.rows[:20]).any()
