"""Recent queries near to one: found by sketches, compared exactly, and what follows from them for pages.

An entry knows of each page that its query's search scored how near the nearest row on it came (its *nearest*), and how
far the k-th of its answer lay (its *reach*). Lengths are those in which distance to a row changes by no more than the
query moves, δ: under L2 the distance itself, under cosine the angle, under inner product the product over the largest
norm of a row. Then for a query δ away

- the k-th nearest lies within reach + δ, if all pages that held the entry's answer are among those that are planned;
- no row of a page lies nearer than nearest − δ;

so a page with nearest − δ > reach + δ holds none of the k nearest, and need not be read [1]. Whatever rounding does
makes δ larger. The answer is the same to the bit: rows of that page are farther than k others that are scored.

A sketch has a bit for each of 64 differences of sums of a few coordinates; of two queries at an angle a, a/π of the
bits differ on average. Sketches only decide what is compared.

References
----------
[1] ARCHITECTURE.md, decision on the lookaside cache: what else was tried.
"""

# mypy: disable-error-code="no-any-return, return-value, assignment"
from __future__ import annotations

import numpy as np

from annserve.kernels.distance import dot_and_norm
from annserve.kernels.jit import inline_kernel, kernel
from annserve.lookaside.ring_kernels import append, name_owner, note, seen_before
from annserve.lookaside.store_kernels import (
    HOT,
    IDS,
    METRIC,
    NEAR,
    NEAR_GAP,
    NEAR_KEPT,
    NEAR_NORM,
    NEAR_PAID,
    NEAR_QUERY,
    NEAR_REACH,
    NEAR_SCALE,
    NEAR_TURN,
    OWNER,
    PAGES,
    PAGES_SAVED,
    PAYS,
    RECENT,
    SCOPE,
    SPARED,
    TRIALS,
    lock,
    near_offset,
    near_words,
    opened,
    place_of,
    still_there,
    unlock,
)
from annserve.results import CERTIFIED, DELTA

RING = 64
#: Entries that a proof may take from: the nearest ones.
ENTRIES = 4
_L2, _IP, _COSINE = 0, 1, 2
#: Of the 64 bits of a sketch; queries from which anything can be proven differ in one or two.
BITS_NEAR = 8
#: Room for rounding: float64 makes lengths of which squares cancel wrong by 2e-8 of the vectors' own at most.
_SLACK = 1e-7


@inline_kernel
def sketch_of(query, lots):  # type: ignore[no-untyped-def]
    """Give 64 bits that nearby queries share.

    Parameters
    ----------
    query : (dim,) int16  # IN
    lots : (64, 8) uint16  # IN
        Coordinates: those that are added, then those that are taken away.
    """
    bits = np.uint64(0)
    for b in range(64):
        total = np.int32(0)
        for j in range(4):
            total += np.int32(query[lots[b, j]]) - np.int32(query[lots[b, 4 + j]])
        bits |= np.uint64(total > 0) << np.uint64(b)
    return bits


@inline_kernel
def _bits(x):  # type: ignore[no-untyped-def]
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inline_kernel
def _length(metric, distance, norm_max):  # type: ignore[no-untyped-def]
    """Turn a distance as it is reported into one of the lengths above."""
    if metric == _COSINE:
        return np.arccos(min(max(1.0 - distance, -1.0), 1.0))
    if metric == _IP:
        return distance / max(norm_max, 1e-300)
    return np.sqrt(max(distance, 0.0))


@inline_kernel
def _moved(metric, dot, norm_a, scale_a, norm_b, scale_b):  # type: ignore[no-untyped-def]
    """Give how far two queries of integers lie apart at most, as a length."""
    if metric == _COSINE:
        return np.arccos(min(max(dot / np.sqrt(norm_a * norm_b), -1.0), 1.0)) + _SLACK
    square = scale_a * scale_a * norm_a + scale_b * scale_b * norm_b - 2.0 * scale_a * scale_b * dot
    own = scale_a * np.sqrt(norm_a) + scale_b * np.sqrt(norm_b)
    return np.sqrt(max(square, 0.0)) + _SLACK * own


@inline_kernel
def _find_near(  # type: ignore[no-untyped-def]
    store,  # IN Store
    query,  # IN (dim,) int16
    scale,
    norm,  # squared, of the integers
    scope,  # uint64
    first,  # of the places to look at
    stop,
    k,
    metric,
    bits_most,
    out_positions,  # OUT (m,) int64: of the nearest, nearest first
    out_moved,  # OUT (m,) float64: how far they lie away at most
):
    """Find the recent queries of a scope that lie nearest; give how many were found."""
    sketch = sketch_of(query, store.lots)
    found = 0
    dim = len(query)
    offset = near_offset(k)
    ring_end = store.state[RECENT, 0] + store.state[RECENT, 1]
    for place in range(first, stop):
        if _bits(store.sketches[place] ^ sketch) > bits_most or store.near_scopes[place] != scope:
            continue
        position = store.near_positions[place]
        at = place_of(store, RECENT, position)
        near = at + offset
        if at + offset + near_words(dim, 0) > ring_end:
            continue
        dot, _ = dot_and_norm(query, store.bytes, 8 * (near + NEAR_QUERY), dim)
        moved = _moved(
            metric,
            np.float64(dot),
            norm,
            scale,
            store.doubles[near + NEAR_NORM],
            store.doubles[near + NEAR_SCALE],
        )
        moved += store.doubles[near + (NEAR_TURN if metric == _COSINE else NEAR_GAP)]
        if store.words[at + SCOPE] != np.int64(scope) or not still_there(store, RECENT, position):
            continue
        rank = min(found, len(out_positions) - 1)
        if found == len(out_positions) and not moved < out_moved[rank]:
            continue
        while rank > 0 and moved < out_moved[rank - 1]:
            out_positions[rank] = out_positions[rank - 1]
            out_moved[rank] = out_moved[rank - 1]
            rank -= 1
        out_positions[rank] = position
        out_moved[rank] = moved
        found = min(found + 1, len(out_positions))
    return found


@kernel
def find_similar(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8
    query,
    scale,
    norm,
    marks,  # IN (3,) uint64: the last is the scope
    first,
    stop,
    k,
    angle_most,
    bits_most,
    position,  # SCRATCH (1,) int64
    moved,  # SCRATCH (1,) float64
    out_ids,  # OUT (k,) uint64
    out_distances,  # OUT (k,) float32
):
    """Copy the answer to the recent query at the smallest angle, if that is at most `angle_most`; say whether."""
    store = opened(memory)
    found = _find_near(store, query, scale, norm, marks[2], first, stop, k, _COSINE, bits_most, position, moved)
    if found == 0 or moved[0] > angle_most:
        return False
    at = place_of(store, RECENT, position[0])
    for j in range(k):
        out_ids[j] = np.uint64(store.words[at + IDS + j])
        out_distances[j] = store.floats[2 * (at + IDS + k) + j]
    pages = store.words[at + PAGES]
    if not still_there(store, RECENT, position[0]):
        return False
    store.totals[NEAR_PAID] += 1
    store.totals[PAGES_SAVED] += pages
    return True


@inline_kernel
def _prove_by(store, position, offset, dim, moved, page_ids, held, needless):  # type: ignore[no-untyped-def]
    """Mark the absent pages of a query that one entry proves needless; give how many were marked anew."""
    at = place_of(store, RECENT, position)
    near = at + offset
    n_known = store.words[at + NEAR]
    pages = near + NEAR_QUERY + (dim + 7) // 8
    if n_known <= 0 or pages + n_known > store.state[RECENT, 0] + store.state[RECENT, 1]:
        return 0
    reach = store.doubles[near + NEAR_REACH]
    # The k-th nearest is bounded only if the pages of the entry's answer are all looked at again.
    planned, stop = 0, len(page_ids)
    for j in range(n_known):
        if np.float64(store.floats[2 * (pages + j)]) > reach:
            continue
        number = store.numbers[2 * (pages + j) + 1]
        while planned < stop and page_ids[planned] < number:
            planned += 1
        if planned == stop or page_ids[planned] != number:
            return 0
    marked = 0
    planned = 0
    for j in range(n_known):
        nearest = np.float64(store.floats[2 * (pages + j)])
        number = store.numbers[2 * (pages + j) + 1]
        while planned < stop and page_ids[planned] < number:
            planned += 1
        if planned == stop:
            break
        known = page_ids[planned] == number and not held[planned] and not needless[planned]
        if known and nearest - moved > reach + moved:
            needless[planned] = True
            marked += 1
    return marked


@inline_kernel
def prove_needless(  # type: ignore[no-untyped-def]
    store,  # IN, OUT Store
    query,  # IN (dim,) int16
    scale,
    norm,
    scope,
    first,  # of the places of recent queries
    stop,
    k,
    page_ids,  # IN (p,) uint32: ascending
    held,  # IN (p,) bool: pages in RAM, which need no proof
    positions,  # SCRATCH (ENTRIES,) int64
    moved,  # SCRATCH (ENTRIES,) float64
    needless,  # OUT (p,) bool
):
    """Find absent pages of a query that recent ones prove to hold none of its k nearest; give how many."""
    needless[:] = False
    found = _find_near(
        store, query, scale, norm, scope, first, stop, k, store.header[METRIC], BITS_NEAR, positions, moved
    )
    proven = 0
    for e in range(found):
        marked = _prove_by(store, positions[e], near_offset(k), len(query), moved[e], page_ids, held, needless)
        proven += marked
        if marked > 0 and not still_there(store, RECENT, positions[e]):
            # What was read may be torn: nothing of this query is believed.
            needless[:] = False
            proven = 0
            break
    store.totals[NEAR_PAID] += int(proven > 0)
    store.totals[PAGES_SAVED] += proven
    return proven


@inline_kernel
def _write_near(store, at, offset, query, scale, norm, metric, norm_max, reach, page_ids, nearest):  # type: ignore[no-untyped-def]
    """Write the near part of a record."""
    dim = len(query)
    near = at + offset
    largest = np.int64(1)
    for j in range(dim):
        largest = max(largest, abs(np.int64(query[j])))
    step = max(np.float64(largest) / 127.0, 1.0)
    start = 8 * (near + NEAR_QUERY)
    square = np.int64(0)
    dot = np.int64(0)
    for j in range(dim):
        element = np.int64(np.rint(np.float64(query[j]) / step))
        store.bytes[start + j] = np.int8(element)
        square += element * element
        dot += element * np.int64(query[j])
    rounded = np.float64(square)
    store.doubles[near + NEAR_SCALE] = scale * step
    store.doubles[near + NEAR_NORM] = rounded
    store.doubles[near + NEAR_GAP] = _moved(metric, np.float64(dot), norm, scale, rounded, scale * step)
    store.doubles[near + NEAR_TURN] = _moved(_COSINE, np.float64(dot), norm, scale, rounded, scale * step)
    store.doubles[near + NEAR_REACH] = _length(metric, reach, norm_max)
    pages = near + NEAR_QUERY + (dim + 7) // 8
    for j in range(len(page_ids)):
        length = _length(metric, nearest[j], norm_max)
        low = np.float32(length)
        if np.float64(low) > length:
            low = np.float32(length - abs(length) * 1e-6 - 1e-30)
        store.floats[2 * (pages + j)] = low
        store.numbers[2 * (pages + j) + 1] = page_ids[j]


@inline_kernel
def keep_answer(  # type: ignore[no-untyped-def]
    store,  # IN, OUT Store
    key,  # IN (2,) uint64
    scope,  # uint64
    first,  # of the places of recent queries
    stop,
    query,  # IN (dim,) int16
    scale,
    norm,
    ids,  # IN (k,) uint64
    distances,  # IN (k,) float64
    pages_taken,  # pages that the answer took, from the device and from RAM
    page_ids,  # IN (p,) uint32: pages whose rows were scored; empty where nothing of them is known
    nearest,  # IN (p,) float64: distance of the nearest row on each
):
    """Keep the answer to a query, and what is known of pages; whoever calls holds the key of those who write."""
    k, dim, turn, n_pages = len(ids), len(query), first // RING, len(page_ids)
    owner = np.int64(scope % np.uint64(store.active.shape[1]))
    totals = store.totals
    if seen_before(store, key):
        append(store, HOT, key, np.uint64(0), pages_taken, ids, distances, 0, 0)
    totals[NEAR_KEPT] += 1
    if totals[NEAR_KEPT] >= 4 * TRIALS:
        totals[NEAR_KEPT] >>= 1
        totals[NEAR_PAID] >>= 1
    spared = totals[NEAR_KEPT] >= TRIALS and totals[NEAR_PAID] * PAYS < totals[NEAR_KEPT]
    whole = not (spared and totals[NEAR_KEPT] % SPARED)
    extra = near_words(dim, n_pages) if whole else 0
    note(store, owner, near_offset(k) + extra)
    position = append(store, RECENT, key, scope, pages_taken, ids, distances, extra, owner)
    if position < 0 or not whole:
        return
    at, metric, norm_max = place_of(store, RECENT, position), store.header[METRIC], store.norm_max[0]
    reach = distances[k - 1]
    _write_near(store, at, near_offset(k), query, scale, norm, metric, norm_max, reach, page_ids, nearest)
    store.words[at + NEAR] = n_pages
    place = first + store.near_next[turn] % (stop - first)
    store.near_next[turn] += 1
    store.words[at + OWNER] = name_owner(owner, place)
    store.near_positions[place] = position
    store.near_scopes[place] = scope
    store.sketches[place] = sketch_of(query, store.lots)


@inline_kernel
def keep_answers(  # type: ignore[no-untyped-def]
    store,  # IN, OUT Store
    keys,  # IN (nq, 2) uint64
    scope,  # uint64
    first,  # of the places of recent queries
    stop,
    queries,  # IN (nq, dim) int16
    scales,
    norms,
    ids,  # IN (nq, k) uint64
    distances,  # IN (nq, k) float64
    pages_read,  # IN (nq,) int64: from the device
    pages_cached,  # IN (nq,) int64: in RAM
    page_ids,  # IN (p,) uint32
    offsets,  # IN (nq + 1,) int64
    nearest,  # IN (p,) float64
):
    """Do as `keep_answer` for each query, and say whether nobody else was writing."""
    if not lock(store):
        return False
    for i in range(keys.shape[0]):
        begin, end = offsets[i], offsets[i + 1]
        keep_answer(
            store,
            keys[i],
            scope,
            first,
            stop,
            queries[i],
            scales[i],
            norms[i],
            ids[i],
            distances[i],
            pages_read[i] + pages_cached[i],
            page_ids[begin:end],
            nearest[begin:end],
        )
    unlock(store)
    return True


@kernel
def remember(  # type: ignore[no-untyped-def]
    memory,  # IN, OUT (b,) uint8
    keys,  # IN (nq, 2) uint64
    marks,  # IN (3,) uint64: the last is the scope
    first,  # of the places of recent queries
    stop,
    queries,  # IN (nq, dim) int16
    scales,
    norms,
    ids,  # IN (nq, k) uint64
    distances,  # IN (nq, k) float64
    pages_read,  # IN (nq,) int64: from the device
    pages_cached,  # IN (nq,) int64: in RAM
    page_ids,  # IN (p,) uint32: pages whose rows were scored; empty where nothing of them is known
    offsets,  # IN (nq + 1,) int64
    nearest,  # IN (p,) float64: distance of the nearest row on each
    grades,  # IN, OUT (nq,) uint8
):
    """Grade queries; keep answers, and what is known of pages, and say whether nobody else was writing."""
    for i in range(keys.shape[0]):
        if pages_read[i] == 0:
            grades[i] = CERTIFIED
        elif pages_cached[i] > 0:
            grades[i] = DELTA
    return keep_answers(
        opened(memory),
        keys,
        marks[2],
        first,
        stop,
        queries,
        scales,
        norms,
        ids,
        distances,
        pages_read,
        pages_cached,
        page_ids,
        offsets,
        nearest,
    )
