"""Walking and growing the graph of heads.

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
_NO_HEAD = np.uint32(0xFFFF_FFFF)


@inline_kernel
def node_offset(head, per_page, page_bytes, stride):  # type: ignore[no-untyped-def]
    """Byte offset of a head's node."""
    return (head // per_page) * page_bytes + (head % per_page) * stride


@inline_kernel
def _key(distance, head):  # type: ignore[no-untyped-def]
    """One number for a distance and a head: nearer is smaller, ties by head."""
    return np.int64(distance) << HEAD_BITS | np.int64(head)


@inline_kernel
def _push(keys, size, key):  # type: ignore[no-untyped-def]
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
        return _push(keys, size, key)
    if key < keys[0]:
        _replace_root(keys, size, key)
    return size


@inline_kernel
def _sort(keys, size):  # type: ignore[no-untyped-def]
    """Turn a heap into an ascending list, in place."""
    for last in range(size - 1, 0, -1):
        key = keys[last]
        keys[last] = keys[0]
        _replace_root(keys, last, key)


@inline_kernel
def _walk(  # type: ignore[no-untyped-def]
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
    key = _key(squared_l2(query, vectors, base + 4 * degree, dim), entry)
    visited[entry] = stamp
    address = np.int64(vectors.ctypes.data)
    # Candidates are negated: the heap's largest is the nearest.
    n_candidates = _push(candidates, 0, -key)
    found = _push(out_keys, 0, key)
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
            if neighbour == _NO_HEAD:
                break
            fresh[n_fresh] = np.int64(neighbour)
            n_fresh += int(visited[neighbour] != stamp)
            visited[neighbour] = stamp
        for j in range(n_fresh):
            prefetch(address + node_offset(fresh[j], per_page, page_bytes, stride) + 4 * degree, dim)
        for j in range(n_fresh):
            base = node_offset(fresh[j], per_page, page_bytes, stride)
            key = _key(squared_l2(query, vectors, base + 4 * degree, dim), fresh[j])
            if found < wanted or key < out_keys[0]:
                n_candidates = _push(candidates, n_candidates, -key)
                found = _push_nearest(out_keys, found, wanted, key)
        computed += n_fresh
    _sort(out_keys, found)
    return found, computed


@inline_kernel
def _scan(  # type: ignore[no-untyped-def]
    query, vectors, n_heads, dim, degree, per_page, page_bytes, stride, wanted, candidates, out_keys
):
    """Compare every head: the exact `wanted` nearest; give how many there are. Arguments as in `_walk`."""
    for head in range(n_heads):
        base = node_offset(head, per_page, page_bytes, stride)
        candidates[head] = _key(squared_l2(query, vectors, base + 4 * degree, dim), head)
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
            found, out_computed[i] = _walk(
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
def diverse_neighbours(  # type: ignore[no-untyped-def]
    keys,  # IN (c,) int64, ascending: distance to the node, and head
    n_keys,
    vectors,
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    slack,  # alpha squared: a head is dropped if slack * d(kept, head) <= d(node, head)
    out_ids,  # OUT (degree,) uint32, filled up with NO_HEAD
):
    """Choose up to `degree` neighbours, near and in different directions (RNG rule); give their number.

    Two passes: first the rule with `slack`, then the nearest that were dropped, until the list is full.
    """
    kept = 0
    for passed in range(2):
        for i in range(n_keys):
            if kept == degree:
                return kept
            head = keys[i] & HEAD_MASK
            distance = np.float64(keys[i] >> HEAD_BITS)
            taken = False
            for j in range(kept):
                if out_ids[j] == np.uint32(head):
                    taken = True
            if taken:
                continue
            if passed == 0:
                base = node_offset(head, per_page, page_bytes, stride) + 4 * degree
                vector = vectors[base : base + dim]
                for j in range(kept):
                    other = node_offset(np.int64(out_ids[j]), per_page, page_bytes, stride) + 4 * degree
                    between = np.float64(squared_l2(vector, vectors, other, dim))
                    if slack * between <= distance:
                        taken = True
                        break
            if not taken:
                out_ids[kept] = np.uint32(head)
                kept += 1
    for j in range(kept, degree):
        out_ids[j] = _NO_HEAD
    return kept


@kernel
def add_reverse_edge(  # type: ignore[no-untyped-def]
    node,
    new_neighbour,
    neighbours,  # IN, OUT
    vectors,
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    slack,
    keys,  # SCRATCH (degree + 1,) int64
    chosen,  # SCRATCH (degree,) uint32
):
    """Let `node` know `new_neighbour`; where its list is full, choose the list anew."""
    first = node_offset(node, per_page, page_bytes, stride) // 4
    size = degree
    for j in range(degree):
        if neighbours[first + j] == np.uint32(new_neighbour):
            return
        if neighbours[first + j] == _NO_HEAD:
            size = j
            break
    if size < degree:
        neighbours[first + size] = np.uint32(new_neighbour)
        return
    base = first * 4 + 4 * degree
    vector = vectors[base : base + dim]
    base = node_offset(new_neighbour, per_page, page_bytes, stride) + 4 * degree
    new_vector = vectors[base : base + dim]
    # The list is in the order of its choice, so the last is the farthest of those that would go. A new one that
    # lies farther and in a known direction would go before it: no need to choose anew.
    new_distance = squared_l2(vector, vectors, base, dim)
    last = node_offset(np.int64(neighbours[first + degree - 1]), per_page, page_bytes, stride) + 4 * degree
    if new_distance >= squared_l2(vector, vectors, last, dim):
        for j in range(degree):
            other = node_offset(np.int64(neighbours[first + j]), per_page, page_bytes, stride) + 4 * degree
            if slack * np.float64(squared_l2(new_vector, vectors, other, dim)) <= np.float64(new_distance):
                return
    count = _push(keys, 0, _key(new_distance, new_neighbour))
    for j in range(degree):
        other = np.int64(neighbours[first + j])
        position = node_offset(other, per_page, page_bytes, stride) + 4 * degree
        count = _push(keys, count, _key(squared_l2(vector, vectors, position, dim), other))
    _sort(keys, count)
    diverse_neighbours(keys, count, vectors, dim, degree, per_page, page_bytes, stride, slack, chosen)
    for j in range(degree):
        neighbours[first + j] = chosen[j]


@kernel
def grow(  # type: ignore[no-untyped-def]
    order,  # IN (h,) int64: heads in the order of their insertion
    first,  # insert order[first:stop]; order[:first] are in the graph
    stop,
    neighbours,  # IN, OUT
    vectors,
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    breadth,  # heads looked at around a new one
    slack,
    visited,  # SCRATCH (h,) uint32, stamps below first + 1
    candidates,  # SCRATCH (h,) int64
    fresh,  # SCRATCH (degree,) int64
    found_keys,  # SCRATCH (breadth,) int64
    query,  # SCRATCH (dim,) int16
    chosen,  # SCRATCH (degree,) uint32
):
    """Insert heads one after another: walk to each, link it to a diverse few, and those back to it."""
    edge_keys = np.empty(degree + 1, np.int64)
    scratch_chosen = np.empty(degree, np.uint32)
    for i in range(max(first, 1), stop):
        head = order[i]
        base = node_offset(head, per_page, page_bytes, stride)
        for j in range(dim):
            query[j] = np.int16(vectors[base + 4 * degree + j])
        found, _ = _walk(
            query,
            neighbours,
            vectors,
            dim,
            degree,
            per_page,
            page_bytes,
            stride,
            order[0],
            breadth,
            visited,
            np.uint32(i + 1),
            candidates,
            fresh,
            found_keys,
        )
        kept = diverse_neighbours(
            found_keys,
            found,
            vectors,
            dim,
            degree,
            per_page,
            page_bytes,
            stride,
            slack,
            chosen,
        )
        for j in range(degree):
            neighbours[base // 4 + j] = chosen[j]
        for j in range(kept):
            add_reverse_edge(
                np.int64(chosen[j]),
                head,
                neighbours,
                vectors,
                dim,
                degree,
                per_page,
                page_bytes,
                stride,
                slack,
                edge_keys,
                scratch_chosen,
            )


@kernel
def reach(neighbours, n_heads, degree, per_page, page_bytes, stride, entry, reached, queue):  # type: ignore[no-untyped-def]
    """Mark every head that a walk from `entry` can reach; give their number.

    ``reached`` (h,) uint8 # IN, OUT: marks set before stay set, and aren't walked again.
    ``queue`` (h,) int32 # SCRATCH
    """
    if reached[entry] == 0:
        reached[entry] = 1
    queue[0] = entry
    size, at = 1, 0
    while at < size:
        first = node_offset(np.int64(queue[at]), per_page, page_bytes, stride) // 4
        at += 1
        for j in range(degree):
            neighbour = neighbours[first + j]
            if neighbour == _NO_HEAD:
                break
            if reached[neighbour] == 0:
                reached[neighbour] = 1
                queue[size] = np.int32(neighbour)
                size += 1
    count = 0
    for head in range(n_heads):
        count += reached[head]
    return count


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
