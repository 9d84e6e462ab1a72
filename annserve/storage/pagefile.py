"""What all page readers share: the open file, the check of a request, and the frames that are read into.

Invariants
----------
- A request is checked whole before its first byte is read.
- The descriptor is closed when the last user lets it go, so that closing a reader can't pull the file from
  under a read in another thread (or, worse, let that read hit a file that reused the number).
"""

from __future__ import annotations

import errno
import mmap
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError, InputError, NotFoundError, ReadError
from annserve.storage.request_kernels import bounds_of_request

#: Address, offset and length of a direct read are multiples of this; no device in use needs more.
ALIGNMENT = 4_096

#: Neighbouring pages are read in one operation up to this size: 64 KB reads cost a virtual disk about what
#: 4 KB ones do, and stay clear of the size where the kernel splits requests.
READ_BYTES_MAX = 65_536

_PAGE_ID, _PLACE, _BYTE = np.dtype(np.uint32), np.dtype(np.int64), np.dtype(np.uint8)
_UNFIT_FRAMES = "frames aren't writable, contiguous and aligned; use aligned_frames"


def pages_per_read(page_bytes: int) -> int:
    """Give the most pages of this size that one operation reads."""
    return max(1, READ_BYTES_MAX // page_bytes)


def aligned_frames(count: int, page_bytes: int) -> npt.NDArray[np.uint8]:
    """Allocate frames that direct reads can write into, without a copy.

    Parameters
    ----------
    count : int
        Number of frames.
    page_bytes : int
        Bytes of each, a multiple of 4,096.

    Returns
    -------
    (count, page_bytes) uint8, zeros, C-contiguous, at an address that is a multiple of 4,096
        Over anonymous memory that lives as long as the array or any view of it.
    """
    assert count >= 0, count
    assert page_bytes > 0, page_bytes
    assert page_bytes % ALIGNMENT == 0, page_bytes
    # A map can't be empty.
    memory = mmap.mmap(-1, max(count, 1) * page_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8).reshape(-1, page_bytes)[:count]


def own(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give a writable, contiguous array: this one, or a copy."""
    return array if array.flags.carray else array.copy()


def instead_of(passed_over: str) -> str:
    """Say, after how pages are read, what was passed over; nothing where it is the best way."""
    return f"; a fall-back, for {passed_over}" if passed_over else ""


class PageFile:
    """An open file with pages in it.

    Parameters
    ----------
    path : Path or str
        The file.
    data_offset : int
        Byte of the file at which page 0 starts, a multiple of 4,096.
    page_bytes : int
        Bytes of a page, a multiple of 4,096.
    n_pages : int
        Pages that the file holds.
    direct : bool
        Open it with O_DIRECT, past the page cache.

    Raises
    ------
    NotFoundError
        If there is no such file.
    CorruptionError
        If it ends before the last page does.
    ReadError
        If it can't be opened that way.
    """

    def __init__(self, path: Path | str, data_offset: int, page_bytes: int, n_pages: int, *, direct: bool) -> None:
        assert page_bytes > 0, page_bytes
        assert page_bytes % ALIGNMENT == 0, page_bytes
        assert data_offset >= 0, data_offset
        assert data_offset % ALIGNMENT == 0, data_offset
        assert 0 <= n_pages <= 1 << 32, n_pages
        self.path = Path(path)
        self.data_offset = data_offset
        self.page_bytes = page_bytes
        self.n_pages = n_pages
        #: Most pages that one operation reads.
        self.pages_per_read = pages_per_read(page_bytes)
        self.direct = direct
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0))
        except (FileNotFoundError, NotADirectoryError):
            self.fd = -1
            raise NotFoundError(f"there is no file {path}; check the index folder, or build it anew") from None
        except OSError as error:
            self.fd = -1
            raise self.failure(error.errno or 0, 0) from error
        self.check_size()

    def check_size(self) -> None:
        """Make sure that the file still holds every page."""
        size, needed = os.fstat(self.fd).st_size, self.data_offset + self.n_pages * self.page_bytes
        if size < needed:
            raise CorruptionError(
                f"{self.path} ends at byte {size}, but its pages end at {needed}; restore the file, "
                "or build the index anew",
                path=self.path,
                offset=size,
            )

    def check_request(
        self,
        page_ids: npt.NDArray[np.uint32],
        frames: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64] | None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Give page ids and places as readers trust them, or refuse the request before any read.

        Raises
        ------
        InputError
            If a page doesn't exist, or the frames can't take the pages.
        """
        if page_ids.dtype != _PAGE_ID or page_ids.ndim != 1:
            raise InputError(
                f"page ids are {page_ids.dtype} with {page_ids.ndim} axes; give one axis of uint32",
                field="page_ids",
            )
        if frames.dtype != _BYTE or frames.ndim != 2 or frames.shape[1] != self.page_bytes:
            raise InputError(
                f"frames are {frames.dtype} of shape {frames.shape}; give uint8 rows of {self.page_bytes}",
                field="frames",
            )
        if places is None:
            if len(frames) < len(page_ids):
                raise InputError(f"{len(page_ids)} pages don't fit in {len(frames)} frames", field="frames")
            places = np.arange(len(page_ids))
        elif places.dtype != _PLACE or places.shape != page_ids.shape:
            raise self._misplaced(places, frames)
        # Kernels are compiled for one type of array: writable and contiguous.
        page_ids, places = own(page_ids), own(places)
        if not frames.flags.carray:
            raise InputError(_UNFIT_FRAMES, field="frames")
        last_page, first_place, last_place, off = bounds_of_request(page_ids, places, frames, ALIGNMENT)
        if off:
            raise InputError(_UNFIT_FRAMES, field="frames")
        if last_page >= self.n_pages:
            raise InputError(
                f"page {last_page} of {self.path} was asked for, but it has {self.n_pages} pages",
                field="page_ids",
            )
        if first_place < 0 or last_place >= len(frames):
            raise self._misplaced(places, frames)
        return page_ids, places

    def _misplaced(self, places: npt.NDArray[Any], frames: npt.NDArray[np.uint8]) -> InputError:
        return InputError(
            f"places are {places.dtype} of shape {places.shape}; give an int64 below {len(frames)} for each page",
            field="places",
        )

    def run_starts(self, page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find where each operation of a request begins: neighbours on the disk and in the frames share one.

        Returns
        -------
        (r + 1,) int64
            Operation i reads ``page_ids[starts[i]:starts[i + 1]]``; the last entry is the number of pages.
        """
        n = len(page_ids)
        if n == 0:
            return np.zeros(1, np.int64)
        breaks = np.flatnonzero((np.diff(page_ids.astype(np.int64)) != 1) | (np.diff(places) != 1)) + 1
        runs = np.concatenate(([0], breaks, [n]))
        pieces = [np.arange(a, b, self.pages_per_read) for a, b in pairwise(runs)]
        return np.concatenate([*pieces, [n]])

    def failure(self, code: int, offset: int) -> ReadError:
        """Make the error for a read that the device refused with errno `code` at byte `offset`."""
        if code == errno.ENODATA:
            what = "the file ends there, before the page does; restore it, or build the index anew"
        else:
            what = f"{os.strerror(code).lower()}; check the device"
        return ReadError(f"{self.path} can't be read at byte {offset}: {what}", path=self.path, offset=offset)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)
