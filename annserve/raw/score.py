"""Exact distances of raw rows on pages that were read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.metric import METRIC_CODES
from annserve.raw import kernels
from annserve.raw.layout import RawLayout
from annserve.storage.page_kernels import BAD_CHECKSUM, WRONG_PAGE, check_seals

_WRONG = {
    BAD_CHECKSUM: "its checksum is wrong",
    WRONG_PAGE: "it is a whole page, but of another place or index",
}
#: Rows that are scored at once; their floats fit a cache.
_BLOCK_ROWS = 1_024


def find_damage(frames: npt.NDArray[np.uint8], page_ids: npt.NDArray[np.uint32], salt: int) -> list[tuple[int, str]]:
    """Check frames that hold pages of raw rows; give (page, what is wrong with it) of each that is damaged.

    Parameters
    ----------
    frames : (>= p, page_bytes) uint8
    page_ids : (p,) uint32
        Frame i should hold page ``page_ids[i]``.
    salt : int
        Of the segment.
    """
    states = np.empty(len(page_ids), np.uint8)
    check_seals(frames, frames.view(np.uint32), page_ids, np.uint32(salt), states)
    return [(int(page_ids[i]), _WRONG[int(states[i])]) for i in np.flatnonzero(states)]


def score_rows(
    frames: npt.NDArray[np.uint8],
    frame_of_row: npt.NDArray[np.int64],
    slot_of_row: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    query_of_row: npt.NDArray[np.int64],
    layout: RawLayout,
) -> npt.NDArray[np.float64]:
    """Compute the exact distance of single rows.

    Parameters
    ----------
    frames : (f, page_bytes) uint8
        Pages that were read and checked.
    frame_of_row, slot_of_row : (m,) int64
        Where each row lies.
    queries : (nq, dim) float32
    query_of_row : (m,) int64
    layout : RawLayout

    Returns
    -------
    (m,) float64
        In the metric of the raw rows; smaller is nearer.
    """
    stored = frames.view(layout.page_dtype)[:, 0]["rows"]
    distances = np.empty(len(frame_of_row))
    metric = METRIC_CODES[layout.spec.metric]
    for first in range(0, len(distances), _BLOCK_ROWS):
        some = slice(first, first + _BLOCK_ROWS)
        rows = stored[frame_of_row[some], slot_of_row[some]].astype(np.float32)
        kernels.exact_distances(rows, queries, query_of_row[some], metric, distances[some])
    return distances
