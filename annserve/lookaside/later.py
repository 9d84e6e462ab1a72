"""What an answer leaves to be done for a cache, while the pages of a later query are being read.

A query that reads pages leaves them in its frames, and its answer where it is. The next one takes both in while it
waits for its own pages, which costs it nothing; or before, where it asks for one of those pages or for that answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_NO_KEYS, _NO_PAGES = np.zeros((0, 2), np.uint64), np.zeros(0, np.uint32)


class Due(NamedTuple):
    """What is to be kept.

    Attributes
    ----------
    keys : (nq, 2) uint64
        Of the answers.
    page_ids : (p,) uint32
        The pages.
    keep : callable
        Keeps both.
    """

    keys: npt.NDArray[np.uint64]
    page_ids: npt.NDArray[np.uint32]
    keep: Callable[[], None]


NOTHING = Due(_NO_KEYS, _NO_PAGES, lambda: None)


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

    def leave(self, due: Due) -> None:
        """Leave something, once what was left before is kept."""
        self.keep()
        self._due.append(due)

    def keep(self) -> None:
        """Keep what is due."""
        try:
            due = self._due.pop()
        except IndexError:
            return
        due.keep()
