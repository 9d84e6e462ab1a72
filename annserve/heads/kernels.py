"""Walking and growing the graph of heads.

Every kernel sees the nodes as one byte array and as its uint32 and signed/unsigned views, which share memory:
``neighbours`` (uint32 view) and ``vectors`` (uint8 or int8 view). Node ``i`` starts at byte ``(i // per_page) *
page_bytes + (i % per_page) * stride``.

Scratch of a walk: ``visited`` (h,) uint32 stamps, never cleared (a new stamp makes all of it stale), and a
nearest-first heap of candidates.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.distance import squared_l2
from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.topk import push_nearest, sort_nearest

_NO_HEAD = np.uint32(0xFFFF_FFFF)


@inline_kernel
def node_offset(head, per_page, page_bytes, stride):  # type: ignore[no-untyped-def]
    """Byte offset of a head's node."""
    return (head // per_page) * page_bytes + (head % per_page) * stride


@inline_kernel
def _push_candidate(distances, ids, size, distance, id_):  # type: ignore[no-untyped-def]
    position = size
    while position > 0:
        parent = (position - 1) // 2
        if distances[parent] <= distance:
            break
        distances[position] = distances[parent]
        ids[position] = ids[parent]
        position = parent
    distances[position] = distance
    ids[position] = id_
    return size + 1


@inline_kernel
def _pop_candidate(distances, ids, size):  # type: ignore[no-untyped-def]
    size -= 1
    distance, id_ = distances[size], ids[size]
    position = 0
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and distances[child + 1] < distances[child]:
            child += 1
        if distances[child] >= distance:
            break
        distances[position] = distances[child]
        ids[position] = ids[child]
        position = child
    distances[position] = distance
    ids[position] = id_
    return size


@kernel
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
    candidate_distances,  # SCRATCH (h,) float64
    candidate_ids,  # SCRATCH (h,) int32
    out_distances,  # OUT (wanted,) float64, ascending
    out_ids,  # OUT (wanted,) int32
):
    """Best-first search: the `wanted` nearest heads found; give (found, distances computed)."""
    base = node_offset(entry, per_page, page_bytes, stride)
    distance = np.float64(squared_l2(query, vectors, base + 4 * degree, dim))
    visited[entry] = stamp
    n_candidates = _push_candidate(candidate_distances, candidate_ids, 0, distance, np.int32(entry))
    found = push_nearest(out_distances, out_ids, 0, wanted, distance, np.int32(entry))
    computed = 1
    while n_candidates > 0:
        distance = candidate_distances[0]
        head = np.int64(candidate_ids[0])
        if found == wanted and distance > out_distances[0]:
            break
        n_candidates = _pop_candidate(candidate_distances, candidate_ids, n_candidates)
        first = node_offset(head, per_page, page_bytes, stride) // 4
        for j in range(degree):
            neighbour = neighbours[first + j]
            if neighbour == _NO_HEAD:
                break
            if visited[neighbour] == stamp:
                continue
            visited[neighbour] = stamp
            base = node_offset(np.int64(neighbour), per_page, page_bytes, stride)
            distance = np.float64(squared_l2(query, vectors, base + 4 * degree, dim))
            computed += 1
            if found < wanted or distance < out_distances[0]:
                n_candidates = _push_candidate(
                    candidate_distances, candidate_ids, n_candidates, distance, np.int32(neighbour)
                )
                found = push_nearest(out_distances, out_ids, found, wanted, distance, np.int32(neighbour))
    sort_nearest(out_distances, out_ids, found)
    return found, computed


@kernel
def scan_all(  # type: ignore[no-untyped-def]
    query, vectors, n_heads, dim, degree, per_page, page_bytes, stride, wanted, out_distances, out_ids
):
    """Compare every head: the exact `wanted` nearest; give how many there are. Arguments as in `walk`."""
    found = 0
    for head in range(n_heads):
        base = node_offset(head, per_page, page_bytes, stride)
        distance = np.float64(squared_l2(query, vectors, base + 4 * degree, dim))
        if found < wanted or distance < out_distances[0]:
            found = push_nearest(out_distances, out_ids, found, wanted, distance, np.int32(head))
    sort_nearest(out_distances, out_ids, found)
    return found


@kernel
def diverse_neighbours(  # type: ignore[no-untyped-def]
    candidate_distances,  # IN (c,) float64, ascending: distance to the node
    candidate_ids,  # IN (c,) int32
    n_candidates,
    vectors,
    dim,
    degree,
    per_page,
    page_bytes,
    stride,
    slack,  # alpha squared: a candidate is dropped if slack * d(kept, candidate) <= d(node, candidate)
    query,  # SCRATCH (dim,) int16
    out_ids,  # OUT (degree,) uint32, filled up with NO_HEAD
):
    """Choose up to `degree` neighbours, near and in different directions (RNG rule); give their number.

    Two passes: first the rule with `slack`, then the nearest that were dropped, until the list is full.
    """
    kept = 0
    for passed in range(2):
        for i in range(n_candidates):
            if kept == degree:
                return kept
            head = candidate_ids[i]
            taken = False
            for j in range(kept):
                if out_ids[j] == np.uint32(head):
                    taken = True
            if taken:
                continue
            if passed == 0:
                base = node_offset(np.int64(head), per_page, page_bytes, stride) + 4 * degree
                for j in range(dim):
                    query[j] = np.int16(vectors[base + j])
                for j in range(kept):
                    other = node_offset(np.int64(out_ids[j]), per_page, page_bytes, stride) + 4 * degree
                    between = np.float64(squared_l2(query, vectors, other, dim))
                    if slack * between <= candidate_distances[i]:
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
    query,  # SCRATCH (dim,) int16
    distances,  # SCRATCH (degree + 1,) float64
    ids,  # SCRATCH (degree + 1,) int32
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
    count = 0
    for j in range(degree + 1):
        other = np.int64(neighbours[first + j]) if j < degree else np.int64(new_neighbour)
        for x in range(dim):
            query[x] = np.int16(vectors[base + x])
        position = node_offset(other, per_page, page_bytes, stride) + 4 * degree
        distance = np.float64(squared_l2(query, vectors, position, dim))
        count = push_nearest(distances, ids, count, degree + 1, distance, np.int32(other))
    sort_nearest(distances, ids, count)
    diverse_neighbours(
        distances, ids, count, vectors, dim, degree, per_page, page_bytes, stride, slack, query, chosen
    )
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
    candidate_distances,  # SCRATCH (h,) float64
    candidate_ids,  # SCRATCH (h,) int32
    found_distances,  # SCRATCH (breadth,) float64
    found_ids,  # SCRATCH (breadth,) int32
    query,  # SCRATCH (dim,) int16
    scratch_query,  # SCRATCH (dim,) int16
    chosen,  # SCRATCH (degree,) uint32
):
    """Insert heads one after another: walk to each, link it to a diverse few, and those back to it."""
    edge_distances = np.empty(degree + 1, np.float64)
    edge_ids = np.empty(degree + 1, np.int32)
    scratch_chosen = np.empty(degree, np.uint32)
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
            candidate_distances,
            candidate_ids,
            found_distances,
            found_ids,
        )
        kept = diverse_neighbours(
            found_distances,
            found_ids,
            found,
            vectors,
            dim,
            degree,
            per_page,
            page_bytes,
            stride,
            slack,
            scratch_query,
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
                scratch_query,
                edge_distances,
                edge_ids,
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
