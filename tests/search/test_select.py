"""Choosing pages: all of a query's postings, each page once, before anything is read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annserve.search.select import select_pages


@given(data=st.data())
def test_a_query_gets_exactly_the_pages_of_its_probed_heads(data):
    n_heads = data.draw(st.integers(1, 12))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=n_heads, max_size=n_heads))
    page_offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.uint32)
    n_queries = data.draw(st.integers(1, 4))
    orders = [data.draw(st.permutations(range(n_heads))) for _ in range(n_queries)]
    head_ids = np.array(orders, np.int32)
    # A walk may find fewer heads than it was asked for.
    missing = data.draw(st.integers(0, n_heads - 1))
    if missing:
        head_ids[0, n_heads - missing :] = -1
    probes = np.array([data.draw(st.integers(1, n_heads)) for _ in range(n_queries)])
    selection = select_pages(head_ids, probes, page_offsets)
    for i in range(n_queries):
        heads = [head for head in head_ids[i, : probes[i]] if head >= 0]
        expected = sorted(page for head in heads for page in range(page_offsets[head], page_offsets[head + 1]))
        got = selection.page_ids[selection.offsets[i] : selection.offsets[i + 1]]
        assert got.tolist() == expected
