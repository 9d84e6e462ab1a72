"""What the graph of heads promises, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import heads as oracle

from annserve.events import StageProgressed
from annserve.heads.graph import join_heads
from annserve.heads.layout import DEGREE
from annserve.heads.navigate import WalkScratch, nearest_heads


def clustered(rng, n_heads, dim=24, n_clusters=60):
    """Clusters of different sizes and densities, as heads of real data lie."""
    places = rng.normal(size=(n_clusters, dim)) * 40 + 128
    sizes = rng.dirichlet(np.ones(n_clusters))
    cluster_of = rng.choice(n_clusters, n_heads, p=sizes)
    spread = rng.uniform(4, 20, (n_clusters, 1))
    return np.clip(places[cluster_of] + spread[cluster_of] * rng.normal(size=(n_heads, dim)), 0, 255)


def far_clusters(rng, n_heads=900):
    """Ten tight clusters, each far from all others."""
    places = rng.choice([-100.0, 100.0], (10, 6)) + np.arange(10)[:, None]
    return places[np.arange(n_heads) % 10] + 0.5 * rng.normal(size=(n_heads, 6))


DATA = {
    "one head": lambda rng: np.full((1, 5), 7.0),
    "two heads": lambda rng: rng.normal(size=(2, 5)),
    "thirty heads": lambda rng: rng.normal(size=(30, 5)),
    "all equal": lambda rng: np.full((2_000, 16), 3.0),
    "two places": lambda rng: np.repeat([[0.0] * 8, [100.0] * 8], 700, axis=0),
    "one dimension": lambda rng: rng.normal(size=(1_500, 1)),
    "far clusters": far_clusters,
    "far clusters of equals": lambda rng: np.rint(far_clusters(rng) / 10) * 10,
    "half of them equal": lambda rng: np.vstack((np.zeros((800, 12)), rng.normal(size=(800, 12)))),
    "larger than a page": lambda rng: rng.normal(size=(40, 4_500)),
    "clusters": lambda rng: clustered(rng, 1_500) - 128,
}


@pytest.mark.parametrize("name", DATA)
def test_every_head_can_be_reached_and_links_are_sound(name, rng):
    """Out-degree, self links, doubles, gaps in the list and reachability, by the oracle on the whole graph."""
    vectors = DATA[name](rng).astype(np.float32)
    heads = join_heads(vectors, np.dtype(np.int8))
    neighbours = heads.neighbours()
    links = oracle.links(neighbours)
    assert neighbours.shape == (len(vectors), DEGREE)
    for head, others in enumerate(links):
        assert head not in others
        assert len(set(others)) == len(others)
        assert all(0 <= other < len(vectors) for other in others)
        assert neighbours[head, : len(others)].tolist() == others, "an unused place before a used one"
    assert oracle.reachable(neighbours, heads.entry) == set(range(len(vectors)))


def test_the_same_seed_gives_the_same_graph_and_another_another(rng):
    vectors = clustered(rng, 500)
    first, second = (join_heads(vectors, np.dtype(np.uint8), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.nodes, second.nodes)
    assert first.entry == second.entry
    assert (first.nodes != join_heads(vectors, np.dtype(np.uint8), seed=4).nodes).any()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_walk_finds_almost_all_of_the_true_nearest(rng, dtype):
    """3,000 clustered heads, the nearest 100 of queries on and off the data: at least 95 of 100, on average."""
    vectors = clustered(rng, 3_000) - (0 if dtype == "uint8" else 128)
    heads = join_heads(vectors.astype(np.float32), np.dtype(dtype))
    queries = vectors[rng.choice(len(vectors), 60)] + rng.normal(size=(60, 24)) * rng.uniform(0, 60, (60, 1))
    found, _, computed = nearest_heads(heads, queries.astype(np.float32), 100, WalkScratch(heads.n_heads))
    grid = np.rint(queries / heads.scale)
    recalls = [
        len(set(ids.tolist()) & set(oracle.nearest_heads(query, heads.vectors(), 100)[0].tolist())) / 100
        for query, ids in zip(grid, found)
    ]
    assert np.mean(recalls) >= 0.95
    assert min(recalls) >= 0.7
    assert computed.mean() < 0.6 * len(vectors)


def test_a_walk_leaves_its_cluster_where_there_are_many(rng):
    """200 clusters in 143 dimensions: a list of neighbours that fills up within a cluster strands the walk there."""
    places, shares = rng.normal(size=(200, 143)), 1 / np.arange(1, 201)
    vectors = places[rng.choice(200, 2_400, p=shares / shares.sum())] + 0.5 * rng.normal(size=(2_400, 143))
    heads = join_heads(vectors.astype(np.float32), np.dtype(np.int8))
    queries = vectors[:60].astype(np.float32)
    found, exact = (nearest_heads(heads, queries, w, WalkScratch(heads.n_heads))[0][:, :64] for w in (64, 2_400))
    assert np.mean([len(np.intersect1d(*pair)) / 64 for pair in zip(found, exact)]) >= 0.95


def test_distances_are_in_the_units_of_the_index_space(rng):
    vectors = rng.normal(size=(50, 12)).astype(np.float32)
    heads = join_heads(vectors, np.dtype(np.int8))
    ids, distances, _ = nearest_heads(heads, vectors[:5], 50, WalkScratch(50))
    exact = ((vectors[:5, None].astype(np.float64) - vectors[ids]) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, exact, atol=12 * 4 * heads.scale * np.abs(vectors).max())
    assert (ids[:, 0] == np.arange(5)).all()


def test_joining_tells_how_far_it_is(rng):
    heard = []
    join_heads(rng.normal(size=(300, 3)), np.dtype(np.int8), listener=heard.append)
    assert heard == [StageProgressed("link", 300)]
