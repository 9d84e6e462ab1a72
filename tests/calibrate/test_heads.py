"""Heads that needn't be looked at: found from held-out rows, good for fresh ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from annserve.calibrate.heads import calibrate_heads
from annserve.calibrate.log_hits import fit_log_hits
from annserve.heads.graph import join_heads
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads
from annserve.search.head_skip import HeadSkip

N_HEADS, N_NEIGHBOURS = 400, 10
TARGETS = np.array([0.80, 0.95])


def a_segment(rng):
    """Heads in space, and the radii of their postings: the wider, the more neighbours of queries nearby."""
    vectors = rng.normal(0, 60, (N_HEADS, 8)) + 128
    return SimpleNamespace(
        heads=join_heads(vectors, np.dtype(np.uint8), seed=0), radii=rng.uniform(20, 60, N_HEADS).astype(np.float32)
    )


def asked(rng, segment, n_queries):
    """Queries, the ranks of the heads of their neighbours, those heads, and all heads by rank."""
    queries = (rng.normal(0, 60, (n_queries, 8)) + 128).astype(np.float32)
    head_ids, _, _ = nearest_heads(segment.heads, queries, N_HEADS, WalkScratch(N_HEADS))
    distances = exact_distances(segment.heads, queries, head_ids)
    weight = np.exp(-distances / (2 * segment.radii[head_ids] ** 2))
    ranks = np.array([rng.choice(N_HEADS, N_NEIGHBOURS, p=own / own.sum()) for own in weight.astype(np.float64)])
    return queries, ranks + 1.0, head_ids, distances


def test_few_neighbours_are_lost_and_most_heads_passed_over(rng):
    segment = a_segment(rng)
    queries, ranks, _, _ = asked(rng, segment, 1_500)
    heads = np.full((1, 2), N_HEADS)
    terms, below = calibrate_heads(segment, queries, ranks, heads, [N_NEIGHBOURS], TARGETS)
    assert below[0, 1] < below[0, 0]
    _, ranks, head_ids, distances = asked(rng, segment, 1_000)
    for b, target in enumerate(TARGETS):
        left, _ = HeadSkip(terms[0].astype(np.float32), below[0, b]).keep(head_ids, distances, segment.radii)
        holding = np.take_along_axis(head_ids, ranks.astype(int) - 1, axis=1)
        lost = 1 - np.mean([np.isin(wanted, kept).mean() for wanted, kept in zip(holding, left)])
        assert lost < 2 * 0.02 * (1 - target) + 0.001
        assert (left >= 0).sum(axis=1).mean() < 0.5 * N_HEADS


def test_a_regression_finds_the_weights_that_made_its_counts(rng):
    design = np.column_stack((np.ones(50_000), rng.normal(size=(50_000, 2))))
    weights = np.array([-1.0, 0.5, -0.7])
    found = fit_log_hits([design], [rng.poisson(np.exp(design @ weights)).astype(float)])
    np.testing.assert_allclose(found, weights, atol=0.03)


def test_too_few_hits_promise_much_everywhere():
    design = np.ones((1_000, 3))
    assert (design @ fit_log_hits([design], [np.zeros(1_000)]) > 0).all()
