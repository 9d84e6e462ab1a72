"""Records written into the store's rings: room is made at the tail, and whoever writes holds the key (``lock``).

`RECENT` holds every query of late, first in, first out; but where one session asks much more than others, what those
asked goes round, four records for each that comes: a flood keeps a fifth of the ring if others fill the rest. Who
asked nothing while the ring was written twice has no such protection. `HOT` holds answers that were asked for twice;
one that was asked for again since it was written goes round once more.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel
from annserve.kernels.memory import fence
from annserve.lookaside.store_kernels import (
    EVICTIONS,
    HEAD,
    HOT,
    IDS,
    KEY,
    LAP,
    LENGTH,
    MOST,
    NEAR,
    OWNER,
    OWNER_BITS,
    PAGES,
    RECENT,
    ROUNDS,
    SCOPE,
    SIZE,
    TAIL,
    WAYS,
    near_offset,
    place_of,
    set_of,
)

#: Records that may go round for each that comes, and at most for one: they lie side by side, who were asked at once.
#: More would make a writer's time unbounded.
_ROUNDS, _ROUNDS_MAX = 4, 64
#: How many times as much as others a session asks that may not push them out.
_FLOOD = 4


@inline_kernel
def _enter(store, ring, position, key):  # type: ignore[no-untyped-def]
    """Give a record a place in the table: that of its key, or a free one, or that of the least worth keeping.

    Those are recent ones rather than hot ones, then those not asked for again, then those that leave soonest.
    """
    first = set_of(store, key)
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
    first = set_of(store, np.uint64(store.words[place_of(store, ring, position) + KEY]))
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
def _fill(store, ring, rest):  # type: ignore[no-untyped-def]
    """Begin at the start, where something doesn't fit before the end: the rest becomes a record of nothing."""
    head = store.state[ring, HEAD]
    store.words[place_of(store, ring, head) + SIZE] = -rest
    store.state[ring, HEAD] = head + rest


@inline_kernel
def _go_round(store, ring, at, slot, size):  # type: ignore[no-untyped-def]
    """Make the oldest record the newest. It may lie so near that it moves onto itself, downwards."""
    place = (store.words[at + OWNER] >> OWNER_BITS) - 1
    near = place >= 0 and store.near_positions[place] == store.state[ring, TAIL]
    _leave(store, ring, size)
    head = store.state[ring, HEAD]
    to = place_of(store, ring, head)
    for j in range(size):
        store.words[to + j] = store.words[at + j]
    fence()
    store.state[ring, HEAD] = head + size
    store.asked[slot] = np.uint8(0)
    store.positions[slot] = 2 * head + ring
    if near:
        store.near_positions[place] = head


@inline_kernel
def name_owner(owner, place):  # type: ignore[no-untyped-def]
    """Give the word `OWNER` of a record whose near part has a place."""
    return owner + ((place + 1) << OWNER_BITS)


@inline_kernel
def _asks(store, owner):  # type: ignore[no-untyped-def]
    """Say how much an owner asked of late."""
    return np.int64(store.active[0, owner]) + np.int64(store.active[1, owner])


@inline_kernel
def _stays(store, ring, at, slot):  # type: ignore[no-untyped-def]
    """Say whether the oldest record goes round."""
    if slot < 0:
        return False
    if ring == HOT:
        return store.asked[slot] != 0
    asks = _asks(store, store.words[at + OWNER] & ((1 << OWNER_BITS) - 1))
    return asks > 0 and _FLOOD * asks <= store.totals[MOST]


@inline_kernel
def _make_room(store, ring, size):  # type: ignore[no-untyped-def]
    """Free `size` words at the head of a ring, in one piece, and give the position there; −1 if it can't be."""
    length = store.state[ring, LENGTH]
    if 4 * size > length:
        return np.int64(-1)
    store.state[ring, ROUNDS] = min(store.state[ring, ROUNDS] + _ROUNDS, _ROUNDS_MAX)
    while True:
        head, tail = store.state[ring, HEAD], store.state[ring, TAIL]
        rest = length - head % length
        if head + min(size, rest) - tail <= length:
            if size <= rest:
                return head
            _fill(store, ring, rest)
            continue
        at = place_of(store, ring, tail)
        old = store.words[at + SIZE]
        if old < 0:
            _leave(store, ring, -old)
            continue
        slot = _slot_of(store, ring, tail)
        if store.state[ring, ROUNDS] > 0 and _stays(store, ring, at, slot):
            if old > rest:
                _fill(store, ring, rest)
            store.state[ring, ROUNDS] -= 1
            _go_round(store, ring, at, slot, old)
            continue
        if slot >= 0:
            store.positions[slot] = -1
        store.totals[EVICTIONS] += 1
        _leave(store, ring, old)


@inline_kernel
def note(store, owner, size):  # type: ignore[no-untyped-def]
    """Note that an owner asked something that takes so many words."""
    store.active[0, owner] += np.uint32(1)
    store.totals[MOST] = max(store.totals[MOST], _asks(store, owner))
    store.totals[LAP] += size
    if store.totals[LAP] >= store.state[RECENT, LENGTH]:
        store.totals[LAP] = store.totals[MOST] = 0
        for other in range(store.active.shape[1]):
            store.active[1, other] = store.active[0, other]
            store.active[0, other] = np.uint32(0)
            store.totals[MOST] = max(store.totals[MOST], np.int64(store.active[1, other]))


@inline_kernel
def append(store, ring, key, scope, pages, ids, distances, extra, owner):  # type: ignore[no-untyped-def]
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
    owner : int
        Who asked, where `ring` is `RECENT`.

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
    words[at + OWNER] = owner
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
