"""A page cache that packs the pages that came to stay, and unpacks them while others are being read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from annserve.index.segment import Segment
from annserve.packed.packer import Packer, can_pack
from annserve.storage.cache import Absent, PageCache


class PackedCache:
    """The pages of an index in RAM; threads may share it.

    Parameters
    ----------
    pages : PageCache
        Of all pages of the index.
    segments : sequence of Segment
    packed : bool
        Pack the pages of segments that have the codes of their rows in RAM too.
    """

    def __init__(self, pages: PageCache, segments: Sequence[Segment], packed: bool) -> None:
        self.pages = pages
        self._packers = [Packer(segment) if packed and can_pack(segment) else None for segment in segments]
        self._firsts = np.cumsum([0, *(segment.n_pages for segment in segments)])

    def part(self, number: int) -> CachePart:
        """Give the cache as the segment of a number sees it."""
        return CachePart(self, self.pages.part(int(self._firsts[number])), self._packers[number])

    def pack(self, page_ids: npt.NDArray[np.uint32]) -> None:
        """Pack pages of the index that came to stay, as far as they are held still."""
        held, frames = self.pages.copied(page_ids)
        sizes = np.full(len(held), frames.shape[1], np.int64)
        owners = np.searchsorted(self._firsts, held, side="right") - 1
        for number in np.unique(owners):
            packer, of_it = self._packers[number], owners == number
            if packer is not None:
                own = frames[of_it]
                sizes[of_it] = packer.pack(held[of_it] - np.uint32(self._firsts[number]), own)
                frames[of_it] = own
        self.pages.shrink(held, frames, sizes)


class CachePart:
    """A cache as one segment of several sees it: its pages are numbered from 0, the bound is that of all."""

    def __init__(self, whole: PackedCache, pages: PageCache, packer: Packer | None) -> None:
        self._whole = whole
        #: Looks pages up; they may come packed.
        self.pages = pages
        self._packer = packer
        #: Whether all come whole.
        self.whole = packer is None

    def unpack(self, page_ids: npt.NDArray[np.uint32], absent: Absent, frames: npt.NDArray[np.uint8]) -> None:
        """Make pages whole that came from the cache; page i is in frame i, those of `absent` are left alone."""
        if self._packer is not None and len(absent.page_ids) < len(page_ids):
            held = np.ones(len(page_ids), np.bool_)
            held[absent.places] = False
            self._packer.unpack(page_ids, np.flatnonzero(held), frames)

    def keep(
        self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
    ) -> None:
        """Take in pages that were proven, unless another thread is at it; page i lies in frame ``places[i]``."""
        settled = self.pages.keep(page_ids, places, frames)
        if len(settled) and self._packer is not None:
            self._whole.pack(settled)
