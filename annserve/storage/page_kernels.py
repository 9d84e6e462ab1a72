"""The seal of a page, of whatever kind: checksum, its own number, and the salt of its segment, each at its place.

A page that was damaged, read from the wrong place, or belongs to another index is found by its seal alone.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel
from annserve.storage.crc_kernels import crc32c_of

#: What a seal can say of a page.
WHOLE, BAD_CHECKSUM, WRONG_PAGE = 0, 1, 2


@kernel
def seal_pages(pages_u32, pages_u8, first_page_id, salt):  # type: ignore[no-untyped-def]
    """Write page numbers, salt and, last, checksums into the headers of consecutive pages.

    Parameters
    ----------
    pages_u32 : (p, page_bytes / 4) uint32  # IN, OUT
    pages_u8 : (p, page_bytes) uint8, the same memory  # IN
    first_page_id : int
    salt : uint32
    """
    for i in range(pages_u8.shape[0]):
        pages_u32[i, 1] = np.uint32(first_page_id + i)
        pages_u32[i, 3] = np.uint32(salt)
        pages_u32[i, 0] = crc32c_of(pages_u8[i], 4, pages_u8.shape[1], np.uint32(0))


@inline_kernel
def check_seal(page_u8, page_u32, page_id, salt):  # type: ignore[no-untyped-def]
    """Say whether a page is whole and the one that was asked for; one of the codes above."""
    if crc32c_of(page_u8, 4, page_u8.shape[0], np.uint32(0)) != page_u32[0]:
        return BAD_CHECKSUM
    if page_u32[1] != np.uint32(page_id) or page_u32[3] != np.uint32(salt):
        return WRONG_PAGE
    return WHOLE


@kernel
def check_seals(frames_u8, frames_u32, page_ids, salt, states):  # type: ignore[no-untyped-def]
    """Check the seal of each frame.

    Parameters
    ----------
    frames_u8 : (>= p, page_bytes) uint8  # IN
    frames_u32 : the same memory as uint32  # IN
    page_ids : (p,) uint32: frame i should hold page page_ids[i]  # IN
    salt : uint32
    states : (p,) uint8: one of the codes above  # OUT
    """
    for i in range(page_ids.shape[0]):
        states[i] = check_seal(frames_u8[i], frames_u32[i], page_ids[i], salt)
