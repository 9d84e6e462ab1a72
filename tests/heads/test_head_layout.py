"""Nodes lie where the layout says, and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import heads as oracle

from annserve.heads.layout import (
    NODE_PAGE_BYTES,
    HeadNodes,
    NodeLayout,
    grid_scale,
    lay_out,
    to_grid,
)

DIMS = [1, 2, 3, 5, 100, 128, 4_000, 4_001, 9_000]


@given(st.integers(1, 60), st.sampled_from(DIMS), st.sampled_from(["uint8", "int8"]), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_nodes_come_back_as_they_were(n_heads, dim, dtype, seed):
    rng = np.random.default_rng(seed)
    layout, info = NodeLayout(dim), np.iinfo(dtype)
    vectors = rng.integers(info.min, info.max + 1, (n_heads, dim)).astype(dtype)
    neighbours = rng.integers(0, 2**32, (n_heads, layout.degree)).astype(np.uint32)
    nodes = lay_out(vectors, neighbours, layout)
    heads = HeadNodes(layout, nodes, n_heads, 0, 1.0, np.dtype(dtype))
    assert nodes.nbytes == heads.ram_bytes == layout.n_pages(n_heads) * layout.page_bytes
    np.testing.assert_array_equal(heads.vectors(), vectors)
    np.testing.assert_array_equal(heads.neighbours(), neighbours)
    for head, offset in enumerate(layout.offsets(np.arange(n_heads))):
        links, vector, start = oracle.read_node(nodes, head, dim, layout.degree)
        assert start == offset
        np.testing.assert_array_equal(links, neighbours[head])
        assert vector == vectors[head].tobytes()


@pytest.mark.parametrize("dim", [*DIMS, 32_768])
def test_a_node_never_straddles_a_page(dim):
    layout = NodeLayout(dim)
    assert layout.page_bytes % NODE_PAGE_BYTES == 0
    assert layout.page_bytes - NODE_PAGE_BYTES < layout.stride <= layout.page_bytes
    offsets = layout.offsets(np.arange(50))
    assert (offsets // layout.page_bytes == (offsets + layout.stride - 1) // layout.page_bytes).all()
    assert (offsets % 4 == 0).all()
    assert (np.diff(offsets) >= layout.stride).all()


def test_integer_data_is_on_the_grid_as_it_is():
    vectors = np.array([[0, 255], [7, 9]], np.uint8)
    assert grid_scale(vectors, np.dtype(np.uint8)) == 1.0
    np.testing.assert_array_equal(to_grid(vectors, 1.0, np.dtype(np.uint8)), vectors)
    means = np.array([[0.4, 254.6], [300.0, -7.0]])
    assert grid_scale(means, np.dtype(np.uint8)) == 1.0
    np.testing.assert_array_equal(to_grid(means, 1.0, np.dtype(np.uint8)), [[0, 255], [255, 0]])


@pytest.mark.parametrize("magnitude", [1e-38, 1e-3, 1.0, 1e15])
def test_float_data_uses_the_whole_grid(rng, magnitude):
    vectors = (magnitude * rng.normal(size=(40, 9))).astype(np.float32)
    scale = grid_scale(vectors, np.dtype(np.int8))
    grid = to_grid(vectors, scale, np.dtype(np.int8))
    assert np.abs(grid).max() == 127
    assert np.abs(scale * grid - vectors.astype(np.float64)).max() <= scale * 0.5001


def test_zeros_have_a_grid_too():
    assert grid_scale(np.zeros((3, 2), np.float32), np.dtype(np.int8)) == 1.0
