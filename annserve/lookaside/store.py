"""How the lookaside cache's bytes are dealt out."""

from __future__ import annotations

import numpy as np

from annserve.lookaside import store_kernels
from annserve.lookaside.near_kernels import RING
from annserve.lookaside.store_kernels import Store

#: Less than this and pages are the better use of it.
BYTES_LEAST = 16_384
#: Of the bytes, in sixteenths: answers that were asked for twice, queries of late; the rest are tables.
_HOT_SHARE, _RECENT_SHARE = 9, 4
#: Bytes of an answer of ten, and of a place in the table.
_ANSWER_BYTES, _PLACE_BYTES = 168, 17
_NEAR_PLACE_BYTES = 24
_RINGS_MAX = 256
#: Pages that an entry remembers on average, to tell how many queries of late there is room for.
_PAGES_TYPICAL = 8


def empty_store(n_bytes: int, dim: int) -> Store:
    """Deal out `n_bytes` among answers, queries of late and the tables that find them.

    Parameters
    ----------
    n_bytes : int
    dim : int
    """
    hot_words = n_bytes * _HOT_SHARE // 16 // 8
    recent_words = n_bytes * _RECENT_SHARE // 16 // 8
    entry_bytes = _ANSWER_BYTES + 8 * (store_kernels.NEAR_QUERY + -(-dim // 8) + _PAGES_TYPICAL)
    n_rings = min(max(8 * recent_words // entry_bytes // RING, 1), _RINGS_MAX)
    left = n_bytes - 8 * (hot_words + recent_words) - n_rings * (RING * _NEAR_PLACE_BYTES + 8) - 256
    n_places = 8 * (hot_words + recent_words) // _ANSWER_BYTES
    n_places = max(min(n_places, left * 3 // 4 // _PLACE_BYTES) // store_kernels.WAYS, 1) * store_kernels.WAYS
    n_ghosts = max(min(left - n_places * _PLACE_BYTES, 32 * n_places) // 4, 1)
    words = np.zeros(hot_words + recent_words, np.int64)
    state = np.zeros((2, store_kernels.STATE_WORDS), np.int64)
    state[store_kernels.RECENT, store_kernels.LENGTH] = recent_words
    state[store_kernels.HOT, store_kernels.BASE] = recent_words
    state[store_kernels.HOT, store_kernels.LENGTH] = hot_words
    return Store(
        words=words,
        floats=words.view(np.float32),
        doubles=words.view(np.float64),
        numbers=words.view(np.uint32),
        bytes=words.view(np.int8),
        keys=np.zeros(n_places, np.uint64),
        positions=np.full(n_places, -1, np.int64),
        asked=np.zeros(n_places, np.uint8),
        ghosts=np.zeros(n_ghosts, np.uint32),
        sketches=np.zeros(n_rings * RING, np.uint64),
        near_positions=np.full(n_rings * RING, -1, np.int64),
        near_scopes=np.zeros(n_rings * RING, np.uint64),
        near_next=np.zeros(n_rings, np.int64),
        state=state,
        totals=np.zeros(store_kernels.TOTALS, np.int64),
        lock=np.zeros(1, np.uint32),
    )


def bytes_of_store(store: Store) -> int:
    """Give the bytes of its arrays, each memory once."""
    views = ("floats", "doubles", "numbers", "bytes")
    return sum(array.nbytes for name, array in store._asdict().items() if name not in views)
