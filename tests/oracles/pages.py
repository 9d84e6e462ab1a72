"""Pages, rows and scores in plain terms: struct, float64, one row at a time."""

from __future__ import annotations

import struct

import numpy as np
from oracles.storage import crc32c


def read_page(page, capacity, dim, *, factors, signed):
    """Parse a page from the byte tables of FORMAT.md, without trusting or testing anything."""
    raw = bytes(page)
    stored_crc, page_id, count, flags, salt = struct.unpack_from("<IIHHI", raw)
    at = 16
    ids = list(struct.unpack_from(f"<{count}Q", raw, at))
    at += 8 * capacity
    scales = errors = None
    if factors:
        scales = list(struct.unpack_from(f"<{count}f", raw, at))
        errors = list(struct.unpack_from(f"<{count}f", raw, at + 4 * capacity))
        at += 8 * capacity
    elements = np.frombuffer(raw, "i1" if signed else "u1", count * dim, at).reshape(count, dim)
    return {
        "crc32c": stored_crc,
        "crc32c_found": crc32c(raw[4:]),
        "page_id": page_id,
        "count": count,
        "flags": flags,
        "salt": salt,
        "ids": ids,
        "scales": scales,
        "errors": errors,
        "elements": elements,
        "used_bytes": at + capacity * dim,
    }


def exact_row(row, metric):
    """What a stored row stands for: the row itself, or its direction under cosine."""
    exact = np.asarray(row, np.float64)
    return exact / np.linalg.norm(exact) if metric == "cosine" else exact


def distance(query, elements, scale, metric):
    """Distance of a query to a stored row, in float64, as the metric's definition reads."""
    q = np.asarray(query, np.float64)
    x = float(scale) * np.asarray(elements, np.float64)
    if metric == "l2":
        return float(((q - x) ** 2).sum())
    if metric == "ip":
        return -float((q * x).sum())
    return 1.0 - float((q * x).sum()) / float(np.linalg.norm(q) * np.linalg.norm(x))


def top_k(candidates, k):
    """The k nearest of (distance, id), ties by id, replicas once."""
    best = {}
    for d, id_ in candidates:
        best.setdefault(id_, d)
    return sorted((d, id_) for id_, d in best.items())[:k]


def quantize_queries(queries):
    """Give int16 elements and a scale of each query: 1 where its elements are whole and fit."""
    exact = queries.astype(np.float64)
    largest = np.abs(exact).max(axis=1, initial=0.0)
    whole = (np.rint(exact) == exact).all(axis=1) & (largest <= 32_767)
    scales = np.where(whole, 1.0, largest / 32_767)
    return np.rint(exact / scales[:, None]).astype(np.int16), scales
