"""The graph of heads in plain terms: every distance computed, every set a Python set."""

from __future__ import annotations

import numpy as np

NO_HEAD = 0xFFFF_FFFF


def squared_distances(query, vectors):
    """Exact squared distance to every head, as (h,) int64."""
    return ((np.asarray(vectors, np.int64) - np.asarray(query, np.int64)) ** 2).sum(axis=1)


def real_distances(queries, vectors):
    """Squared distances of real numbers, as (nq, h) float64."""
    return ((np.asarray(queries, np.float64)[:, None] - vectors) ** 2).sum(axis=2)


def query_on_grid(queries, scale, limit):
    """Round queries to a grid of this step, and clip them to ±limit steps."""
    return np.clip(np.rint(np.asarray(queries, np.float64) / scale), -limit, limit).astype(np.int64)


def nearest_heads(query, vectors, wanted):
    """Heads by (distance, id): ids and distances of the first `wanted`."""
    distances = squared_distances(query, vectors)
    order = np.lexsort((np.arange(len(distances)), distances))[:wanted]
    return order, distances[order]


def links(neighbours):
    """The links of each head, as lists without the unused places."""
    return [[int(head) for head in row if head != NO_HEAD] for row in neighbours]


def reachable(neighbours, entry):
    """Every head that links lead to from the entry."""
    outgoing = links(neighbours)
    reached, waiting = {entry}, [entry]
    while waiting:
        for head in outgoing[waiting.pop()]:
            if head not in reached:
                reached.add(head)
                waiting.append(head)
    return reached


def diverse(candidates, vectors, degree, slack):
    """Choose neighbours by the RNG rule, then fill up with the nearest that were dropped.

    `candidates` are (distance to the node, head), ascending. One is dropped in the first pass if a kept one k has
    ``slack * d(k, candidate) <= d(node, candidate)``.
    """
    kept = []
    for distance, head in candidates:
        between = [squared_distances(vectors[head], vectors[[other]])[0] for other in kept]
        if len(kept) < degree and all(slack * d > distance for d in between):
            kept.append(head)
    for _, head in candidates:
        if len(kept) < degree and head not in kept:
            kept.append(head)
    return kept


def read_node(nodes, head, dim, degree):
    """Parse one node from the byte tables of FORMAT.md: (neighbours, vector bytes)."""
    stride = (4 * degree + dim + 3) // 4 * 4
    page_bytes = (stride + 4095) // 4096 * 4096
    per_page = page_bytes // stride
    start = head // per_page * page_bytes + head % per_page * stride
    raw = bytes(nodes)[start : start + stride]
    return np.frombuffer(raw[: 4 * degree], "<u4"), raw[4 * degree : 4 * degree + dim], start


def head_promise(distances, radii, head_ids, rank, nearest, terms):
    """Log of the hits that the head at `rank` promises, of heads given nearest first."""
    near = np.log(max(np.mean(distances[: min(nearest, len(head_ids))].astype(np.float64)), 1e-12))
    x = np.log(max(float(distances[rank]), 1e-12)) - near
    y = np.log(max(float(radii[head_ids[rank]]) ** 2, 1e-12)) - near
    r = np.log1p(rank)
    return float(np.dot(terms.astype(np.float64), [1, x, x * x, y, y * y, x * y, r, r * x]))
