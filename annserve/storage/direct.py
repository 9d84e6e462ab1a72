"""The reader without io_uring: a pool of threads that call pread, with the GIL released.

Each operation blocks one thread, so the pool's size is the depth of the queue that the device sees.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from annserve.errors import ReadError
from annserve.storage import kernels
from annserve.storage.pagefile import PageFile, instead_of

#: Threads of a pool: one virtual disk gave 38 k reads a second at depth 8 and 56 k at 32.
POOL_THREADS = 32

#: Consecutive entries of a request, their places, and the frames.
Share = tuple[PageFile, npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.uint8]]


class PreadReader:
    """Reads pages with pread from many threads; see ``reader.PageReader`` for the contract."""

    name = "pread"
    passed_over = ""

    def __init__(self, file: PageFile) -> None:
        self.page_bytes = file.page_bytes
        self.n_pages = file.n_pages
        self.direct = file.direct
        self._path = file.path
        self._file: PageFile | None = file
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = -1

    def start(
        self,
        page_ids: npt.NDArray[np.uint32],
        frames: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64] | None = None,
    ) -> PoolRead:
        """Begin to fill ``frames[places[i]]`` with page ``page_ids[i]``; a lone operation waits for ``finish``."""
        file = self._file
        if file is None:
            raise ReadError(f"the reader of {self._path} is closed; open it anew", path=self._path)
        page_ids, places = file.check_request(page_ids, frames, places)
        starts = file.run_starts(page_ids, places)
        n_reads = len(starts) - 1
        shares = np.unique(np.linspace(0, n_reads, min(POOL_THREADS, n_reads) + 1).astype(np.int64))
        bounds = starts[shares]
        jobs = [(file, page_ids[a:b], places[a:b], frames) for a, b in pairwise(bounds)]
        if len(jobs) <= 1:
            return PoolRead(jobs, [])
        pool = self._threads()
        return PoolRead([], [pool.submit(_read_share, *job) for job in jobs])

    def read(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> int:
        """Fill ``frames[i]`` with page ``page_ids[i]``."""
        return self.start(page_ids, frames).finish()

    def describe(self) -> str:
        """Say in a line how pages are read."""
        way = "past the page cache (O_DIRECT)" if self.direct else "through the page cache"
        return f"pread from {POOL_THREADS} threads, {way}{instead_of(self.passed_over)}"

    def close(self) -> None:
        """Let the file and the threads go."""
        with self._lock:
            self._file = None
            # Not shut down: a read under way may be about to use it. Threads end with the last reference.
            self._pool = None

    def _threads(self) -> ThreadPoolExecutor:
        """Give the pool; a forked child has none of its parent's threads and gets its own."""
        with self._lock:
            if self._pool is None or self._pool_pid != os.getpid():
                self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="annserve-pread")
                self._pool_pid = os.getpid()
            return self._pool


@dataclass(frozen=True)
class PoolRead:
    """Shares of a batch: some for the caller to read, the rest in the pool's hands; see ``reader.PendingRead``."""

    own: list[Share]
    futures: list[Future[int]]

    def finish(self) -> int:
        """Wait until every page is in its frame; give the operations."""
        # All of them end before an error is raised: none may write into the frames later.
        errors = [error for future in self.futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return sum(future.result() for future in self.futures) + sum(_read_share(*share) for share in self.own)


def _read_share(
    file: PageFile, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], frames: npt.NDArray[np.uint8]
) -> int:
    status, offset = kernels.pread_pages(file.fd, page_ids, places, frames, file.data_offset, file.pages_per_read)
    if status < 0:
        raise file.failure(-status, offset)
    return int(status)
