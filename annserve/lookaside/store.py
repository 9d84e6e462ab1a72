"""How the lookaside cache's bytes are dealt out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.lookaside import store_kernels
from annserve.lookaside.near_kernels import RING
from annserve.lookaside.store_kernels import Store
from annserve.metric import METRIC_CODES
from annserve.spec import IndexSpec

#: Less than this and pages are the better use of it.
BYTES_LEAST = 16_384
#: Of the bytes, in sixteenths: answers that were asked for twice, queries of late; the rest are tables.
_HOT_SHARE, _RECENT_SHARE = 9, 4
#: Bytes of an answer of ten, and of a place in the table.
_ANSWER_BYTES, _PLACE_BYTES = 176, 17
_NEAR_PLACE_BYTES = 24
_RINGS_MAX, _OWNERS_MAX = 256, 1_024
#: Pages that an entry remembers on average, to tell how many queries of late there is room for.
_PAGES_TYPICAL = 8


def empty_store(n_bytes: int, spec: IndexSpec, norm_max: float) -> npt.NDArray[np.uint8]:
    """Deal out `n_bytes` among answers, queries of late and the tables that find them.

    Parameters
    ----------
    n_bytes : int
        At least `BYTES_LEAST`.
    spec : IndexSpec
    norm_max : float
        Largest norm of a row.

    Returns
    -------
    (at most n_bytes,) uint8
        What ``store_kernels.opened`` opens.
    """
    assert n_bytes >= BYTES_LEAST, n_bytes
    lots = np.random.default_rng(1).integers(0, spec.dim, store_kernels.LOTS, dtype=np.uint16)
    n_bytes -= 8 * store_kernels.HEADER + lots.nbytes
    hot_words = n_bytes * _HOT_SHARE // 16 // 8
    recent_words = n_bytes * _RECENT_SHARE // 16 // 8
    entry_bytes = _ANSWER_BYTES + 8 * (store_kernels.NEAR_QUERY + -(-spec.dim // 8) + _PAGES_TYPICAL)
    n_recent = max(8 * recent_words // entry_bytes, 1)
    # A ring for a session, or for several that share it; and one for queries of no session.
    n_rings = min(max(n_recent // RING, 1), _RINGS_MAX)
    n_owners = min(max(n_recent, 16), _OWNERS_MAX)
    n_near = n_rings * RING + min(n_recent, _RINGS_MAX * RING)
    near_bytes = n_near * _NEAR_PLACE_BYTES + 8 * (n_rings + 1) + 8 * n_owners
    left = n_bytes - 8 * (hot_words + recent_words) - near_bytes
    n_places = 8 * (hot_words + recent_words) // _ANSWER_BYTES
    n_places = max(min(n_places, left * 3 // 4 // _PLACE_BYTES) // store_kernels.WAYS, 1) * store_kernels.WAYS
    n_ghosts = max(min(left - n_places * _PLACE_BYTES, 32 * n_places) // 4, 1)
    sizes = {
        store_kernels.N_WORDS: hot_words + recent_words,
        store_kernels.N_PLACES: n_places,
        store_kernels.N_NEAR: n_near,
        store_kernels.N_RINGS: n_rings + 1,
        store_kernels.N_GHOSTS: n_ghosts,
        store_kernels.N_OWNERS: n_owners,
    }
    sections = 8 * (hot_words + recent_words) + near_bytes + n_places * _PLACE_BYTES + 4 * n_ghosts
    memory = np.zeros(8 * store_kernels.HEADER + lots.nbytes + sections, np.uint8)
    header = memory[: 8 * store_kernels.HEADER].view(np.int64)
    header[list(sizes)] = list(sizes.values())
    header[store_kernels.METRIC] = METRIC_CODES[spec.metric]
    store: Store = store_kernels.opened.py_func(memory)
    # Stored rows are projections of those that were given, but for the rounding of their scale.
    store.norm_max[0] = norm_max * (1 + 1e-6)
    store.lots[:] = lots
    store.positions[:] = store.near_positions[:] = -1
    store.state[store_kernels.RECENT, store_kernels.LENGTH] = recent_words
    store.state[store_kernels.HOT, store_kernels.BASE] = recent_words
    store.state[store_kernels.HOT, store_kernels.LENGTH] = hot_words
    return memory
