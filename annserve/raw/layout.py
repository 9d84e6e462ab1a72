"""The byte layout of a page of raw rows. It must not change within a format version; see storage/FORMAT.md.

::

    0      4        8          12     16
    | crc  | page id | reserved | salt | c rows of dim elements | zero |

A row has a *place*: the number of its posting page times that page's capacity, plus its slot there. Places are dealt
out in order, ``c`` to a page, so that from a place follow page and slot without a table. Places without a row, behind
the last one of a posting page, are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from annserve.spec import PAGE_BYTES_MIN, PAGE_HEADER_BYTES, IndexSpec


@dataclass(frozen=True)
class RawLayout:
    """How raw rows lie on pages, and what they are.

    Parameters
    ----------
    spec : IndexSpec
        Dimension, type and metric of the raw rows. Its page is that of INT8 rows and doesn't matter here.
    own : bool
        Whether they are the index's own rows; otherwise another encoder's.
    settle_above : float
        Recall targets above which own rows settle what INT8 leaves open; below, more pages are the cheaper way to
        the target. To the thousandth; 0 for another encoder's rows.
    """

    spec: IndexSpec
    own: bool
    settle_above: float = 0.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return np.dtype(self.spec.row_type).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.spec.dim * self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """Bytes of a page: the fewest 4,096 that hold a row."""
        return -(-(PAGE_HEADER_BYTES + self.row_bytes) // PAGE_BYTES_MIN) * PAGE_BYTES_MIN

    @property
    def capacity(self) -> int:
        """Places on a page (5 of 384 float16 dimensions, 1 of 768 float32 ones)."""
        return (self.page_bytes - PAGE_HEADER_BYTES) // self.row_bytes

    @property
    def page_dtype(self) -> np.dtype[Any]:
        """A page as a record."""
        return np.dtype(
            {
                "names": ["crc32c", "page_id", "reserved", "salt", "rows"],
                "formats": ["<u4", "<u4", "<u4", "<u4", (self.dtype, (self.capacity, self.spec.dim))],
                "offsets": [0, 4, 8, 12, PAGE_HEADER_BYTES],
                "itemsize": self.page_bytes,
            }
        )

    def n_pages(self, n_places: int) -> int:
        """Count the pages that so many places take."""
        return -(-n_places // self.capacity)
