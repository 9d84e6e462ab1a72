"""Choosing pages: each page once, before anything is read, and no more than the promise takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.codes.rate import Rating
from annserve.search.selection import PageSelection, pages_of_heads, pages_worth_reading


def chosen(selection, query):
    """Pages of one query."""
    return selection.page_ids[selection.offsets[query] : selection.offsets[query + 1]].tolist()


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
    selection = pages_of_heads(head_ids, probes, page_offsets)
    for i in range(n_queries):
        heads = [head for head in head_ids[i, : probes[i]] if head >= 0]
        expected = sorted(page for head in heads for page in range(page_offsets[head], page_offsets[head + 1]))
        assert chosen(selection, i) == expected


def rating_of(pages, worths, sizes):
    """A rating of which only pages and worths matter."""
    sizes = np.array(sizes, np.int64)
    nothing = np.zeros(len(sizes), np.int64)
    worths = np.where(np.arange(pages.shape[1]) < sizes[:, None], worths, 0).astype(np.float32)
    return Rating(
        pages.astype(np.uint32), worths, np.zeros_like(worths), sizes, worths[:, 0], worths[:, 0], nothing, nothing
    )


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 48), st.integers(1, 60))
def test_the_best_pages_are_read_until_they_promise_and_hold_enough(seed, width, quarters, rows_least):
    """The fewest of the best: without the last of them it wouldn't suffice, unless there are no more."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, width + 1, 3)
    pages = np.array([rng.permutation(40)[:width] for _ in range(3)])
    # Whole quarters add up exactly; some pages are worth the same.
    hits_wanted = quarters / 4
    worth_enough = rng.choice([0.5, 1.25, np.inf])
    worths = rng.integers(0, 9, (3, width)) / 4
    row_counts = rng.integers(1, 9, 40).astype(np.uint16)
    wanted = np.array([hits_wanted, 0.0, hits_wanted])
    selection = pages_worth_reading(rating_of(pages, worths, sizes), wanted, worth_enough, row_counts, rows_least)
    for i, (size, hits_wanted) in enumerate(zip(sizes, wanted)):
        got = chosen(selection, i)
        assert got == sorted(set(got))
        worth_of = dict(zip(pages[i, :size].tolist(), worths[i, :size].tolist()))
        assert set(got) <= set(worth_of)
        left = [worth for page, worth in worth_of.items() if page not in got]
        taken = sorted((worth_of[page] for page in got), reverse=True)
        if left and taken:
            assert max(left) <= taken[-1]
        enough = sum(taken) >= hits_wanted and int(row_counts[got].sum()) >= rows_least
        assert not left or (enough and max(left) <= worth_enough)
        if len(got) > 1 and taken[-1] <= worth_enough:
            # One of the least worth came last: what was read before it didn't suffice.
            last = [page for page in got if worth_of[page] == taken[-1]]
            before = sum(taken[:-1])
            assert before < hits_wanted or min(int(row_counts[got].sum() - row_counts[p]) for p in last) < rows_least


def test_without_a_limit_all_rated_pages_are_read_and_without_a_wish_one():
    rating = rating_of(np.arange(10).reshape(2, 5), np.ones((2, 5)), [5, 3])
    everything = pages_worth_reading(rating, np.full(2, np.inf), np.inf, np.full(10, 9, np.uint16), 1)
    assert [chosen(everything, i) for i in range(2)] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    least = pages_worth_reading(rating, np.zeros(2), np.inf, np.full(10, 9, np.uint16), 1)
    assert [chosen(least, i) for i in range(2)] == [[0], [5]]


@pytest.mark.parametrize(
    ("pages_of_queries", "reads"),
    [
        ([[0, 1, 2], [3, 4]], [1, 1]),
        ([[0, 2, 3, 7]], [3]),
        ([[], [5], [], [6, 8], []], [0, 1, 0, 2, 0]),
        ([[4], [5], [6]], [1, 1, 1]),
        ([[9, 10], [0, 1]], [1, 1]),
        ([[], []], [0, 0]),
        ([range(40), range(16), range(17)], [3, 1, 2]),
    ],
)
def test_neighbouring_pages_of_one_query_share_a_read(pages_of_queries, reads):
    """A run ends with its query: the next one's pages are its own, even where they follow on. It is 64 KB at most."""
    offsets = np.concatenate(([0], np.cumsum([len(pages) for pages in pages_of_queries]))).astype(np.int64)
    pages = np.array([page for some in pages_of_queries for page in some], np.uint32)
    assert PageSelection(pages, offsets).costs(4_096)[1].tolist() == reads
