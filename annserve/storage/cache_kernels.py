"""The page cache's tables, and its loops that copy pages out; `ask_kernels` looks up, `keep_kernels` takes in.

Memory is dealt in units, a sixteenth of a page each. A page that is held has a slot, and its bytes lie in a chain of
units: all sixteen, or fewer where somebody packs it.

Threads share the tables and none ever waits for another. Who takes pages in must hold the only key (`KEY`), and goes
without where somebody else has it: a page that isn't kept is read again. Who looks pages up holds nothing: a slot's
version is odd while it is written, and has changed where it was written meanwhile, so that a torn copy is found and
counts as absent. Counts that two threads raise at once may lose one: they only guess at the future.

Tables are handed over as one array of bytes, and taken apart by ``opened`` within a kernel: handing over ten of them
takes two microseconds a call.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel, view_kernel
from annserve.kernels.memory import copy_bytes, fence, load_acquire, store_release, try_lock

#: A page that isn't held, and what a free slot holds.
ABSENT = -1
NO_PAGE = np.uint32(0xFFFFFFFF)

# Words of `state`.
N_USED = 0  # slots that hold a page
HAND = 1  # place in `slots` where the next comparison begins
N_ASKED, ASKED_IN_TICK = 2, 3  # pages asked for since counts were halved; and in this tick
TICK, TICK_ASKS = 4, 5  # number of the tick; how many pages are asked for in one
EVICTIONS = 6  # pages that made room
N_SLOTS, N_PAGES = 7, 8  # slots in all; pages of the index
KEY = 9  # of those who write: 1 while it is held
FREE_SLOT, FREE_UNIT, N_FREE_UNITS = 10, 11, 12  # first of the chains of free slots and units; units in the latter
N_SETTLED = 13  # pages that were found to stay in this call
N_REGIONS, REGION_SCALE = 14, 15  # regions; what a page's number is multiplied by to give its region, of 2³²
N_SESSIONS, N_HEARD, GAP = 16, 17, 18  # room for sessions; their queries; mean of those between two of one, in 256ths
N_SHADOWED, SAMPLE_SHIFT, ERROR_SHIFT = 19, 20, 21  # pages that a shadow holds; and see `judge`
LEADER = 22  # the policy that is followed
ERRORS, N_IN_SHADOW, SHADOW_HANDS = 24, 29, 34  # of each policy
#: Policies that are compared.
N_POLICIES = 5
STATE_BYTES = 8 * 40
#: Pages of its last query that are remembered of a session, at most.
LAST_PAGES = 16
#: Bytes of tables for a slot, for a unit, for a page of the index, for a region beside the pairs, for a session.
SLOT_BYTES, UNIT_BYTES, PAGE_BYTES, REGION_BYTES, SESSION_BYTES = 18, 4, 9, 16, 9 + LAST_PAGES
#: Units of a whole page.
PAGE_UNITS = 16


class Tables(NamedTuple):
    """What a cache knows.

    Attributes
    ----------
    memory : (u, page_bytes / PAGE_UNITS) uint8
        Units.
    page_of : (s,) uint32
        Page in a slot; `NO_PAGE` in one that was freed.
    versions : (s,) uint32
        Of each slot, odd while it is written.
    slot_of : (n_pages,) int32
        Slot of a page, or `ABSENT`.
    counts : (n_pages,) uint8
        How often each page was asked for, held or not; halved now and then.
    lately : (n_pages,) uint8
        The same in quarters, each worth half as much when half as many pages were asked for as the cache holds whole.
    ticks : (n_pages,) uint16
        When it was asked for last.
    slots : (s,) int32
        Those that hold a page.
    first_of : (s,) int32
        First unit of a slot's chain; of a free slot, the next free one. -1 ends any chain.
    units_of : (s,) uint8
        Units of a slot.
    next_of : (u,) int32
        The unit that follows.
    settled : (s,) uint8
        Whether its page was found to stay.
    expected : (g,) float32
        How much each region is expected in the queries to come, see ``follow_kernels``;
    asked_in : (g,) float32
        how often it was asked for,
    lifts : (g,) int32
        and the former by the latter, in sixteenths.
    follows : (g, g) uint8
        How often a region was asked for by a session's query after another region by the one before;
    n_pairs : (g,) float32
        the sum of each row.
    session_keys, heard : (m,) uint32
        Sessions, and when each asked last, in queries of sessions;
    n_last : (m,) uint8
        pages of its last query,
    last : (m, LAST_PAGES) uint8
        and their regions.
    shadows : (N_POLICIES, w) int32
        Pages that each policy would hold, of the sample;
    shadowed : (n_pages,) uint8
        and the same as a bit for each policy.
    state : (STATE_BYTES / 8,) int64
    """

    memory: npt.NDArray[np.uint8]
    page_of: npt.NDArray[np.uint32]
    versions: npt.NDArray[np.uint32]
    slot_of: npt.NDArray[np.int32]
    counts: npt.NDArray[np.uint8]
    lately: npt.NDArray[np.uint8]
    ticks: npt.NDArray[np.uint16]
    slots: npt.NDArray[np.int32]
    first_of: npt.NDArray[np.int32]
    units_of: npt.NDArray[np.uint8]
    next_of: npt.NDArray[np.int32]
    settled: npt.NDArray[np.uint8]
    expected: npt.NDArray[np.float32]
    asked_in: npt.NDArray[np.float32]
    lifts: npt.NDArray[np.int32]
    follows: npt.NDArray[np.uint8]
    n_pairs: npt.NDArray[np.float32]
    session_keys: npt.NDArray[np.uint32]
    heard: npt.NDArray[np.uint32]
    n_last: npt.NDArray[np.uint8]
    last: npt.NDArray[np.uint8]
    shadows: npt.NDArray[np.int32]
    shadowed: npt.NDArray[np.uint8]
    state: npt.NDArray[np.int64]


@view_kernel
def opened(memory, tables):  # type: ignore[no-untyped-def]
    """Give the tables that lie end to end in bytes: the state, then four bytes an entry, then two, then one.

    Parameters
    ----------
    memory : (u, page_bytes / PAGE_UNITS) uint8
    tables : (STATE_BYTES + SLOT_BYTES · s + UNIT_BYTES · u + PAGE_BYTES · n_pages + (REGION_BYTES + g) · g \
            + SESSION_BYTES · m + 4 · N_POLICIES · w,) uint8
    """
    state = tables[:STATE_BYTES].view(np.int64)
    s, u, n_pages = state[N_SLOTS], len(memory), state[N_PAGES]
    g, m, w = state[N_REGIONS], state[N_SESSIONS], state[N_SHADOWED]
    asked_in = STATE_BYTES + 4 * g
    n_pairs = asked_in + 4 * g
    page_of = n_pairs + 4 * g
    versions = page_of + 4 * s
    slots = versions + 4 * s
    first_of = slots + 4 * s
    slot_of = first_of + 4 * s
    next_of = slot_of + 4 * n_pages
    lifts = next_of + 4 * u
    session_keys = lifts + 4 * g
    heard = session_keys + 4 * m
    shadows = heard + 4 * m
    ticks = shadows + 4 * N_POLICIES * w
    counts = ticks + 2 * n_pages
    lately = counts + n_pages
    shadowed = lately + n_pages
    units_of = shadowed + n_pages
    settled = units_of + s
    follows = settled + s
    n_last = follows + g * g
    last = n_last + m
    return Tables(
        memory,
        tables[page_of:versions].view(np.uint32),
        tables[versions:slots].view(np.uint32),
        tables[slot_of:next_of].view(np.int32),
        tables[counts:lately],
        tables[lately:shadowed],
        tables[ticks:counts].view(np.uint16),
        tables[slots:first_of].view(np.int32),
        tables[first_of:slot_of].view(np.int32),
        tables[units_of:settled],
        tables[next_of:lifts].view(np.int32),
        tables[settled:follows],
        tables[STATE_BYTES:asked_in].view(np.float32),
        tables[asked_in:n_pairs].view(np.float32),
        tables[lifts:session_keys].view(np.int32),
        tables[follows:n_last].reshape((g, g)),
        tables[n_pairs:page_of].view(np.float32),
        tables[session_keys:heard].view(np.uint32),
        tables[heard:shadows].view(np.uint32),
        tables[n_last:last],
        tables[last : last + m * LAST_PAGES].reshape((m, LAST_PAGES)),
        tables[shadows:ticks].view(np.int32).reshape((N_POLICIES, w)),
        tables[shadowed:units_of],
        state,
    )


@inline_kernel
def take_key(tables):  # type: ignore[no-untyped-def]
    """Take the key that who writes must hold, and say whether nobody else has it."""
    return try_lock(np.int64(tables.state.ctypes.data) + 8 * KEY)


@inline_kernel
def give_key_back(tables):  # type: ignore[no-untyped-def]
    """Let others write, who see all that was written."""
    store_release(np.int64(tables.state.ctypes.data) + 8 * KEY, np.uint32(0))


@inline_kernel
def version_at(tables, slot):  # type: ignore[no-untyped-def]
    """Give the address of a slot's version."""
    return np.int64(tables.versions.ctypes.data) + 4 * np.int64(slot)


@inline_kernel
def copy_units(tables, slot, frame, inwards):  # type: ignore[no-untyped-def]
    """Copy a slot's units to a frame, or a frame to them; outwards, the chain may be changing meanwhile."""
    n_bytes = tables.memory.shape[1]
    unit = np.int64(tables.first_of[slot])
    at, there = np.int64(tables.memory.ctypes.data), np.int64(frame.ctypes.data)
    for _ in range(min(tables.units_of[slot], PAGE_UNITS)):
        if unit < 0:
            break
        if inwards:
            copy_bytes(at + unit * n_bytes, there, n_bytes)
        else:
            copy_bytes(there, at + unit * n_bytes, n_bytes)
        there += n_bytes
        unit = np.int64(tables.next_of[unit])


@inline_kernel
def copy_out(tables, page, frame):  # type: ignore[no-untyped-def]
    """Copy a page to a frame, and say whether it was held, and not torn; otherwise the frame may have changed too."""
    slot = tables.slot_of[page]
    if slot == ABSENT:
        return False
    before = load_acquire(version_at(tables, slot))
    if before & np.uint32(1) or tables.page_of[slot] != np.uint32(page):
        return False
    copy_units(tables, slot, frame, False)
    fence()
    return load_acquire(version_at(tables, slot)) == before


@kernel
def copy_pages(
    memory: npt.NDArray[np.uint8],
    bytes_: npt.NDArray[np.uint8],
    page_ids: npt.NDArray[np.uint32],
    frames: npt.NDArray[np.uint8],
) -> int:
    """Copy those pages of the index that are held to frames, and count nothing; give how many.

    Parameters
    ----------
    memory, bytes_ : see ``opened``  # IN
    page_ids : (p,) uint32  # IN, OUT
        Those that are held move up.
    frames : (p, page_bytes) uint8  # OUT
    """
    tables = opened(memory, bytes_)
    n_held = 0
    for i in range(len(page_ids)):
        if copy_out(tables, np.int64(page_ids[i]), frames[n_held]):
            page_ids[n_held] = page_ids[i]
            n_held += 1
    return n_held
