"""The reader of last resort: pages are copied out of the mapped page cache.

Linux is told ahead which pages are wanted and fetches them together, but the cache takes memory that the index
has a budget for, what it doesn't fetch in time stops the thread, and an I/O error kills the process by SIGBUS.
So it is there for systems where nothing else works.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, ReadError
from annserve.storage.pagefile import PageFile, instead_of


class MmapReader:
    """Reads pages by mapping the file; see ``reader.PageReader`` for the contract."""

    name = "mmap"
    passed_over = ""
    direct = False

    def __init__(self, file: PageFile) -> None:
        self.page_bytes = file.page_bytes
        self.n_pages = file.n_pages
        self._path = file.path
        self._opened: tuple[PageFile, mmap.mmap] | None = None
        end = file.data_offset + file.n_pages * file.page_bytes
        # A length of 0 would map the whole file; a file without pages is never read.
        memory = mmap.mmap(file.fd, end, prot=mmap.PROT_READ) if end else mmap.mmap(-1, 1)
        memory.madvise(mmap.MADV_RANDOM)
        self._opened = file, memory

    def start(
        self,
        page_ids: npt.NDArray[np.uint32],
        frames: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64] | None = None,
    ) -> MmapRead:
        """Tell Linux which pages will be wanted."""
        if self._opened is None:
            raise ReadError(f"the reader of {self._path} is closed; open it anew", path=self._path)
        file, memory = self._opened
        page_ids, places = file.check_request(page_ids, frames, places)
        starts = file.run_starts(page_ids, places)
        for start, stop in pairwise(starts):
            offset = file.data_offset + int(page_ids[start]) * file.page_bytes
            memory.madvise(mmap.MADV_WILLNEED, offset, int(stop - start) * file.page_bytes)
        return MmapRead(file, memory, page_ids, places, frames, starts)

    def read(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> int:
        """Fill ``frames[i]`` with page ``page_ids[i]``."""
        return self.start(page_ids, frames).finish()

    def describe(self) -> str:
        """Say in a line how pages are read."""
        way = "mmap, through the page cache (last resort: a failing disk ends the process)"
        return way + instead_of(self.passed_over)

    def close(self) -> None:
        """Let the file go."""
        self._opened = None


@dataclass(frozen=True)
class MmapRead:
    """Pages that Linux was told of; see ``reader.PendingRead``."""

    file: PageFile
    memory: mmap.mmap
    page_ids: npt.NDArray[np.uint32]
    places: npt.NDArray[np.int64]
    frames: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]

    def finish(self) -> int:
        """Copy the pages into their frames; give the operations."""
        file, page_ids = self.file, self.page_ids
        if len(page_ids) == 0:
            return 0
        # Touching a page beyond the end kills the process; a cut in the instant after this still does.
        try:
            file.check_size()
        except CorruptionError as error:
            raise ReadError(str(error), path=file.path, offset=error.offset) from None
        pages = np.frombuffer(self.memory, np.uint8, file.n_pages * file.page_bytes, file.data_offset)
        pages = pages.reshape(-1, file.page_bytes)
        for start, stop in pairwise(self.starts):
            first, n = self.places[start], stop - start
            # The ids are checked: "clip" only spares NumPy a buffer. It copies with the GIL released.
            np.take(pages, page_ids[start:stop], 0, out=self.frames[first : first + n], mode="clip")
        return len(self.starts) - 1
