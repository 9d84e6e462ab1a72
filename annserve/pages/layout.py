"""The byte layout of a posting page. It must not change within a format version; see storage/FORMAT.md.

::

    0      4        8       10      12     16        16 + 8c
    | crc  | page id | count | flags | salt | c × u64 ids | c × f32 scales | c × f32 errors | c × dim rows | zero |
                                                            (float input only)

``c`` is the page's capacity: all parts have their place whatever the count, so that the slot is the position.
The checksum covers bytes 4 to the end, so it also covers the page's own number and the segment's salt: a page
that was read from the wrong place, or from another index, is found. Where rows are filed under several heads, the last
rows of a page may be replicas, copies of rows that are at home on another page; the flags count them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from annserve.spec import ID_BYTES, PAGE_HEADER_BYTES, IndexSpec

#: Set in a page's flags where rows carry scale and error.
FLAG_FACTORS = 1
#: The bits of the flags above count the page's replicas.
REPLICAS_SHIFT = 1

HEADER = np.dtype([("crc32c", "<u4"), ("page_id", "<u4"), ("count", "<u2"), ("flags", "<u2"), ("salt", "<u4")])


@dataclass(frozen=True)
class PageLayout:
    """Offsets of a page's parts, in bytes; see the picture above."""

    page_bytes: int
    capacity: int
    dim: int
    has_factors: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, spec: IndexSpec) -> PageLayout:
        """Give the layout that an index's facts imply."""
        return cls(spec.page_bytes, spec.page_capacity, spec.dim, not spec.lossless, spec.stored_dtype)

    @property
    def ids_offset(self) -> int:
        """Where the row ids start."""
        return PAGE_HEADER_BYTES

    @property
    def factors_offset(self) -> int:
        """Where the scales start; the errors follow them."""
        return self.ids_offset + ID_BYTES * self.capacity

    @property
    def rows_offset(self) -> int:
        """Where the rows' elements start."""
        return self.factors_offset + (8 * self.capacity if self.has_factors else 0)

    @property
    def flags(self) -> int:
        """The flags of every page of this layout, but for the count of replicas."""
        return FLAG_FACTORS if self.has_factors else 0
