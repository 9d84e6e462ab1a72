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

from annserve.heads.layout import HEADS_MAX, QUERY_LIMIT
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
    """Compare every head: the exact `wanted` nearest; give how many there are. Arguments as in `walk`."""
    for head in range(n_heads):
        base = node_offset(head, per_page, page_bytes, stride)
        candidates[head] = key_of(squared_l2(query, vectors, base + 4 * degree, dim), head)
    found = min(wanted, n_heads)
    select_smallest(candidates, n_heads, found)
    size = 0
    for j in range(found):
        size = push(out_keys, size, candidates[j])
    sort_keys(out_keys, size)
    return found


@inline_kernel
def nearest_keys(query, nodes, wanted, scan, stamp, scratch):  # type: ignore[no-untyped-def]
    """Find the `wanted` nearest heads of one query, by a walk or by a scan of all.

    Parameters
    ----------
    query : (dim,) float32  # IN
        In the index space; rounded to the heads' grid, and clipped to ±`QUERY_LIMIT`, before it is compared.
    nodes : tuple  # IN
        ``HeadNodes.views``.
    scan : bool
        Whether to compare every head.
    stamp : uint32
        Not used in `visited` yet.
    scratch : tuple  # SCRATCH
        ``WalkScratch.arrays``: visited, candidates, fresh, the query on the grid, and keys, OUT, ascending.

    Returns
    -------
    (found, distances computed)
    """
    neighbours, vectors, n_heads, scale, dim, degree, per_page, page_bytes, stride, entry = nodes
    visited, candidates, fresh, rounded, keys = scratch
    for x in range(dim):
        # In float64: a scale may be smaller than any float32.
        steps = np.rint(np.float64(query[x]) / scale)
        rounded[x] = np.int16(min(max(steps, np.float64(-QUERY_LIMIT)), np.float64(QUERY_LIMIT)))
    if scan:
        found = _scan(
            rounded, vectors, n_heads, dim, degree, per_page, page_bytes, stride, wanted, candidates, keys[:wanted]
        )
        return found, np.int64(n_heads)
    found, computed = walk(
        rounded,
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
        stamp,
        candidates,
        fresh,
        keys[:wanted],
    )
    return found, np.int64(computed)


@kernel
def nearest(  # type: ignore[no-untyped-def]
    queries,  # IN (nq, dim) float32
    nodes,  # IN tuple, see `nearest_keys`
    wanted,  # nearest heads asked for
    scan,  # whether to compare every head
    stamp,  # uint32: this and the next nq − 1 aren't used in `visited` yet
    scratch,  # SCRATCH tuple, see `nearest_keys`
    out_ids,  # OUT (nq, wanted) int32, nearest first; -1 where fewer were found
    out_distances,  # OUT (nq, wanted) float64; infinity where fewer were found
    out_computed,  # OUT (nq,) int64: distances computed
):
    """Find the `wanted` nearest heads of each query."""
    unit = nodes[3] * nodes[3]
    keys = scratch[4]
    for i in range(queries.shape[0]):
        found, out_computed[i] = nearest_keys(queries[i], nodes, wanted, scan, np.uint32(stamp + i), scratch)
        for j in range(found):
            out_ids[i, j] = keys[j] & HEAD_MASK
            out_distances[i, j] = np.float64(keys[j] >> HEAD_BITS) * unit
        out_ids[i, found:] = -1
        out_distances[i, found:] = np.inf


@inline_kernel
def distance_to(query, head, nodes):  # type: ignore[no-untyped-def]
    """Give the squared distance from a query, not rounded, to the stored vector of a head, as float32."""
    _, vectors, _, scale, dim, degree, per_page, page_bytes, stride, _ = nodes
    start = node_offset(head, per_page, page_bytes, stride) + 4 * degree
    row = vectors[start : start + dim]
    step = np.float32(scale)
    total = np.float32(0)
    for x in range(dim):
        diff = query[x] - step * np.float32(row[x])
        total += diff * diff
    return total


@kernel
def distances_to(queries, head_ids, nodes, out_distances):  # type: ignore[no-untyped-def]
    """Give squared distances from queries to some heads.

    Parameters
    ----------
    queries : (nq, dim) float32  # IN
    head_ids : (nq, w) int32; negative where there is none  # IN
    nodes : tuple, see `nearest_keys`  # IN
    out_distances : (nq, w) float32  # OUT
    """
    for i in range(head_ids.shape[0]):
        query = queries[i]
        for j in range(head_ids.shape[1]):
            if head_ids[i, j] >= 0:
                out_distances[i, j] = distance_to(query, np.int64(head_ids[i, j]), nodes)
