"""Which rows stand in a vicinity: those of its page, then those that rank the page highest, until it is full."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.build.vicinities import fill
from annserve.codes.vicinity_layout import NO_PLACE, VicinityLayout


@st.composite
def rankings(draw):
    """Pages of a few rows each, and the pages that each row ranks, its own at any rank or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = rng.integers(1, 9, draw(st.integers(2, 12)))
    offsets = np.concatenate(([0], np.cumsum(counts)))
    n_rows, n_ranks = int(offsets[-1]), draw(st.integers(1, len(counts)))
    pages = np.array([rng.permutation(len(counts))[:n_ranks] for _ in range(n_rows)], np.uint32)
    distances = np.sort(rng.random((n_rows, n_ranks)), axis=1).astype(np.float32)
    # 32 bytes of code leave 107 rows; of 128, 30: few enough to be full.
    return offsets, pages, distances, VicinityLayout(4_096, 8, draw(st.sampled_from([32, 128])))


@given(rankings())
@settings(max_examples=60)
def test_a_vicinity_holds_its_own_rows_and_then_those_that_rank_its_page_highest(case):
    offsets, pages, distances, layout = case
    places = fill(offsets, pages, distances, layout)
    home = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = home * layout.page_capacity + np.arange(len(home)) - offsets[home]
    for page, held in enumerate(places):
        count = int((held != NO_PLACE).sum())
        assert (held[count:] == NO_PLACE).all()
        assert (np.diff(held[:count].astype(int)) > 0).all()
        ranked = [
            (rank, distances[row, rank], place[row])
            for row in range(len(home))
            for rank in range(pages.shape[1])
            if pages[row, rank] == page and home[row] != page
        ]
        own = place[home == page].tolist()
        best = [at for _, _, at in sorted(ranked)[: layout.capacity - len(own)]]
        assert held[:count].tolist() == sorted(own + best)
