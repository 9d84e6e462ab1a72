"""Scoring the rows on posting pages.

A page is seen through views of its element types that share memory; offsets are given in elements of each view.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.distance import dot_and_norm
from annserve.kernels.jit import exact_kernel, inline_kernel, kernel
from annserve.kernels.topk import push_distinct, sort_nearest
from annserve.pages.layout import FLAG_FACTORS, REPLICAS_SHIFT
from annserve.storage.crc_kernels import crc32c_of
from annserve.storage.page_kernels import WHOLE, check_seal

_COSINE = 2
_IP = 1

#: What scoring finds of a page: what ``check_seal`` says, or that its count or flags can't be.
GOOD, BAD_COUNT = WHOLE, 3
#: No row has this id; it stands where there was none to answer.
NO_ID = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@inline_kernel
def check_page(page_u8, page_u32, page_id, salt, capacity, flags):  # type: ignore[no-untyped-def]
    """Say whether a page is whole and the one that was asked for; `GOOD`, `BAD_COUNT`, or what ``check_seal`` says."""
    state = check_seal(page_u8, page_u32, page_id, salt)
    if state != WHOLE:
        return state
    count = np.int64(page_u32[2] & np.uint32(0xFFFF))
    found = np.int64(page_u32[2] >> np.uint32(16))
    if count < 1 or count > capacity or found & FLAG_FACTORS != flags or found >> REPLICAS_SHIFT > count:
        return BAD_COUNT
    return GOOD


@kernel
def seal_rows(  # type: ignore[no-untyped-def]
    pages,  # IN (p, page_bytes) uint8: whole pages
    counts,  # IN (p,) int64: rows of each
    capacity,
    dim,
    factors_offset,  # bytes; 0 where rows carry no factors
    rows_offset,  # bytes
    seals,  # OUT (rows,) uint32
):
    """Sum elements and factors of every row, so that two copies of a row can be compared."""
    at = 0
    for i in range(pages.shape[0]):
        for slot in range(counts[i]):
            first = rows_offset + slot * dim
            total = crc32c_of(pages[i], first, first + dim, np.uint32(0))
            if factors_offset:
                for part in range(2):
                    first = factors_offset + 4 * (part * capacity + slot)
                    total = crc32c_of(pages[i], first, first + 4, total)
            seals[at] = total
            at += 1


@exact_kernel
def _distance(metric, dot, norm, scale, query_scale, query_norm):  # type: ignore[no-untyped-def]
    """Give the distance of a row from what integers say: the same to the bit from each kernel that scores."""
    if metric == _COSINE:
        return 1.0 - dot / np.sqrt(query_norm * norm)
    if metric == _IP:
        return -query_scale * scale * dot
    return query_scale * query_scale * query_norm + scale * scale * norm - 2.0 * query_scale * scale * dot


@inline_kernel
def score_query(  # type: ignore[no-untyped-def]
    frames_u8,  # IN (f, page_bytes) uint8: pages as read
    frames_rows,  # IN the same memory as uint8 or int8
    page_ids,  # IN (p,) uint32: frame i holds page page_ids[i]
    first,  # score frames first … stop − 1
    stop,
    facts,  # IN (7,) int64: ``score.PageFacts.numbers``
    query,  # IN (dim,) int16
    query_scale,  # float64
    query_norm,  # float64, of the integers
    k,
    nearest,  # OUT (p,) float64: distance of the nearest row on each frame; or empty
    distances,  # OUT (k,) float64 worst-first heap
    ids,  # OUT (k,) uint64
    counts,  # OUT (3,) int64: rows scored, heap size, frame of a bad page
):
    """Offer every row of some frames to the heap of the k nearest; say what `check_page` says."""
    salt, capacity, dim, metric = facts[0], facts[1], facts[2], facts[6]
    ids_offset, factors_offset, rows_offset = facts[3], facts[4], facts[5]
    frames_u32, frames_u64, frames_f32 = (
        frames_u8.view(np.uint32),
        frames_u8.view(np.uint64),
        frames_u8.view(np.float32),
    )
    size = counts[1]
    flags = FLAG_FACTORS if factors_offset else 0
    for frame in range(first, stop):
        state = check_page(frames_u8[frame], frames_u32[frame], page_ids[frame], salt, capacity, flags)
        if state != GOOD:
            counts[1] = size
            counts[2] = frame
            return state
        n_rows = np.int64(frames_u32[frame, 2] & np.uint32(0xFFFF))
        low = np.float64(np.inf)
        for slot in range(n_rows):
            dot, norm = dot_and_norm(query, frames_rows[frame], rows_offset + slot * dim, dim)
            scale = np.float64(1.0)
            if factors_offset:
                scale = np.float64(frames_f32[frame, factors_offset // 4 + slot])
            distance = _distance(metric, np.float64(dot), np.float64(norm), scale, query_scale, query_norm)
            low = min(low, distance)
            id_ = frames_u64[frame, ids_offset // 8 + slot]
            size = push_distinct(distances, ids, size, k, distance, id_)
        counts[0] += n_rows
        if nearest.shape[0] > 0:
            nearest[frame] = low
    counts[1] = size
    return GOOD


@kernel
def score_pages(  # type: ignore[no-untyped-def]
    frames_u8,
    frames_rows,
    page_ids,
    offsets,  # IN (nq + 1,) int64: query i has frames offsets[i] … offsets[i + 1] − 1
    facts,
    queries,  # IN (nq, dim) int16
    query_scales,  # IN (nq,) float64
    query_norms,  # IN (nq,) float64
    k,
    nearest,
    distances,  # OUT (nq, k) float64, ascending; infinity where there were fewer rows
    ids,  # OUT (nq, k) uint64, ties ascending; `NO_ID` where there were fewer rows
    counts,  # OUT (nq, 3) int64
):
    """Find the k nearest rows of each query on its frames; give what `check_page` says, and the query it said it of.

    The other arguments are those of `score_query`.
    """
    for i in range(offsets.shape[0] - 1):
        distances[i] = np.inf
        ids[i] = NO_ID
        counts[i] = 0
        state = score_query(
            frames_u8,
            frames_rows,
            page_ids,
            offsets[i],
            offsets[i + 1],
            facts,
            queries[i],
            query_scales[i],
            query_norms[i],
            k,
            nearest,
            distances[i],
            ids[i],
            counts[i],
        )
        if state != GOOD:
            return state, i
        sort_nearest(distances[i], ids[i], counts[i, 1])
    return GOOD, 0
