"""One call of a kernel chooses what its stages, one after another, choose; and does so for any mix of requests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from codes.test_rating import made
from hypothesis import given, settings
from hypothesis import strategies as st

from annserve.heads.graph import join_heads
from annserve.heads.layout import HeadNodes
from annserve.search.choose_codes import CodeChooser
from annserve.search.clock import Clock
from annserve.search.read_plan import ReadPlan
from annserve.search.selection import pages_worth_reading

F32 = np.float32
TARGETS = (0.8, 0.9, 0.99)


def a_chooser(seed, n_heads=70, dim=7):
    """A segment of whole numbers with a plan of no meaning, but in which every rule has a say."""
    rng = np.random.default_rng(seed)
    page_offsets = np.concatenate(([0], np.cumsum(rng.integers(1, 6, n_heads)))).astype(np.uint32)
    tiers, heads, _ = made(rng, page_offsets, 5, 4, dim)
    joined = join_heads(heads.astype(np.int8), np.dtype(np.int8))
    nodes = HeadNodes(joined.layout, joined.nodes, n_heads, joined.entry, 1.0, joined.dtype)
    radii = rng.gamma(9, 3, n_heads).astype(F32)
    segment = SimpleNamespace(heads=nodes, page_offsets=page_offsets, radii=radii)
    effort = np.arange(2)[:, None] + np.arange(3)
    sampled, passing = rng.random(2) < 0.5
    plan = ReadPlan(
        np.array([1, 10]),
        np.array(TARGETS),
        heads=rng.choice([3.0, 9.0]) * 2.0**effort,
        skip_terms=rng.normal(0, 0.3, (2, 8)),
        skip_below=-0.5 - effort,
        evenness=np.array([0.2, 0.5, 0.9]),
        expected=1 - np.array([0.4, 0.3, 0.2]) * 0.6 ** effort[..., None],
        worth_enough=np.full((2, 3), 0.7 if sampled else np.inf),
        head_terms=rng.normal(0, 0.5, (2, 8)) if passing else None,
        head_below=-1.0 - effort if passing else None,
    )
    return CodeChooser(segment, tiers, plan), tiers, rng.integers(-40, 41, (5, dim)).astype(F32)


def by_stages(chooser, tiers, queries, k, target, effort):
    """Choose as the evidence says that it was chosen."""
    evidence = chooser.choose(queries, k, target, Clock(), effort).evidence()
    enough = np.inf if effort > 1 else chooser._plan.stop(k, target).worth_enough
    return evidence, pages_worth_reading(evidence.rating, evidence.hits_wanted, enough, tiers.row_counts, k)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 10, 50]), st.sampled_from(TARGETS), st.sampled_from([1, 4]))
@settings(max_examples=60, deadline=None)
def test_one_call_chooses_what_the_stages_choose(seed, k, target, effort):
    chooser, tiers, queries = a_chooser(seed)
    choice = chooser.choose(queries, k, target, Clock(), effort)
    evidence, expected = by_stages(chooser, tiers, queries, k, target, effort)
    np.testing.assert_array_equal(choice.selection.page_ids, expected.page_ids)
    np.testing.assert_array_equal(choice.selection.offsets, expected.offsets)
    np.testing.assert_array_equal(choice.codes_scanned, evidence.rating.page_codes + evidence.rating.row_codes)


def test_a_query_gets_the_same_pages_alone_in_a_block_and_after_others():
    """Larger and smaller requests in turn, on one thread's scratch."""
    worn, _, queries = a_chooser(8)
    for k, target, effort in ((50, 0.99, 4), (1, 0.8, 1), (10, 0.9, 1), (1, 0.99, 4), (10, 0.9, 1)):
        block = worn.choose(queries, k, target, Clock(), effort)
        for i in range(len(queries)):
            for chooser in (worn, a_chooser(8)[0]):
                alone = chooser.choose(queries[i : i + 1], k, target, Clock(), effort)
                own = slice(*block.selection.offsets[i : i + 2])
                assert alone.selection.page_ids.tolist() == block.selection.page_ids[own].tolist()
                assert alone.codes_scanned[0] == block.codes_scanned[i]
                assert alone.heads_visited[0] == block.heads_visited[i]


def test_what_was_chosen_stays_when_the_thread_chooses_again():
    chooser, _, queries = a_chooser(9)
    first = chooser.choose(queries, 10, 0.9, Clock()).selection
    kept = first.page_ids.copy()
    chooser.choose(-queries, 10, 0.9, Clock())
    np.testing.assert_array_equal(first.page_ids, kept)


def test_more_effort_reads_all_that_was_rated():
    chooser, _, queries = a_chooser(10)
    choice = chooser.choose(queries, 50, 0.9, Clock(), 4)
    np.testing.assert_array_equal(choice.selection.counts, choice.evidence().rating.sizes)


@pytest.mark.parametrize("stage", ["navigate", "rate", "choose"])
def test_stages_are_timed_apart_within_the_call(stage):
    chooser, _, queries = a_chooser(11)
    clock = Clock()
    chooser.choose(queries, 10, 0.9, clock)
    once = clock.seconds[stage]
    assert 0 < once < 1
    chooser.choose(queries, 10, 0.9, clock)
    assert clock.seconds[stage] > once
