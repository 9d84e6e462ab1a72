"""Answers to queries that were asked before, found by key and copied out."""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel
from annserve.lookaside.key_kernels import write_key
from annserve.lookaside.ring_kernels import append
from annserve.lookaside.store_kernels import (
    BASE,
    HOT,
    IDS,
    KEY,
    LENGTH,
    NEAR_KEPT,
    NEAR_PAID,
    PAGES,
    PAGES_SAVED,
    PAYS,
    RECENT,
    REPEATS,
    SPARED,
    TRIALS,
    WAYS,
    lock,
    near_offset,
    opened,
    place_of,
    set_of,
    still_there,
    unlock,
)
from annserve.results import MISS, REPEAT


@kernel
def find_answers(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8
    queries,  # IN (nq, b) uint8: the bytes of each
    marks,  # IN (3,) uint64: the secret of keys, and a scope
    k,
    waiting,  # IN (w, 2) uint64: keys of answers that are to be kept
    keys,  # OUT (nq, 2) uint64
    out_ids,  # OUT (nq, k) uint64: where found
    out_distances,  # OUT (nq, k) float32: where found
    out_grades,  # OUT (nq,) uint8: `REPEAT` where found, else `MISS`
):
    """Find the answers to queries that were asked before, to the bit; give how many, and whether to try proofs.

    -1 where one of them is to be kept first.
    """
    store = opened(memory)
    size = near_offset(k)
    n_found = 0
    for i in range(queries.shape[0]):
        write_key(queries[i], marks, keys[i])
        for j in range(waiting.shape[0]):
            if waiting[j, 0] == keys[i, 0] and waiting[j, 1] == keys[i, 1]:
                return -1, False
        out_grades[i] = MISS
        first = set_of(store, keys[i, 0])
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
            out_grades[i] = REPEAT
            n_found += 1
            store.asked[slot] = np.uint8(1)
            store.totals[REPEATS] += 1
            store.totals[PAGES_SAVED] += pages
            if ring == RECENT and lock(store):
                append(store, HOT, keys[i], np.uint64(0), pages, out_ids[i], out_distances[i], 0, 0)
                unlock(store)
            break
    return n_found, proofs_pay(store)


@inline_kernel
def proofs_pay(store):  # type: ignore[no-untyped-def]
    """Say whether to look for proofs: where they are rare, at some queries only, so that a change is noticed."""
    kept, paid = store.totals[NEAR_KEPT], store.totals[NEAR_PAID]
    return kept < TRIALS or paid * PAYS >= kept or kept % SPARED == 0
