"""Growing the graph of heads, and proving that every head can be reached.

Nodes and keys are those of ``heads.kernels``.
"""

from __future__ import annotations

import numpy as np

from annserve.heads.kernels import HEAD_BITS, HEAD_MASK, NO_HEAD, key_of, node_offset, push, sort_keys, walk
from annserve.kernels.distance import squared_l2
from annserve.kernels.jit import inline_kernel, kernel


@inline_kernel
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
        out_ids[j] = NO_HEAD
    return kept


@inline_kernel
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
        if neighbours[first + j] == NO_HEAD:
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
    count = push(keys, 0, key_of(new_distance, new_neighbour))
    for j in range(degree):
        other = np.int64(neighbours[first + j])
        position = node_offset(other, per_page, page_bytes, stride) + 4 * degree
        count = push(keys, count, key_of(squared_l2(vector, vectors, position, dim), other))
    sort_keys(keys, count)
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
    edge_keys,  # SCRATCH (degree + 1,) int64
    scratch_chosen,  # SCRATCH (degree,) uint32
):
    """Insert heads one after another: walk to each, link it to a diverse few, and those back to it."""
    for i in range(max(first, 1), stop):
        head = order[i]
        base = node_offset(head, per_page, page_bytes, stride)
        for j in range(dim):
            query[j] = np.int16(vectors[base + 4 * degree + j])
        found, _ = walk(
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
            if neighbour == NO_HEAD:
                break
            if reached[neighbour] == 0:
                reached[neighbour] = 1
                queue[size] = np.int32(neighbour)
                size += 1
    count = 0
    for head in range(n_heads):
        count += reached[head]
    return count
