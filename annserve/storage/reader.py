"""How pages are read: the contract of a reader, and which one a device gets.

All readers pass one conformance suite and differ in speed alone:

=========  ====================================================  ======================================
name       how                                                   when
=========  ====================================================  ======================================
``uring``  io_uring, the whole batch in flight on a ring of its  Linux ≥ 5.6 where containers allow it
           own; past the page cache (O_DIRECT)
``pread``  a pool of threads; O_DIRECT, or through the page      no io_uring, or a file system without
           cache where the file system refuses that              O_DIRECT
``mmap``   the mapped page cache                                 nothing else works
=========  ====================================================  ======================================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from annserve.errors import InputError, ReadError
from annserve.storage.direct import PreadReader
from annserve.storage.mmap import MmapReader
from annserve.storage.pagefile import PageFile, aligned_frames
from annserve.storage.uring import UringReader

__all__ = ["KINDS", "PageReader", "PendingRead", "aligned_frames", "open_reader"]

#: What `open_reader` accepts.
KINDS = ("auto", "uring", "pread", "mmap")


class PendingRead(Protocol):
    """A batch of pages on its way into frames."""

    def finish(self) -> int:
        """Wait until every page is in its frame.

        Returns
        -------
        int
            Read operations.

        Raises
        ------
        ReadError
            If the device fails or the file ends; frames hold anything, and the next read works.
        """


class PageReader(Protocol):
    """Reads pages of one file into frames; safe to share between threads.

    Attributes
    ----------
    name : str
        ``uring``, ``pread`` or ``mmap``.
    direct : bool
        Whether reads go past the page cache.
    page_bytes, n_pages : int
        Bytes of a page, and pages in the file.
    passed_over : str
        Which better ways didn't work here, and why; empty for the best.
    """

    passed_over: str

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def direct(self) -> bool: ...  # noqa: D102
    @property
    def page_bytes(self) -> int: ...  # noqa: D102
    @property
    def n_pages(self) -> int: ...  # noqa: D102

    def start(
        self,
        page_ids: npt.NDArray[np.uint32],
        frames: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64] | None = None,
    ) -> PendingRead:
        """Begin to fill ``frames[places[i]]`` with page ``page_ids[i]``, all reads in flight together, without waiting.

        Parameters
        ----------
        page_ids : (p,) uint32
            In any order, repeats allowed; neighbouring entries of consecutive pages and places share one operation.
        frames : (f, page_bytes) uint8
            Made by ``aligned_frames``, or whole rows of such an array. They belong to the device until the read
            is finished.
        places : (p,) int64, optional
            Frame of each page, each another; by default the first p frames.

        Returns
        -------
        PendingRead
            Must be finished, once, by the thread that started it. A thread may have several on their way, and finish
            them in any order.

        Raises
        ------
        InputError
            If a page doesn't exist or the frames don't fit; nothing has been read.
        ReadError
            If the device can't take the request.
        """

    def read(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> int:
        """Start a read and finish it; see ``start`` and ``PendingRead.finish``."""

    def describe(self) -> str:
        """Say in a line how pages are read, and what was passed over, for ``annserve inspect`` and the server's log."""

    def close(self) -> None:
        """Let the file go; a read under way in another thread still ends well."""


def open_reader(path: Path | str, data_offset: int, page_bytes: int, n_pages: int, kind: str = "auto") -> PageReader:
    """Open the best reader that proves to work on this file, or the one asked for.

    Parameters
    ----------
    path : Path or str
        File with the pages.
    data_offset : int
        Byte at which page 0 starts, a multiple of 4,096.
    page_bytes : int
        Bytes of a page, a multiple of 4,096.
    n_pages : int
        Pages in the file.
    kind : str
        ``auto`` tries io_uring and then pread past the page cache, pread through it, mmap. Any other name
        insists on that reader, and is content with the page cache where the file system refuses O_DIRECT.

    Returns
    -------
    PageReader

    Raises
    ------
    InputError
        If the kind is unknown or not available here; the message says why.
    NotFoundError, CorruptionError, ReadError
        If there is no such file, it is too short, or no reader can read it.
    """
    if kind not in KINDS:
        raise InputError(f"reader {kind!r} is unknown; use one of {', '.join(KINDS)}", field="reader")

    def pages(direct: bool) -> PageFile:
        return PageFile(path, data_offset, page_bytes, n_pages, direct=direct)

    # A missing or short file is no reader's fault: say so before trying any.
    plain = MmapReader(pages(direct=False))
    ladder: list[tuple[str, bool, Callable[[], PageReader]]] = [
        ("uring", True, lambda: UringReader(pages(direct=True))),
        ("uring", False, lambda: UringReader(pages(direct=False))),
        ("pread", True, lambda: PreadReader(pages(direct=True))),
        ("pread", False, lambda: PreadReader(pages(direct=False))),
        ("mmap", False, lambda: plain),
    ]
    # What auto leaves out: through the page cache a ring gains little over the pool.
    wanted = [
        (name, direct, make)
        for name, direct, make in ladder
        if kind == name or (kind == "auto" and (direct or name != "uring"))
    ]
    refusals: list[str] = []
    for name, direct, make in wanted:
        try:
            reader = make()
            _prove(reader, plain)
            reader.passed_over = "; ".join(refusals)
            return reader
        except (ReadError, OSError) as error:
            refusals.append(f"{name}{' past the page cache' if direct else ''}: {error}")
    reasons = "; ".join(refusals)
    if kind == "auto":
        raise ReadError(f"{path} can't be read by any reader: {reasons}", path=Path(path), offset=data_offset)
    raise InputError(
        f"reader {kind!r} isn't available for {path} ({reasons}); use 'auto' to take what works",
        field="reader",
    )


def _prove(reader: PageReader, plain: PageReader) -> None:
    """Read the first and the last page both ways and compare; some sandboxes accept a ring and break it."""
    if reader.n_pages == 0:
        return
    page_ids = np.array([0, reader.n_pages - 1], np.uint32)
    probed, expected = aligned_frames(2, reader.page_bytes), aligned_frames(2, reader.page_bytes)
    reader.read(page_ids, probed)
    plain.read(page_ids, expected)
    if not np.array_equal(probed, expected):
        raise ReadError("it gives other bytes than a plain read")
