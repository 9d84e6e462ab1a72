"""Heaps keep exactly the nearest, in one order, whatever order they are offered in."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import kernels as oracle

from annserve.kernels.topk import push_distinct, push_nearest, select_smallest, sort_nearest

#: Few values, so that ties are common; and the ends of what a distance can be.
DISTANCES = st.sampled_from([-1.5, 0.0, 1.0, 1.0 + 2**-52, 2.0, 7.0, 1e300, np.inf])
IDS = st.integers(0, 12) | st.sampled_from([2**63, 2**64 - 2])


def offered(push, entries, capacity):
    """Push entries one after another; give what the heap holds, sorted by the kernel."""
    distances, ids = np.full(capacity, np.nan), np.zeros(capacity, np.uint64)
    size = 0
    for distance, id_ in entries:
        size = push(distances, ids, size, capacity, float(distance), np.uint64(id_))
    sort_nearest(distances, ids, size)
    return list(zip(distances[:size].tolist(), ids[:size].tolist(), strict=True))


@given(st.lists(st.tuples(DISTANCES, IDS), max_size=60), st.integers(1, 20))
@settings(max_examples=300)
def test_a_heap_keeps_the_nearest_and_breaks_ties_by_id(entries, capacity):
    assert offered(push_nearest, entries, capacity) == oracle.nearest(entries, capacity)


@given(st.dictionaries(IDS, DISTANCES, max_size=15), st.data(), st.integers(1, 20))
@settings(max_examples=300)
def test_a_distinct_heap_takes_replicas_once(distance_of, data, capacity):
    ids = data.draw(st.lists(st.sampled_from(sorted(distance_of)), max_size=60)) if distance_of else []
    entries = [(distance_of[id_], id_) for id_ in ids]
    assert offered(push_distinct, entries, capacity) == oracle.nearest_distinct(entries, capacity)


def test_an_empty_heap_stays_empty():
    assert offered(push_nearest, [], 3) == []


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_the_smallest_keys_come_to_the_front(values, data):
    """Sorted or not, alike or not; none is lost, and what lies behind the size stays."""
    size = data.draw(st.integers(1, len(values)))
    wanted = data.draw(st.integers(1, size))
    keys = np.array(data.draw(st.sampled_from([values, sorted(values), sorted(values)[::-1]])), np.int64)
    given_keys = keys.tolist()
    select_smallest(keys, size, wanted)
    assert sorted(keys[:wanted].tolist()) == sorted(given_keys[:size])[:wanted]
    assert sorted(keys[:size].tolist()) == sorted(given_keys[:size])
    assert keys[size:].tolist() == given_keys[size:]
