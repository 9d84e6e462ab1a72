"""A packed page read as plainly as can be, bit by bit, by its byte table (``packed.kernels``)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from annserve.codes.encode import decode
from annserve.codes.layout import unflatten_postings, unpack_page
from annserve.index.segment import Segment


class PackedRows(NamedTuple):
    count: int
    flags: int
    ids: np.ndarray
    scales: np.ndarray | None
    gains: np.ndarray | None
    #: (count, dim) int64, modulo 256: what rows differ by from their predictions.
    differences: np.ndarray


def read_packed(packed: np.ndarray, dim: int, *, has_factors: bool, keeps_gains: bool) -> PackedRows:
    """Read a packed page of rows of `dim` elements."""
    octets = packed.tobytes()
    count, flags = (int.from_bytes(octets[at : at + 2], "little") for at in (8, 10))
    at = 16

    def take(n_bytes: int, dtype: str) -> np.ndarray:
        nonlocal at
        at += n_bytes
        return np.frombuffer(octets[at - n_bytes : at], dtype)

    ids = take(count * (4 if flags & 0x8000 else 8), "<u4" if flags & 0x8000 else "<u8")
    scales = take(8 * count, "<f4")[:count] if has_factors else None
    gains = take(4 * count, "<f4") if keeps_gains else None
    low_bits = take(count, "u1")
    width = -(-dim // 8) * 8
    folded = np.zeros((count, width), np.int64)
    for row, b in enumerate(low_bits):
        for plane in range(b):
            for byte, value in enumerate(take(width // 8, "u1")):
                for t in range(8):
                    folded[row, t * (width // 8) + byte] |= (int(value) >> t & 1) << plane
    at += -at % 8
    bits = iter(np.unpackbits(np.frombuffer(octets[at:], np.uint8), bitorder="little"))
    for row, b in enumerate(low_bits):
        for element in range(width):
            rest = 0
            while next(bits) == 0:
                rest += 1
            folded[row, element] |= rest << int(b)
    assert (folded[:, dim:] == 0).all()
    return PackedRows(count, flags, ids, scales, gains, np.where(folded & 1, -(folded + 1) // 2, folded // 2)[:, :dim])


def predictions(segment: Segment, page: int, dim: int) -> np.ndarray:
    """Give what the codes of a page say of its rows, (rows, dim) float32 in the index space."""
    codes = segment.codes
    assert codes is not None
    head = int(np.searchsorted(segment.page_offsets, page, side="right")) - 1
    of_pages = unflatten_postings(codes.page_codes, codes.page_book.code_bytes, segment.page_offsets)
    capacity, code_bytes = segment.layout.capacity, codes.row_book.code_bytes
    of_rows = codes.row_codes[: segment.n_pages * code_bytes * capacity].reshape(-1, code_bytes, capacity)
    centroid = segment.heads.vectors()[head] * np.float32(segment.heads.scale) + decode(
        codes.page_book, of_pages[[page]]
    )
    own = decode(codes.row_book, unpack_page(of_rows, page, int(codes.row_counts[page])))
    return (centroid + own)[:, :dim]
