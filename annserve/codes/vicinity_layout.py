"""The byte layout of a vicinity: codes of the rows near one posting page, on an SSD page of their own.

It must not change within a format version; see storage/FORMAT.md.

::

    0      4        8       10      12     16       16 + 4c   16 + (4 + b)c
    | crc  | page id | count | flags | salt | c places | b × c codes | c constants | c shrinks | zero |

Vicinity i belongs to posting page i and holds, up to its capacity ``c``, the rows to which that page's centroid is
near, the page's own above all. A row stands in some six vicinities, so the few vicinities around a query hold its
neighbours also where these lie on many pages. A row has a *place*: the number of its posting page times that page's
capacity, plus its slot there. Codes are transposed as in RAM (``codes.layout``): byte 0 of all rows, then byte 1 …

What lies behind the codes is longer than what a scan may read past their end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from annserve.codes.layout import SCAN_SLACK_BYTES
from annserve.errors import InputError
from annserve.spec import PAGE_HEADER_BYTES, IndexSpec

#: Stands in a vicinity's flags, so that it can't be taken for a posting page of the same number.
FLAG_VICINITY = 2
#: No row has this place.
NO_PLACE = 0xFFFF_FFFF
_PLACE_BYTES = 4
_FACTOR_BYTES = 2


@dataclass(frozen=True)
class VicinityLayout:
    """Offsets of a vicinity's parts, in bytes; see the picture above.

    Parameters
    ----------
    page_bytes : int
        The same as of a posting page.
    page_capacity : int
        Slots of a posting page.
    code_bytes : int
        Of a row's code.
    """

    page_bytes: int
    page_capacity: int
    code_bytes: int

    @classmethod
    def of(cls, spec: IndexSpec, code_bytes: int) -> VicinityLayout:
        """Give the layout that an index's facts imply."""
        return cls(spec.page_bytes, spec.page_capacity, code_bytes)

    @property
    def capacity(self) -> int:
        """Rows of a vicinity, at least those of its posting page."""
        return (self.page_bytes - PAGE_HEADER_BYTES) // (_PLACE_BYTES + self.code_bytes + _FACTOR_BYTES)

    @property
    def codes_offset(self) -> int:
        """Where the codes start."""
        return PAGE_HEADER_BYTES + _PLACE_BYTES * self.capacity

    @property
    def factors_offset(self) -> int:
        """Where the constants start; the shrinks follow them."""
        return self.codes_offset + self.code_bytes * self.capacity

    @property
    def dtype(self) -> np.dtype[Any]:
        """A vicinity as a record."""
        c = self.capacity
        assert _FACTOR_BYTES * c >= SCAN_SLACK_BYTES, f"a scan of {c} rows would leave the page"
        return np.dtype(
            {
                "names": [
                    "crc32c", "page_id", "count", "flags", "salt", "places", "codes", "constants", "shrinks",
                ],
                "formats": [
                    "<u4", "<u4", "<u2", "<u2", "<u4",
                    ("<u4", c), ("u1", (self.code_bytes, c)), ("u1", c), ("u1", c),
                ],
                "offsets": [
                    0, 4, 8, 10, 12,
                    PAGE_HEADER_BYTES, self.codes_offset, self.factors_offset, self.factors_offset + c,
                ],
                "itemsize": self.page_bytes,
            }
        )  # fmt: skip


def check_places(n_pages: int, page_capacity: int) -> None:
    """Make sure that every place has a number of 32 bits.

    Raises
    ------
    InputError
        If there are more.
    """
    if n_pages * page_capacity > NO_PLACE:
        raise InputError(
            f"{n_pages:,} pages of {page_capacity} rows are too many for codes on SSD, which can tell 2³²−1 places "
            "apart; keep codes in RAM, or split the rows over several indexes",
            field="codes",
        )
