"""Codes on their way: what the pass over all rows has made of each page, in files, so that it can be gone on with.

=================  =================================  =============================================================
file               a line                             holds
=================  =================================  =============================================================
``codes.rows``     of a page, uint8                   its rows' codes, (code_bytes, capacity)
``spreads.rows``   of a page, float32                 log of the mean squared residual of its rows
``drafts.rows``    of a row, 3 float32                a first estimate: constant, shrink, square of what is left out
=================  =================================  =============================================================
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from annserve.build.steps import Steps
from annserve.codes.layout import allocate_pages
from annserve.vectors.row_file import create_rows, open_rows

_NAMES = "codes", "spreads", "drafts"
_BLOCK_PAGES = 4_096


class Drafts:
    """The files above, open in the folder of a build whose step ``encode`` is being taken.

    Parameters
    ----------
    steps : Steps
    n_pages, n_rows : int
    code_bytes, page_capacity : int

    Attributes
    ----------
    pages_done : int
        Pages that an interrupted step had behind it.
    estimates : RowFile
        ``drafts.rows``.
    """

    def __init__(self, steps: Steps, n_pages: int, n_rows: int, code_bytes: int, page_capacity: int) -> None:
        self._steps, self._shape = steps, (n_pages, code_bytes, page_capacity)
        self.pages_done = int(steps.noted("encode").get("pages", 0))
        self._stack = ExitStack()
        lines = (n_pages, code_bytes * page_capacity, np.uint8), (n_pages, 1, np.float32), (n_rows, 3, np.float32)
        make = open_rows if self.pages_done else create_rows
        self._codes, self._spreads, self.estimates = (
            self._stack.enter_context(make(steps.folder / f"{name}.rows", count, dim, np.dtype(dtype)))
            for name, (count, dim, dtype) in zip(_NAMES, lines)
        )

    def write(
        self,
        first_page: int,
        first_row: int,
        codes: npt.NDArray[np.uint8],
        spreads: npt.NDArray[np.float32],
        estimates: npt.NDArray[np.float32],
    ) -> None:
        """Leave the codes (p, code_bytes, capacity) and spreads (p,) of pages, and estimates (m, 3) of their rows."""
        self._codes.write(first_page, codes.reshape(len(codes), -1))
        self._spreads.write(first_page, spreads[:, None])
        self.estimates.write(first_row, estimates)
        if self._steps.note_is_due():
            for file in (self._codes, self._spreads, self.estimates):
                file.sync()
            self._steps.note("encode", {"pages": first_page + len(codes)})

    def codes(self) -> npt.NDArray[np.uint8]:
        """Give all codes in RAM, as ``codes.layout.allocate_pages`` lays them out."""
        pages = allocate_pages(*self._shape)
        for first in range(0, len(pages), _BLOCK_PAGES):
            some = pages[first : first + _BLOCK_PAGES]
            some[:] = self._codes[first : first + len(some)].reshape(some.shape)
        return pages

    def spreads(self) -> npt.NDArray[np.float32]:
        """Give the spreads of all pages, (n_pages,)."""
        return np.ascontiguousarray(self._spreads[:][:, 0])

    def __enter__(self) -> Drafts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def remove_drafts(folder: Path) -> None:
    """Remove the files above, once the codes made of them are durable."""
    for name in _NAMES:
        (folder / f"{name}.rows").unlink(missing_ok=True)
