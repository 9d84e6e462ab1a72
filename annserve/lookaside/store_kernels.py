"""Records of answered queries in two rings of words, found by key; threads share them and none waits for another.

::

    record   | size | key | key | scope | pages | near | owner | k × ids | k × float32 distances | near part |
    near     | scale | norm | gap | turn | reach | dim × int8 query | pages × (float32 nearest, uint32 number) |

A ring is written at its head; what stands at its tail makes room. Positions only grow, so a reader that copied a record
and then finds the tail not beyond it has read it whole. Who writes must hold the only key (`LOCK`), and goes without
where somebody else has it.

All of it lies in one array of bytes, which ``opened`` takes apart within a kernel: handing over sixteen arrays takes
two microseconds a call.

`RECENT` holds every query of late, `HOT` answers that were asked for twice; see ``ring_kernels``.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, view_kernel
from annserve.kernels.memory import fence, store_release, try_lock

RECENT, HOT = 0, 1
#: Places that a key may have in the table.
WAYS = 8
# Words of a record.
SIZE, KEY, SCOPE, PAGES, NEAR, OWNER, IDS = 0, 1, 3, 4, 5, 6, 7
#: Bits of `OWNER` that name who asked; above them stands one more than the place of the near part.
OWNER_BITS = 16
# Words of a near part, before the query and its pages.
NEAR_SCALE, NEAR_NORM, NEAR_GAP, NEAR_TURN, NEAR_REACH, NEAR_QUERY = 0, 1, 2, 3, 4, 5

# Columns of `state`, a row for each ring.
BASE, LENGTH, HEAD, TAIL, ROUNDS = 0, 1, 2, 3, 4
STATE_WORDS = 5

# Places of `totals`.
REPEATS, PAGES_SAVED, EVICTIONS, NEAR_KEPT, NEAR_PAID, LAP, MOST = 0, 1, 2, 3, 4, 5, 6
TOTALS = 7

# Words at the beginning: `state`, `totals`, the key of those who write, and how much there is of what.
_TOTALS_AT = 2 * STATE_WORDS
LOCK = _TOTALS_AT + TOTALS
METRIC, NORM_MAX, N_WORDS, N_PLACES, N_NEAR, N_RINGS, N_GHOSTS, N_OWNERS = (LOCK + 1 + i for i in range(8))
HEADER = LOCK + 9

#: Near parts are kept, and looked through, of one query in `SPARED` where not one in `PAYS` served, once `TRIALS` were
#: kept.
SPARED, PAYS, TRIALS = 8, 256, 1_024
#: Coordinates that each bit of a sketch takes.
LOTS = (64, 8)


class Store(NamedTuple):
    """What is kept of earlier queries.

    Attributes
    ----------
    words : (w,) int64
        Both rings, one behind the other.
    floats, doubles, numbers, bytes : (2w,) float32, (w,) float64, (2w,) uint32, (8w,) int8
        The same memory.
    keys : (s,) uint64
        First half of a record's key; a record has one of `WAYS` neighbouring places.
    positions : (s,) int64
        Twice its position, and one more if it is `HOT`; −1 for none.
    asked : (s,) uint8
        Whether it was asked for since it was written.
    ghosts : (g,) uint32
        Part of the key of queries that were asked once.
    sketches, near_positions, near_scopes : (r · 64 + n,) uint64, int64, uint64
        Recent queries, see ``near_kernels``: a ring of 64 for each session, or for several that share it; then a ring
        of n for queries of no session.
    near_next : (r + 1,) int64
        Queries that each ring took.
    active : (2, o) uint32
        Queries of each owner, a session or some that share a number, since `RECENT` was last written through; and in
        the lap before.
    lots : (64, 8) uint16
        Coordinates that the bits of a sketch take: some are added, the others taken away.
    header : (HEADER,) int64
    state : (2, STATE_WORDS) int64
    totals : (TOTALS,) int64
    norm_max : (1,) float64
        Largest norm of a row; used under inner product only.
    """

    words: npt.NDArray[np.int64]
    floats: npt.NDArray[np.float32]
    doubles: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.uint32]
    bytes: npt.NDArray[np.int8]
    keys: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.int64]
    asked: npt.NDArray[np.uint8]
    ghosts: npt.NDArray[np.uint32]
    sketches: npt.NDArray[np.uint64]
    near_positions: npt.NDArray[np.int64]
    near_scopes: npt.NDArray[np.uint64]
    near_next: npt.NDArray[np.int64]
    active: npt.NDArray[np.uint32]
    lots: npt.NDArray[np.uint16]
    header: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    norm_max: npt.NDArray[np.float64]


@view_kernel
def opened(memory):  # type: ignore[no-untyped-def]
    """Give what lies in a store's bytes end to end: a header that says how much of each, and the arrays.

    Parameters
    ----------
    memory : (b,) uint8
        As ``store.empty_store`` makes it.
    """
    header = memory[: 8 * HEADER].view(np.int64)
    words = 8 * HEADER
    keys = words + 8 * header[N_WORDS]
    positions = keys + 8 * header[N_PLACES]
    sketches = positions + 8 * header[N_PLACES]
    near_positions = sketches + 8 * header[N_NEAR]
    near_scopes = near_positions + 8 * header[N_NEAR]
    near_next = near_scopes + 8 * header[N_NEAR]
    ghosts = near_next + 8 * header[N_RINGS]
    active = ghosts + 4 * header[N_GHOSTS]
    lots = active + 8 * header[N_OWNERS]
    asked = lots + 2 * LOTS[0] * LOTS[1]
    rings = memory[words:keys]
    return Store(
        rings.view(np.int64),
        rings.view(np.float32),
        rings.view(np.float64),
        rings.view(np.uint32),
        rings.view(np.int8),
        memory[keys:positions].view(np.uint64),
        memory[positions:sketches].view(np.int64),
        memory[asked : asked + header[N_PLACES]],
        memory[ghosts:active].view(np.uint32),
        memory[sketches:near_positions].view(np.uint64),
        memory[near_positions:near_scopes].view(np.int64),
        memory[near_scopes:near_next].view(np.uint64),
        memory[near_next:ghosts].view(np.int64),
        memory[active:lots].view(np.uint32).reshape((2, header[N_OWNERS])),
        memory[lots:asked].view(np.uint16).reshape(LOTS),
        header,
        header[:_TOTALS_AT].reshape((2, STATE_WORDS)),
        header[_TOTALS_AT:LOCK],
        header[NORM_MAX : NORM_MAX + 1].view(np.float64),
    )


@inline_kernel
def near_offset(k):  # type: ignore[no-untyped-def]
    """Give the word of a record of `k` results at which its near part begins, if it has one."""
    return IDS + k + (k + 1) // 2


@inline_kernel
def near_words(dim, n_pages):  # type: ignore[no-untyped-def]
    """Give the words of a near part."""
    return NEAR_QUERY + (dim + 7) // 8 + n_pages


@inline_kernel
def set_of(store, key):  # type: ignore[no-untyped-def]
    """Give the first of the places that a key may have."""
    n_sets = np.uint64(len(store.keys) // WAYS)
    return np.int64(key % n_sets) * WAYS


@inline_kernel
def place_of(store, ring, position):  # type: ignore[no-untyped-def]
    """Give the word at which the record of a position begins."""
    return store.state[ring, BASE] + position % store.state[ring, LENGTH]


@inline_kernel
def still_there(store, ring, position):  # type: ignore[no-untyped-def]
    """Whether nothing was written over the record of a position, up to now."""
    fence()
    return store.state[ring, TAIL] <= position


@inline_kernel
def lock(store):  # type: ignore[no-untyped-def]
    """Become the one who writes, and say whether nobody else is."""
    return try_lock(np.int64(store.header.ctypes.data) + 8 * LOCK)


@inline_kernel
def unlock(store):  # type: ignore[no-untyped-def]
    """Let others write."""
    store_release(np.int64(store.header.ctypes.data) + 8 * LOCK, np.uint32(0))
