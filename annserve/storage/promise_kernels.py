"""What a page promises under each of several policies, and which of them is followed: that which missed least of late.

A policy adds what a page was asked for at all, raised where its region is expected, to what it was asked for lately.
How much the latter counts is what the policies differ in, up to the last, by which nothing else does (LRU). No weight
fits all: dialogues ask for what many asked for before, questions that hop for what they asked for just now. Each is
therefore simulated on a sample of the pages (a shadow, without contents), and the best is followed.
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel
from annserve.storage.cache_kernels import (
    ERROR_SHIFT,
    ERRORS,
    LEADER,
    N_IN_SHADOW,
    N_POLICIES,
    N_SHADOWED,
    SAMPLE_SHIFT,
    SHADOW_HANDS,
    TICK,
)
from annserve.storage.follow_kernels import region_of

#: Weight of what was asked for lately, and of a lift in 256ths, in each policy but LRU.
_WEIGHTS = np.array([2, 6, 20, 64])
_LIFTS = np.array([77, 512, 256, 256])
_LRU = N_POLICIES - 1
#: Ticks in which half of `lately` fades, and what is left of 256 by each.
HALF_TICKS = 16
FADING = np.array([round(256 * 0.5 ** (age / HALF_TICKS)) for age in range(8 * HALF_TICKS)] + [0])
#: Ages are told apart up to so many ticks.
_AGES = 0xFFFF
#: Pages of a shadow that are compared.
_CANDIDATES = 16
_ERROR = 1 << 20


@inline_kernel
def age_of(tables, page):  # type: ignore[no-untyped-def]
    """Give the ticks since a page was asked for."""
    return (tables.state[TICK] - np.int64(tables.ticks[page])) & _AGES


@inline_kernel
def faded(tables, page):  # type: ignore[no-untyped-def]
    """Give what a page was asked for lately, as of now, in 1,024ths."""
    return np.int64(tables.lately[page]) * FADING[min(age_of(tables, page), len(FADING) - 1)]


@inline_kernel
def promise(tables, page, policy):  # type: ignore[no-untyped-def]
    """Say how much a page is to be expected back; comparable within a policy."""
    if policy == _LRU:
        return -age_of(tables, page)
    raised = (_LIFTS[policy] * np.int64(tables.lifts[region_of(tables, page)])) >> 4
    return np.int64(tables.counts[page]) * (256 + raised) + ((_WEIGHTS[policy] * faded(tables, page)) >> 2)


@inline_kernel
def _admit(tables, page, policy):  # type: ignore[no-untyped-def]
    """Let a shadow hold a page if it has room, or something that promises less."""
    state, shadow = tables.state, tables.shadows[policy]
    bit = np.uint8(1 << policy)
    n_held = state[N_IN_SHADOW + policy]
    if n_held < state[N_SHADOWED]:
        state[N_IN_SHADOW + policy] += 1
        chosen = n_held
    else:
        chosen, least = np.int64(-1), promise(tables, page, policy)
        hand = state[SHADOW_HANDS + policy]
        for step in range(min(_CANDIDATES, n_held)):
            place = (hand + step) % n_held
            its = promise(tables, np.int64(shadow[place]), policy)
            if its < least:
                chosen, least = place, its
        state[SHADOW_HANDS + policy] = (hand + _CANDIDATES) % n_held
        if chosen < 0:
            return
        tables.shadowed[shadow[chosen]] &= ~bit
    shadow[chosen] = page
    tables.shadowed[page] |= bit


@inline_kernel
def judge(tables, page):  # type: ignore[no-untyped-def]
    """Let each policy's shadow take a page in that was asked for, and count whether it missed it."""
    state = tables.state
    if ((page * 2654435761) & 0xFFFFFFFF) & ((1 << state[SAMPLE_SHIFT]) - 1):
        return
    for policy in range(N_POLICIES):
        state[ERRORS + policy] -= state[ERRORS + policy] >> state[ERROR_SHIFT]
        if not (tables.shadowed[page] >> np.uint8(policy)) & np.uint8(1):
            state[ERRORS + policy] += _ERROR
            _admit(tables, page, policy)


@inline_kernel
def follow_best(tables):  # type: ignore[no-untyped-def]
    """Follow another policy where it missed a fiftieth less."""
    state = tables.state
    best = np.int64(0)
    for policy in range(1, N_POLICIES):
        if state[ERRORS + policy] < state[ERRORS + best]:
            best = np.int64(policy)
    if 50 * state[ERRORS + best] < 49 * state[ERRORS + state[LEADER]]:
        state[LEADER] = best
