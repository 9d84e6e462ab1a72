"""Distances of rows as given, and pages of raw rows, in plain terms: struct, extended precision, one row at a time."""

from __future__ import annotations

import struct

import numpy as np
from oracles.storage import crc32c


def distance(query, row, metric):
    """Distance as the metric's definition reads, in the widest floats there are."""
    q, x = np.asarray(query, np.longdouble), np.asarray(row, np.longdouble)
    if metric == "l2":
        return ((q - x) ** 2).sum()
    if metric == "ip":
        return -(q * x).sum()
    return 1 - (q * x).sum() / np.sqrt((q * q).sum() * (x * x).sum())


def distances(queries, rows, metric):
    """All of them, (nq, n)."""
    return np.array([[distance(query, row, metric) for row in rows] for query in queries])


def nearest(queries, rows, metric, k):
    """Numbers of the k nearest rows of each query, ties by number."""
    found = distances(queries, rows, metric).astype(np.float64)
    return np.argsort(found, axis=1, kind="stable")[:, :k]


def read_raw_page(page, dim, dtype):
    """Parse a page of raw rows from the byte table of FORMAT.md."""
    raw = bytes(page)
    stored_crc, page_id, reserved, salt = struct.unpack_from("<IIII", raw)
    count = (len(raw) - 16) // (dim * np.dtype(dtype).itemsize)
    return {
        "crc32c": stored_crc,
        "crc32c_found": crc32c(raw[4:]),
        "page_id": page_id,
        "reserved": reserved,
        "salt": salt,
        "rows": np.frombuffer(raw, dtype, count * dim, 16).reshape(count, dim),
    }
