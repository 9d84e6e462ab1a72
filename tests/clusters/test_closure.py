"""Rows are filed under further heads: which ones is the oracle's, and no home is ever cut for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import clusters as oracle

from annserve.clusters.closure import OFFERS_PER_PLACE, Offers, file_replicas, find_slack, offer_rows, postings_of_rows
from annserve.clusters.hierarchy import Packing, pack_rows


@st.composite
def neighbourhoods(draw):
    """Rows, homes, candidates and heads of small whole numbers, so that float32 is exact; rows and heads alike too."""
    n, h = draw(st.integers(1, 30)), draw(st.integers(1, 12))
    dim, wide = draw(st.sampled_from([1, 2, 3, 17])), draw(st.sampled_from([2, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, heads = rng.integers(0, wide, (n, dim)), rng.integers(0, wide, (h, dim))
    distances = ((rows[:, None] - heads) ** 2).sum(axis=2)
    candidates = np.argsort(distances, axis=1, kind="stable")[:, : draw(st.integers(1, 12))].astype(np.int32)
    # A walk may find fewer.
    candidates[:, draw(st.integers(1, 12)) :] = -1
    homes = rng.integers(0, h, n).astype(np.int32)
    return rows.astype(draw(st.sampled_from([np.uint8, np.float32]))), homes, candidates, heads.astype(np.float32)


@given(neighbourhoods(), st.sampled_from([0.5, 1.0, 1.5, 8.0]), st.integers(1, 7))
@settings(max_examples=150)
def test_a_row_is_offered_to_the_heads_of_the_rule(neighbourhood, slack, most):
    rows, homes, candidates, heads = neighbourhood
    offers = offer_rows(rows, homes, candidates, heads, most, slack)
    expected = oracle.offers(rows, homes, candidates, heads, slack, most)
    assert [[int(head) for head in made if head >= 0] for made in offers.heads] == expected
    for row, home, made, margins in zip(rows.astype(np.float64), homes, offers.heads, offers.margins):
        filled = np.flatnonzero(made >= 0)
        assert filled.tolist() == list(range(len(filled)))
        at_home = ((row - heads[home]) ** 2).sum()
        assert margins[filled].tolist() == [((row - heads[head]) ** 2).sum() - at_home for head in made[filled]]


@st.composite
def offered(draw):
    """A packing of homes, and offers at random: the shape of a posting, not where rows lie, is tested."""
    capacity, rows_at_home = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    n, most = draw(st.integers(1, 60)), draw(st.integers(1, 4))
    pages = -(-rows_at_home // capacity) + draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    packing = pack_rows(rng.normal(size=(n, 3)).astype(np.float32), rows_at_home, threads=1)
    n_heads = len(packing.posting_offsets) - 1
    home = postings_of_rows(packing)[:, 0]
    heads = np.full((n, most), -1, np.int32)
    for row in range(n):
        others = rng.permutation(np.delete(np.arange(n_heads), home[row]))[: rng.integers(0, most + 1)]
        heads[row, : len(others)] = others
    return packing, Offers(heads, rng.integers(0, 4, (n, most)).astype(np.float32)), pages, capacity


def postings_of(packing):
    """Rows at home and replicas of each posting."""
    found = []
    for first, stop in zip(packing.posting_offsets[:-1], packing.posting_offsets[1:]):
        at_home, replicas = [], []
        for page in range(first, stop):
            rows = packing.order[packing.page_offsets[page] : packing.page_offsets[page + 1]].tolist()
            split = len(rows) - packing.replicas[page]
            at_home += rows[:split]
            replicas += rows[split:]
        found.append((at_home, replicas))
    return found


@given(offered())
@settings(max_examples=150)
def test_no_home_is_cut_and_no_posting_overflows(case):
    """Homes stay, in their order; what room there is goes to the offers of the least margin; pages are full."""
    packing, offers, pages, capacity = case
    filed = file_replicas(packing, offers, pages, capacity)
    before, after = postings_of(packing), postings_of(filed)
    assert [homes for homes, _ in before] == [homes for homes, _ in after]
    assert filed.n_rows == packing.n_rows
    for head, (homes, replicas) in enumerate(after):
        row, column = np.nonzero(offers.heads == head)
        wanted = sorted(zip(offers.margins[row, column], row))
        assert replicas == [int(row) for _, row in wanted][: pages * capacity - len(homes)]
        counts = np.diff(filed.page_offsets)[filed.posting_offsets[head] : filed.posting_offsets[head + 1]]
        assert len(counts) <= pages
        assert (counts[:-1] == capacity).all()
        assert 1 <= counts[-1] <= capacity


@given(offered())
@settings(max_examples=50)
def test_postings_of_rows_is_what_postings_hold(case):
    filed = file_replicas(*case)
    found = [set(row[row >= 0].tolist()) for row in postings_of_rows(filed)]
    expected = [set() for _ in found]
    for head, (homes, replicas) in enumerate(postings_of(filed)):
        for row in homes + replicas:
            assert head not in expected[row]
            expected[row].add(head)
    assert found == expected


@pytest.mark.parametrize("places", [0.3, 1.0, 2.0])
def test_slack_makes_offers_for_the_room_there_is(places):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2_000, 12)).astype(np.float32)
    heads = rows[:200]
    distances = ((rows[:, None] - heads) ** 2).sum(axis=2)
    near = np.argsort(distances, axis=1)[:, :32].astype(np.int32)
    slack = find_slack(rows, near[:, 0].copy(), near, heads, 7, places)
    made = (offer_rows(rows, near[:, 0].copy(), near, heads, 7, slack).heads >= 0).sum() / len(rows)
    assert made == pytest.approx(min(OFFERS_PER_PLACE * places, 6.3), rel=0.05)


def test_rows_all_alike_and_a_single_head_need_no_replicas():
    rows = np.full((9, 4), 7, np.float32)
    packing = pack_rows(rows, 9, threads=1)
    assert isinstance(packing, Packing)
    none = np.full((9, 0), -1, np.int32)
    offers = offer_rows(rows, np.zeros(9, np.int32), none, rows[:1], 3, 1.0)
    filed = file_replicas(packing, offers, 2, 9)
    np.testing.assert_array_equal(filed.order, packing.order)
    assert filed.replicas.tolist() == [0]
