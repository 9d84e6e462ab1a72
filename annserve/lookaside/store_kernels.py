"""Records of answered queries in two rings of words, found by key; threads share them and none waits for another.

::

    record   | size | key | key | scope | pages | near | k × ids | k × float32 distances | near part |
    near     | scale | norm | gap | turn | reach | dim × int8 query | pages × (float32 nearest, uint32 number) |

A ring is written at its head; what stands at its tail makes room. Positions only grow, so a reader that copied a record
and then finds the tail not beyond it has read it whole. Who writes must hold the only key (`LOCK`), and goes without
where somebody else has it.

All of it lies in one array of bytes, which ``opened`` takes apart within a kernel: handing over sixteen arrays takes
two microseconds a call.

`RECENT` holds every query of late, first in, first out. `HOT` holds answers that were asked for twice; one that was
asked for again since it was written goes round once more.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import fence, store_release, try_lock
from annserve.lookaside.key_kernels import write_key
from annserve.results import MISS, REPEAT

RECENT, HOT = 0, 1
#: Places that a key may have in the table.
WAYS = 4
#: Records that may go round for one that comes: more would make a writer's time unbounded.
_RESCUED_MAX = 4

# Words of a record.
SIZE, KEY, SCOPE, PAGES, NEAR, IDS = 0, 1, 3, 4, 5, 6
# Words of a near part, before the query and its pages.
NEAR_SCALE, NEAR_NORM, NEAR_GAP, NEAR_TURN, NEAR_REACH, NEAR_QUERY = 0, 1, 2, 3, 4, 5

# Columns of `state`, a row for each ring.
BASE, LENGTH, HEAD, TAIL = 0, 1, 2, 3
STATE_WORDS = 4

# Places of `totals`.
REPEATS, PAGES_SAVED, EVICTIONS, NEAR_KEPT, NEAR_PAID = 0, 1, 2, 3, 4
TOTALS = 5

# Words at the beginning: `state`, `totals`, the key of those who write, and how much there is of what.
_TOTALS_AT = 2 * STATE_WORDS
LOCK = _TOTALS_AT + TOTALS
METRIC, NORM_MAX, N_WORDS, N_PLACES, N_NEAR, N_RINGS, N_GHOSTS = (LOCK + 1 + i for i in range(7))
HEADER = LOCK + 8

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
    lots: npt.NDArray[np.uint16]
    header: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    norm_max: npt.NDArray[np.float64]


@inline_kernel
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
    lots = ghosts + 4 * header[N_GHOSTS]
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
        memory[ghosts:lots].view(np.uint32),
        memory[sketches:near_positions].view(np.uint64),
        memory[near_positions:near_scopes].view(np.int64),
        memory[near_scopes:near_next].view(np.uint64),
        memory[near_next:ghosts].view(np.int64),
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
def _set_of(store, key):  # type: ignore[no-untyped-def]
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


@kernel
def find_answers(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8
    queries,  # IN (nq, dim) uint8, int8 or float32
    marks,  # IN (3,) uint64: the secret of keys, and a scope
    k,
    keys,  # OUT (nq, 2) uint64
    out_ids,  # OUT (nq, k) uint64: where found
    out_distances,  # OUT (nq, k) float32: where found
    out_found,  # OUT (nq,) bool
    out_grades,  # OUT (nq,) uint8
):
    """Find the answers to queries that were asked before, to the bit; give how many, and whether to try proofs."""
    store, data = opened(memory), queries.view(np.uint8)
    size = near_offset(k)
    n_found = 0
    for i in range(queries.shape[0]):
        write_key(data[i], marks, keys[i])
        out_found[i] = False
        out_grades[i] = MISS
        first = _set_of(store, keys[i, 0])
        for slot in range(first, first + WAYS):
            coded = store.positions[slot]
            if coded < 0 or store.keys[slot] != keys[i, 0]:
                continue
            ring, position = coded & 1, coded >> 1
            at = place_of(store, ring, position)
            if at + size > store.state[ring, BASE] + store.state[ring, LENGTH]:
                continue
            same = np.uint64(store.words[at + KEY]) == keys[i, 0] and np.uint64(store.words[at + KEY + 1]) == keys[i, 1]
            if not same:
                continue
            for j in range(k):
                out_ids[i, j] = np.uint64(store.words[at + IDS + j])
                out_distances[i, j] = store.floats[2 * (at + IDS + k) + j]
            pages = store.words[at + PAGES]
            if not still_there(store, ring, position):
                continue
            out_found[i] = True
            out_grades[i] = REPEAT
            n_found += 1
            store.asked[slot] = np.uint8(1)
            store.totals[REPEATS] += 1
            store.totals[PAGES_SAVED] += pages
            if ring == RECENT and lock(store):
                append(store, HOT, keys[i], np.uint64(0), pages, out_ids[i], out_distances[i], 0)
                unlock(store)
            break
    return n_found, proofs_pay(store)


@inline_kernel
def proofs_pay(store):  # type: ignore[no-untyped-def]
    """Say whether to look for proofs: where they are rare, at some queries only, so that a change is noticed."""
    kept, paid = store.totals[NEAR_KEPT], store.totals[NEAR_PAID]
    return kept < TRIALS or paid * PAYS >= kept or kept % SPARED == 0


@inline_kernel
def lock(store):  # type: ignore[no-untyped-def]
    """Become the one who writes, and say whether nobody else is."""
    return try_lock(np.int64(store.header.ctypes.data) + 8 * LOCK)


@inline_kernel
def unlock(store):  # type: ignore[no-untyped-def]
    """Let others write."""
    store_release(np.int64(store.header.ctypes.data) + 8 * LOCK, np.uint32(0))


@inline_kernel
def _enter(store, ring, position, key):  # type: ignore[no-untyped-def]
    """Give a record a place in the table: that of its key, or a free one, or that of the least worth keeping.

    Those are recent ones rather than hot ones, then those not asked for again, then those that leave soonest.
    """
    first = _set_of(store, key)
    chosen = first
    oldest = np.int64(0x7FFF_FFFF_FFFF_FFFF)
    for slot in range(first, first + WAYS):
        coded = store.positions[slot]
        if coded < 0 or store.keys[slot] == key:
            chosen = slot
            break
        left = (coded >> 1) - store.state[coded & 1, TAIL]
        left += ((coded & 1) << 61) + (np.int64(store.asked[slot]) << 60)
        if left < oldest:
            oldest = left
            chosen = slot
    store.positions[chosen] = -1
    store.keys[chosen] = key
    store.asked[chosen] = np.uint8(0)
    store.positions[chosen] = 2 * position + ring


@inline_kernel
def _slot_of(store, ring, position):  # type: ignore[no-untyped-def]
    """Give the place of a record in the table; −1 where its key's places were taken by others."""
    first = _set_of(store, np.uint64(store.words[place_of(store, ring, position) + KEY]))
    for slot in range(first, first + WAYS):
        if store.positions[slot] == 2 * position + ring:
            return slot
    return np.int64(-1)


@inline_kernel
def _leave(store, ring, size):  # type: ignore[no-untyped-def]
    """Move the tail on: readers must see that before what stood there is written over."""
    store.state[ring, TAIL] += size
    fence()


@inline_kernel
def _go_round(store, ring, at, slot, size):  # type: ignore[no-untyped-def]
    """Make the oldest record the newest. It may lie so near that it moves onto itself, downwards."""
    _leave(store, ring, size)
    head = store.state[ring, HEAD]
    to = place_of(store, ring, head)
    for j in range(size):
        store.words[to + j] = store.words[at + j]
    fence()
    store.state[ring, HEAD] = head + size
    store.asked[slot] = np.uint8(0)
    store.positions[slot] = 2 * head + ring


@inline_kernel
def _make_room(store, ring, size):  # type: ignore[no-untyped-def]
    """Free `size` words at the head of a ring, in one piece, and give the position there; −1 if it can't be."""
    length = store.state[ring, LENGTH]
    if 4 * size > length:
        return np.int64(-1)
    rescued = 0
    while True:
        head, tail = store.state[ring, HEAD], store.state[ring, TAIL]
        rest = length - head % length
        if head + min(size, rest) - tail <= length:
            if size <= rest:
                return head
            # What doesn't fit before the end begins at the start; the rest is a record of nothing.
            store.words[place_of(store, ring, head) + SIZE] = -rest
            store.state[ring, HEAD] = head + rest
            continue
        at = place_of(store, ring, tail)
        old = store.words[at + SIZE]
        if old < 0:
            _leave(store, ring, -old)
            continue
        slot = _slot_of(store, ring, tail)
        if ring == HOT and slot >= 0 and store.asked[slot] and rescued < _RESCUED_MAX and old <= rest:
            rescued += 1
            _go_round(store, ring, at, slot, old)
            continue
        if slot >= 0:
            store.positions[slot] = -1
        store.totals[EVICTIONS] += 1
        _leave(store, ring, old)


@inline_kernel
def append(store, ring, key, scope, pages, ids, distances, extra):  # type: ignore[no-untyped-def]
    """Write a record and enter it in the table; whoever calls holds the key of those who write.

    Parameters
    ----------
    store : Store  # IN, OUT
    ring : int
    key : (2,) uint64  # IN
    scope : uint64
        Whose queries a near part may serve.
    pages : int
        Pages that the answer took.
    ids : (k,) uint64  # IN
    distances : (k,) float32  # IN
    extra : int
        Words of the near part, which the caller writes.

    Returns
    -------
    position : int64
        −1 where the ring is too small for it.
    """
    k = len(ids)
    size = near_offset(k) + extra
    position = _make_room(store, ring, size)
    if position < 0:
        return position
    at = place_of(store, ring, position)
    words = store.words
    words[at + SIZE] = size
    words[at + KEY] = np.int64(key[0])
    words[at + KEY + 1] = np.int64(key[1])
    words[at + SCOPE] = np.int64(scope)
    words[at + PAGES] = pages
    words[at + NEAR] = 0
    for j in range(k):
        words[at + IDS + j] = np.int64(ids[j])
        store.floats[2 * (at + IDS + k) + j] = np.float32(distances[j])
    fence()
    store.state[ring, HEAD] = position + size
    _enter(store, ring, position, key[0])
    return position


@inline_kernel
def seen_before(store, key):  # type: ignore[no-untyped-def]
    """Say whether a query was asked once already, and note that it was now."""
    ghost = np.int64(key[0] % np.uint64(len(store.ghosts)))
    mark = np.uint32(key[1] & np.uint64(0xFFFF_FFFF)) | np.uint32(1)
    seen = store.ghosts[ghost] == mark
    store.ghosts[ghost] = mark
    return seen
