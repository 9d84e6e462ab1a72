"""Looking over a request for pages in one pass, before anything is read."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import kernel


@kernel
def bounds_of_request(page_ids, places, frames, alignment):  # type: ignore[no-untyped-def]
    """Give what a request may be refused for.

    Parameters
    ----------
    page_ids : (p,) uint32  # IN
    places : (p,) int64  # IN
    frames : (f, page_bytes) uint8  # IN
    alignment : int

    Returns
    -------
    (last page, first place, last place, bytes that the frames are off)
        −1, 0, −1 of an empty request.
    """
    last_page = np.int64(-1)
    first_place = np.int64(0)
    last_place = np.int64(-1)
    for i in range(page_ids.shape[0]):
        last_page = max(last_page, np.int64(page_ids[i]))
        first_place = min(first_place, places[i])
        last_place = max(last_place, places[i])
    return last_page, first_place, last_place, np.int64(frames.ctypes.data) % alignment
