"""Which pages are to be expected of sessions that are under way: those that followed in other sessions.

Pages lie in the order of their heads, so that runs of them are regions of the space. What is learned is how often a
region was asked for by a session's query after another region was asked for by the query before it: dialogues about a
table to book lead to others' restaurants, questions that hop lead on to where they are. What a query makes expected is
worth half as much when as many queries came as lie between two of one session.

This follows *Paging with Succinct Predictions* in that a prediction orders evictions, and in that it is followed only
where it pays (`promise_kernels.judge`).
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.jit import exact_kernel, inline_kernel
from annserve.storage.cache_kernels import GAP, LAST_PAGES, N_HEARD, N_REGIONS, N_SESSIONS, REGION_SCALE

_PAIRS_MAX = 255
#: Pairs that stand for those that weren't seen.
_UNSEEN = np.float32(2)
_LIFT_MAX = np.float32(16_000)
#: Queries that the mean distance between two of a session is taken over, as a power of two.
_GAP_SHIFT = 6


@inline_kernel
def region_of(tables, page):  # type: ignore[no-untyped-def]
    """Give the region of a page."""
    return (np.int64(page) * tables.state[REGION_SCALE]) >> 32


@inline_kernel
def _last_of(tables, session):  # type: ignore[no-untyped-def]
    """Give the place of what a session asked for last, and whether it is its own; its query counts as heard."""
    state = tables.state
    key = np.uint32(max((session * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32), np.uint64(1)))
    place = np.int64(key) % state[N_SESSIONS]
    known = tables.session_keys[place] == key
    if known:
        gap = state[N_HEARD] - np.int64(tables.heard[place])
        state[GAP] += ((gap << 8) - state[GAP]) >> _GAP_SHIFT
    tables.session_keys[place] = key
    tables.heard[place] = state[N_HEARD]
    state[N_HEARD] += 1
    return place, known


@inline_kernel
def _learn(tables, before, after):  # type: ignore[no-untyped-def]
    """Count that a region was asked for after another; what a byte can't hold is halved."""
    row = tables.follows[before]
    if row[after] == _PAIRS_MAX:
        tables.n_pairs[before] = np.float32(0)
        for region in range(len(row)):
            row[region] >>= np.uint8(1)
            tables.n_pairs[before] += np.float32(row[region])
    row[after] += np.uint8(1)
    tables.n_pairs[before] += np.float32(1)


@exact_kernel
def expect(tables, session, page_ids, first):  # type: ignore[no-untyped-def]
    """Learn from the pages that a session's query asks for, and expect what follows them.

    Parameters
    ----------
    tables : see ``cache_kernels.opened``  # IN, OUT
    session : uint64
    page_ids : (p,) uint32  # IN
        More than LAST_PAGES of them are represented by as many.
    first : int
        Added to page ids.
    """
    n_regions, n_pages = tables.state[N_REGIONS], min(len(page_ids), LAST_PAGES)
    expected, asked_in, lifts = tables.expected, tables.asked_in, tables.lifts
    if n_pages == 0:
        return
    place, known = _last_of(tables, session)
    last = tables.last[place]
    n_before = np.int64(tables.n_last[place]) if known else 0
    for i in range(n_pages):
        region = region_of(tables, page_ids[i * len(page_ids) // n_pages] + first)
        for j in range(n_before):
            _learn(tables, last[j], region)
    # What was made expected fades, and what follows these regions is added.
    fading = np.float32(0.5 ** (256.0 / np.float64(max(tables.state[GAP], 256))))
    for region in range(n_regions):
        expected[region] *= fading
    for i in range(n_pages):
        last[i] = region_of(tables, page_ids[i * len(page_ids) // n_pages] + first)
    tables.n_last[place] = n_pages
    begin = 0
    for i in range(n_pages):
        region = last[i]
        asked_in[region] += np.float32(1)
        if i + 1 < n_pages and last[i + 1] == region:
            continue
        row, seen = tables.follows[region], tables.n_pairs[region] + _UNSEEN
        weight = np.float32(i + 1 - begin) / (seen * np.float32(n_pages))
        begin = i + 1
        for after in range(n_regions):
            expected[after] += np.float32(row[after]) * weight
    total, n_asked = np.float32(1e-9), np.float32(0)
    for region in range(n_regions):
        total += expected[region]
        n_asked += asked_in[region]
    scale = np.float32(16) * n_asked / total
    for region in range(n_regions):
        # A lift that is whole stays so, whichever way it was rounded.
        lift = expected[region] * scale / (asked_in[region] + np.float32(1)) + np.float32(0.01)
        lifts[region] = np.int32(min(lift, _LIFT_MAX))
