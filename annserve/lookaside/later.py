"""What an answer leaves to be done for a cache, while the pages of a later query are being read.

A query that reads pages leaves them in its frames, and its answer where it is. The next one takes both in while it
waits for its own pages, which costs it nothing. Until then it finds the pages in those frames; that answer is kept at
once where somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_NO_KEYS, _NO_PAGES, _NO_PLACES = np.zeros((0, 2), np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.int64)
_NO_FRAMES = np.zeros((0, 1), np.uint8)


class Due(NamedTuple):
    """What is to be kept.

    Attributes
    ----------
    keys : (nq, 2) uint64
        Of the answers.
    page_ids, places : (p,) uint32, int64
        The pages, and the frame of each.
    frames : (≥ p, page_bytes) uint8
    keep : callable
        Keeps both.
    """

    keys: npt.NDArray[np.uint64]
    page_ids: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int64]
    frames: npt.NDArray[np.uint8]
    keep: Callable[[], None]


NOTHING = Due(_NO_KEYS, _NO_PAGES, _NO_PLACES, _NO_FRAMES, lambda: None)


class Later:
    """What is due, of one query for each thread at most; threads share it, and it may be lost at no harm."""

    def __init__(self) -> None:
        self._due: list[Due] = []

    @property
    def next(self) -> Due:
        """What is kept next."""
        # Both ends of a list are one step of the interpreter, so no lock is needed.
        try:
            return self._due[-1]
        except IndexError:
            return NOTHING

    def take(self) -> Due:
        """Give what is due, if anything is: nobody else keeps it until it is put back."""
        try:
            return self._due.pop()
        except IndexError:
            return NOTHING

    def put_back(self, due: Due) -> None:
        """Let others have what was taken."""
        if due is not NOTHING:
            self._due.append(due)

    def leave(self, due: Due) -> None:
        """Leave something, once what was left before is kept."""
        self.keep()
        self._due.append(due)

    def keep(self) -> None:
        """Keep what is due."""
        self.take().keep()
