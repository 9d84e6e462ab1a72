"""Kernels of the heads against their oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import heads as oracle

from annserve.heads import graph_kernels, kernels
from annserve.heads.graph import SLACK, join_heads, reachable
from annserve.heads.layout import NO_HEAD, QUERY_LIMIT, HeadNodes, NodeLayout, lay_out
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads
from annserve.spec import DIM_MAX


@st.composite
def head_vectors(draw, n_max=60):
    """Heads on the grid: spread out, in few places (duplicates), all alike, or at the limits of their type."""
    n_heads, dim = draw(st.integers(1, n_max)), draw(st.sampled_from([1, 2, 3, 17, 257]))
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    info, rng = np.iinfo(dtype), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["spread", "few places", "alike", "limits"]))
    vectors = rng.integers(info.min, info.max + 1, (n_heads, dim))
    if kind == "few places":
        vectors = vectors[rng.integers(0, min(3, n_heads), n_heads)]
    elif kind == "alike":
        vectors[:] = vectors[0]
    elif kind == "limits":
        vectors = rng.choice([info.min, info.max], (n_heads, dim))
    return vectors.astype(dtype)


def shape_of(layout):
    return layout.dim, layout.degree, layout.nodes_per_page, layout.page_bytes, layout.stride


@given(head_vectors(), st.integers(0, 2**32 - 1), st.integers(1, 70))
@settings(max_examples=120)
def test_a_scan_gives_the_exact_nearest_heads(vectors, seed, wanted):
    """`wanted` near or above the number of heads, so that every head is compared; more than there are is −1."""
    heads = join_heads(vectors, vectors.dtype)
    wanted = max(wanted, -(-len(vectors) // 6))
    query = np.random.default_rng(seed).integers(-2_500, 2_501, (1, vectors.shape[1])).astype(np.float32)
    ids, distances, computed = nearest_heads(heads, query, wanted, WalkScratch(heads.n_heads))
    expected_ids, expected = oracle.nearest_heads(query[0], vectors, wanted)
    found = len(expected)
    assert computed[0] == len(vectors)
    np.testing.assert_array_equal(ids[0, :found], expected_ids)
    np.testing.assert_array_equal(distances[0, :found], expected)
    assert (ids[0, found:] == -1).all()
    assert np.isinf(distances[0, found:]).all()


@given(head_vectors(), st.integers(0, 2**32 - 1))
@settings(max_examples=120)
def test_a_walk_gives_heads_once_in_order_with_their_true_distances(vectors, seed):
    """One twelfth of the heads, so that the graph is walked and not scanned."""
    heads = join_heads(vectors, vectors.dtype)
    wanted = max(len(vectors) // 12, 1)
    query = np.random.default_rng(seed).integers(-300, 301, (1, vectors.shape[1])).astype(np.float32)
    ids, distances, computed = nearest_heads(heads, query, wanted, WalkScratch(heads.n_heads))
    assert len(set(ids[0].tolist())) == wanted
    assert ids.min() >= 0
    assert (np.diff(distances[0]) >= 0).all()
    np.testing.assert_array_equal(distances[0], oracle.squared_distances(query[0], vectors[ids[0]]))
    assert wanted <= computed[0] <= len(vectors)


@given(head_vectors(), st.integers(0, 2**32 - 1))
@settings(max_examples=120)
def test_neighbours_are_chosen_by_the_rule(vectors, seed):
    rng = np.random.default_rng(seed)
    n_heads, dim = vectors.shape
    layout = NodeLayout(dim)
    nodes = lay_out(vectors, np.full((n_heads, layout.degree), NO_HEAD, np.uint32), layout)
    node = int(rng.integers(n_heads))
    near = [head for head in oracle.nearest_heads(vectors[node], vectors, n_heads)[0].tolist() if head != node]
    candidates = [(int(oracle.squared_distances(vectors[node], vectors[[head]])[0]), head) for head in near]
    chosen = np.zeros(layout.degree, np.uint32)
    kept = graph_kernels.diverse_neighbours(
        np.array([distance << kernels.HEAD_BITS | head for distance, head in candidates], np.int64),
        len(candidates),
        nodes.view(vectors.dtype),
        *shape_of(layout),
        SLACK,
        chosen,
    )
    assert chosen[:kept].tolist() == oracle.diverse(candidates, vectors, layout.degree, SLACK)
    assert (chosen[kept:] == NO_HEAD).all()


@given(st.integers(1, 50), st.integers(0, 24), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_reach_follows_every_link(n_heads, links_max, seed):
    rng = np.random.default_rng(seed)
    layout = NodeLayout(3)
    neighbours = np.full((n_heads, layout.degree), NO_HEAD, np.uint32)
    for head in range(n_heads):
        others = rng.permutation(n_heads)[: rng.integers(0, min(links_max, 2) + 1)]
        neighbours[head, : len(others)] = others
    nodes = lay_out(np.zeros((n_heads, 3), np.uint8), neighbours, layout)
    entry = int(rng.integers(n_heads))
    heads = HeadNodes(layout, nodes, n_heads, entry, 1.0, np.dtype(np.uint8))
    assert set(np.flatnonzero(reachable(heads)).tolist()) == oracle.reachable(neighbours, entry)


def test_stamps_that_run_out_start_over_and_keep_answers(rng):
    """At the last stamp of 32 bits the visits are cleared; without that, old visits would hide heads."""
    vectors = rng.integers(0, 256, (400, 8)).astype(np.uint8)
    heads = join_heads(vectors, vectors.dtype)
    queries = rng.integers(0, 256, (6, 8)).astype(np.float32)
    fresh = nearest_heads(heads, queries, 10, WalkScratch(heads.n_heads))
    worn = WalkScratch(heads.n_heads)
    worn.stamp = 2**32 - 4
    worn.visited[:] = np.arange(400) % 5
    for first, second in zip(fresh, nearest_heads(heads, queries, 10, worn)):
        np.testing.assert_array_equal(first, second)
    assert worn.stamp == len(queries)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_largest_distance_fits_beside_a_head(dtype):
    """The largest dimension, all coordinates at their limits: 38 bits of distance, the last head of three."""
    far = np.iinfo(dtype).max
    vectors = np.full((3, DIM_MAX), far, dtype)
    heads = join_heads(vectors, np.dtype(dtype))
    query = np.full((1, DIM_MAX), -1e9, np.float32)
    ids, distances, _ = nearest_heads(heads, query, 3, WalkScratch(3))
    assert ids.tolist() == [[0, 1, 2]]
    assert (distances == (QUERY_LIMIT + int(far)) ** 2 * DIM_MAX).all()
    assert ((QUERY_LIMIT + 255) ** 2 * (DIM_MAX + 1)) << kernels.HEAD_BITS < 2**63


@given(head_vectors(), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.037, 1e-9, 250.0]))
@settings(max_examples=120)
def test_exact_distances_are_to_the_stored_heads_from_queries_as_they_are(vectors, seed, scale):
    """In float64; the queries lie between the steps of the grid, where those of a walk are rounded to it."""
    rng = np.random.default_rng(seed)
    n_heads, dim = vectors.shape
    layout = NodeLayout(dim)
    nodes = lay_out(vectors, np.full((n_heads, layout.degree), NO_HEAD, np.uint32), layout)
    heads = HeadNodes(layout, nodes, n_heads, 0, scale, vectors.dtype)
    queries = (rng.normal(size=(3, dim)) * 200 * scale).astype(np.float32)
    head_ids = rng.integers(-1, n_heads, (3, 5)).astype(np.int32)
    # There is no head from a place on, as after a walk that found fewer.
    head_ids[0, 2:] = -1
    found = exact_distances(heads, queries, head_ids)
    assert found.dtype == np.float32
    exact = oracle.real_distances(queries, vectors * np.float64(scale))
    there = head_ids >= 0
    np.testing.assert_allclose(found[there], np.take_along_axis(exact, head_ids, axis=1)[there], rtol=1e-5)


@pytest.mark.parametrize("wanted", [2, 30])
@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-40, 1e-47, 1e13])
def test_queries_are_compared_on_the_grid_and_clipped_to_its_limit(rng, scale, wanted):
    """By a walk and by a scan; whatever the scale, even one below the least float32: clipped, never wrapped around."""
    vectors = rng.integers(-128, 128, (30, 3)).astype(np.int8)
    joined = join_heads(vectors, vectors.dtype)
    heads = HeadNodes(joined.layout, joined.nodes, 30, joined.entry, scale, joined.dtype)
    queries = np.concatenate((np.array([[1e15, -1e15, 0.0]]), rng.normal(0, 90 * max(scale, 1e-40), (4, 3)))).astype(
        np.float32
    )
    ids, distances, _ = nearest_heads(heads, queries, wanted, WalkScratch(30))
    for query, found, distance in zip(oracle.query_on_grid(queries, scale, QUERY_LIMIT), ids, distances):
        expected = oracle.squared_distances(query, vectors)[found]
        np.testing.assert_array_equal(distance, expected * (scale * scale))
