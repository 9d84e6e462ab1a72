"""Finding heads: walking their graph, or comparing all of them.

Every kernel sees the nodes as one byte array and as its uint32 and signed/unsigned views, which share memory:
``neighbours`` (uint32 view) and ``vectors`` (uint8 or int8 view). Node ``i`` starts at byte ``(i // per_page) *
page_bytes + (i % per_page) * stride``.

Distance and head travel as one int64 key, so that a heap moves and compares one number and ties go by head.
Scratch of a walk: ``visited`` (h,) uint32 stamps, never cleared (a new stamp makes all of it stale), a heap of
candidates, and the neighbours of one head that weren't visited yet.
"""

from __future__ import annotations

import numpy as np

from annserve.heads.layout import HEADS_MAX
from annserve.kernels.distance import squared_l2
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import prefetch
from annserve.kernels.topk import select_smallest

#: Low bits of a key: the head. 38 bits are left for the distance, and 2,755² · 32,769 < 2³⁸ (QUERY_LIMIT + 255).
HEAD_BITS = HEADS_MAX.bit_length() - 1
HEAD_MASK = HEADS_MAX - 1
NO_HEAD = np.uint32(0xFFFF_FFFF)


@inline_kernel
def node_offset(head, per_page, page_bytes, stride):  # type: ignore[no-untyped-def]
    """Byte offset of a head's node."""
    return (head // per_page) * page_bytes + (head % per_page) * stride


@inline_kernel
def key_of(distance, head):  # type: ignore[no-untyped-def]
    """One number for a distance and a head: nearer is smaller, ties by head."""
    return np.int64(distance) << HEAD_BITS | np.int64(head)


@inline_kernel
def push(keys, size, key):  # type: ignore[no-untyped-def]
    """Add a key to a heap with the largest at its root; give the new size."""
    position = size
    while position > 0:
        parent = (position - 1) >> 1
        if keys[parent] >= key:
            break
        keys[position] = keys[parent]
        position = parent
    keys[position] = key
    return size + 1


@inline_kernel
def _replace_root(keys, size, key):  # type: ignore[no-untyped-def]
    """Put a key in the place of the largest of a heap of `size` keys."""
    position = 0
    child = 1
    while child < size:
        if child + 1 < size:
            child += int(keys[child + 1] > keys[child])
        if keys[child] <= key:
            break
        keys[position] = keys[child]
        position = child
        child = 2 * position + 1
    keys[position] = key


@inline_kernel
def _push_nearest(keys, size, capacity, key):  # type: ignore[no-untyped-def]
    """Offer a key to the heap of the `capacity` smallest; give its new size."""
    if size < capacity:
        return push(keys, size, key)
    if key < keys[0]:
        _replace_root(keys, size, key)
    return size


@inline_kernel
def sort_keys(keys, size):  # type: ignore[no-untyped-def]
    """Turn a heap into an ascending list, in place."""
    for last in range(size - 1, 0, -1):
        key = keys[last]
        keys[last] = keys[0]
        _replace_root(keys, last, key)


@inline_kernel
def walk(  # type: ignore[no-untyped-def]
    query,  # IN (dim,) int16: the query on the heads' grid
    neighbours,  # IN uint32 view of the nodes
    vectors,  # IN uint8 or int8 view of the nodes
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    entry,
    wanted,  # nearest heads asked for
    visited,  # SCRATCH (h,) uint32
    stamp,  # uint32, not used in `visited` yet
    candidates,  # SCRATCH (h,) int64
    fresh,  # SCRATCH (degree,) int64
    out_keys,  # OUT (wanted,) int64, ascending
):
    """Best-first search: the `wanted` nearest heads found; give (found, distances computed)."""
    base = node_offset(entry, per_page, page_bytes, stride)
    key = key_of(squared_l2(query, vectors, base + 4 * degree, dim), entry)
    visited[entry] = stamp
    address = np.int64(vectors.ctypes.data)
    # Candidates are negated: the heap's largest is the nearest.
    n_candidates = push(candidates, 0, -key)
    found = push(out_keys, 0, key)
    computed = 1
    while n_candidates > 0:
        key = -candidates[0]
        if found == wanted and key > out_keys[0]:
            break
        n_candidates -= 1
        _replace_root(candidates, n_candidates, candidates[n_candidates])
        first = node_offset(key & HEAD_MASK, per_page, page_bytes, stride) // 4
        # Whether a neighbour was visited can't be foretold: gather the fresh ones without a branch, and have their
        # vectors fetched while the first are compared (100,000 heads of 128 d: a third less time).
        n_fresh = 0
        for j in range(degree):
            neighbour = neighbours[first + j]
            if neighbour == NO_HEAD:
                break
            fresh[n_fresh] = np.int64(neighbour)
            n_fresh += int(visited[neighbour] != stamp)
            visited[neighbour] = stamp
        for j in range(n_fresh):
            prefetch(address + node_offset(fresh[j], per_page, page_bytes, stride) + 4 * degree, dim)
        for j in range(n_fresh):
            base = node_offset(fresh[j], per_page, page_bytes, stride)
            key = key_of(squared_l2(query, vectors, base + 4 * degree, dim), fresh[j])
            if found < wanted or key < out_keys[0]:
                n_candidates = push(candidates, n_candidates, -key)
                found = _push_nearest(out_keys, found, wanted, key)
        computed += n_fresh
    sort_keys(out_keys, found)
    return found, computed


@inline_kernel
def _scan(  # type: ignore[no-untyped-def]
    query, vectors, n_heads, dim, degree, per_page, page_bytes, stride, wanted, candidates, out_keys
):
    """Compare every head: the exact `wanted` nearest; give how many there are. Arguments as in `_walk`."""
    for head in range(n_heads):
        base = node_offset(head, per_page, page_bytes, stride)
        candidates[head] = key_of(squared_l2(query, vectors, base + 4 * degree, dim), head)
    found = min(wanted, n_heads)
    select_smallest(candidates, n_heads, found)
    out_keys[:found] = np.sort(candidates[:found])
    return found


@kernel
def nearest(  # type: ignore[no-untyped-def]
    queries,  # IN (nq, dim) int16: on the heads' grid
    neighbours,  # IN uint32 view of the nodes
    vectors,  # IN uint8 or int8 view of the nodes
    n_heads,
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    entry,
    wanted,  # nearest heads asked for
    scan,  # whether to compare every head
    unit,  # float64: squared distance of one step of the grid
    visited,  # SCRATCH (h,) uint32
    stamp,  # uint32: this and the next nq − 1 aren't used in `visited` yet
    candidates,  # SCRATCH (h,) int64
    keys,  # SCRATCH (wanted,) int64
    fresh,  # SCRATCH (degree,) int64
    out_ids,  # OUT (nq, wanted) int32, nearest first; -1 where fewer were found
    out_distances,  # OUT (nq, wanted) float64; infinity where fewer were found
    out_computed,  # OUT (nq,) int64: distances computed
):
    """Find the `wanted` nearest heads of each query, by a walk or by a scan of all."""
    for i in range(queries.shape[0]):
        if scan:
            found = _scan(
                queries[i],
                vectors,
                n_heads,
                dim,
                degree,
                per_page,
                page_bytes,
                stride,
                wanted,
                candidates,
                keys,
            )
            out_computed[i] = n_heads
        else:
            found, out_computed[i] = walk(
                queries[i],
                neighbours,
                vectors,
                dim,
                degree,
                per_page,
                page_bytes,
                stride,
                entry,
                wanted,
                visited,
                np.uint32(stamp + i),
                candidates,
                fresh,
                keys,
            )
        for j in range(found):
            out_ids[i, j] = keys[j] & HEAD_MASK
            out_distances[i, j] = np.float64(keys[j] >> HEAD_BITS) * unit
        out_ids[i, found:] = -1
        out_distances[i, found:] = np.inf


@kernel
def distances_to(  # type: ignore[no-untyped-def]
    queries,  # IN (nq, dim) float32, not rounded
    head_ids,  # IN (nq, w) int32; negative where there is none
    vectors,  # IN uint8 or int8 view of the nodes
    scale,  # float32: step of the grid
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    out_distances,  # OUT (nq, w) float32
):
    """Squared distances from queries to the stored vectors of some heads."""
    for i in range(head_ids.shape[0]):
        query = queries[i]
        for j in range(head_ids.shape[1]):
            head = np.int64(head_ids[i, j])
            if head < 0:
                continue
            start = node_offset(head, per_page, page_bytes, stride) + 4 * degree
            row = vectors[start : start + dim]
            total = np.float32(0)
            for x in range(dim):
                diff = query[x] - scale * np.float32(row[x])
                total += diff * diff
            out_distances[i, j] = total
