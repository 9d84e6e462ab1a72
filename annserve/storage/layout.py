"""How a container lies on the disk: the byte layout of FORMAT.md as NumPy types. Values here must not change.

Everything is little-endian. A file is one header block, then the sections in the order of the table, each
aligned to 4,096 bytes; no byte of the file belongs to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Version of the container and of every layout inside one; a reader refuses any other.
FORMAT_VERSION = 1

#: Alignment of sections, and length of the header block: what a direct read must be aligned to.
BLOCK_BYTES = 4_096
SECTION_MAX = 55
NDIM_MAX = 3

SECTION_DTYPE = np.dtype(
    [
        ("name", "S16"),
        ("dtype", "<u4"),
        ("ndim", "<u4"),
        ("shape", "<u8", (NDIM_MAX,)),
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("crc32c", "<u4"),
        ("reserved", "<u4"),
    ]
)

HEADER_DTYPE = np.dtype(
    [
        ("magic", "S8"),
        ("format_version", "<u4"),
        ("crc32c", "<u4"),
        ("section_count", "<u4"),
        ("reserved_a", "<u4"),
        ("file_bytes", "<u8"),
        ("reserved_b", "V96"),
        ("sections", SECTION_DTYPE, (SECTION_MAX,)),
    ]
)
assert HEADER_DTYPE.itemsize <= BLOCK_BYTES

#: Codes of element types, as they stand in the table.
DTYPE_CODES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<u2"),
    4: np.dtype("<i2"),
    5: np.dtype("<u4"),
    6: np.dtype("<i4"),
    7: np.dtype("<u8"),
    8: np.dtype("<i8"),
    9: np.dtype("<f2"),
    10: np.dtype("<f4"),
    11: np.dtype("<f8"),
}
CODE_OF_DTYPE: dict[np.dtype[Any], int] = {dtype: code for code, dtype in DTYPE_CODES.items()}


def aligned(n_bytes: int) -> int:
    """Round up to whole blocks."""
    return -(-n_bytes // BLOCK_BYTES) * BLOCK_BYTES
