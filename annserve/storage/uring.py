"""The reader that keeps a whole batch in flight: io_uring, set up here and driven by kernels.

Invariants
----------
- One ring for each batch in flight, used again for later ones of whichever thread; a ring never crosses a fork.
- Ring and file live as long as anyone uses them; ``close`` only lets go.
- A ring that failed as such is dropped, and another read makes a new one.

Absent on purpose: registered buffers (pinned memory is limited to a few MiB by default), SQPOLL (burns a
core) and IOPOLL (needs polling queues).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import numpy as np
import numpy.typing as npt

from annserve.errors import ReadError
from annserve.spares import Spares
from annserve.storage import kernels
from annserve.storage.pagefile import PageFile, instead_of

#: Requests that one ring keeps in flight: a virtual disk gave 52 k reads a second at 32, 60 k at 128 and 78 k at
#: 512. What doesn't fit waits for the thread to come by.
DEPTH = 512

_IO_URING_SETUP = 425
_SINGLE_MMAP = 1 << 0
_MAP_SQES = 0x1000_0000
# Completions are delivered when the thread enters Linux next, not by interrupting it (Linux 5.19). Rings of a single
# thread, which can put them off until it asks (DEFER_TASKRUN, 6.1), cost a query as much, alone and in a batch.
_COOP_TASKRUN = 1 << 8

_PARAMS = np.dtype(
    [
        ("sq_entries", "u4"),
        ("cq_entries", "u4"),
        ("flags", "u4"),
        ("sq_thread_cpu", "u4"),
        ("sq_thread_idle", "u4"),
        ("features", "u4"),
        ("wq_fd", "u4"),
        ("reserved", "u4", (3,)),
        (
            "sq",
            [(name, "u4") for name in ("head", "tail", "mask", "entries", "flags", "dropped", "array", "reserved")]
            + [("user", "u8")],
        ),
        (
            "cq",
            [(name, "u4") for name in ("head", "tail", "mask", "entries", "overflow", "cqes", "flags", "reserved")]
            + [("user", "u8")],
        ),
    ]
)
assert _PARAMS.itemsize == 120


class OwnedRing:
    """A ring with the memory and the descriptor behind it; the descriptor is closed with the last reference.

    Parameters
    ----------
    depth : int
        Requests in flight at most; the kernel rounds up to a power of two.

    Attributes
    ----------
    arrays : kernels.Ring
        What kernels take. Valid while this object lives, for one thread at a time.
    pid : int
        Process that made it.

    Raises
    ------
    ReadError
        If this system gives no ring; the message says why.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self.pid = os.getpid()
        self._fd, params = _setup(depth)
        queues_bytes = max(
            int(params["sq"]["array"]) + 4 * int(params["sq_entries"]),
            int(params["cq"]["cqes"]) + 16 * int(params["cq_entries"]),
        )
        self._queues = _map_shared(self._fd, queues_bytes, 0)
        self._sqes = _map_shared(self._fd, 64 * int(params["sq_entries"]), _MAP_SQES)
        self.arrays = _ring_over(self._fd, params, self._queues, self._sqes)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)


class UringReader:
    """Reads pages with io_uring; see ``reader.PageReader`` for the contract."""

    name = "uring"
    passed_over = ""

    def __init__(self, file: PageFile, depth: int = DEPTH) -> None:
        self.page_bytes = file.page_bytes
        self.n_pages = file.n_pages
        self.direct = file.direct
        self.depth = depth
        self._path = file.path
        self._file: PageFile | None = file
        self._rings = Spares(lambda: OwnedRing(self.depth))
        # Fails here, not at the first read, where there is no io_uring.
        self.give_ring(self.take_ring())

    def start(
        self,
        page_ids: npt.NDArray[np.uint32],
        frames: npt.NDArray[np.uint8],
        places: npt.NDArray[np.int64] | None = None,
    ) -> UringRead:
        """Begin to fill ``frames[places[i]]`` with page ``page_ids[i]``."""
        file = self.file()
        page_ids, places = file.check_request(page_ids, frames, places)
        return UringRead(self, file, page_ids, places, frames)

    def read(self, page_ids: npt.NDArray[np.uint32], frames: npt.NDArray[np.uint8]) -> int:
        """Fill ``frames[i]`` with page ``page_ids[i]``."""
        return self.start(page_ids, frames).finish()

    def file(self) -> PageFile:
        """Give the open file; a kernel that reads by itself needs its descriptor and keeps it alive.

        Raises
        ------
        ReadError
            If the reader is closed.
        """
        file = self._file
        if file is None:
            raise ReadError(f"the reader of {self._path} is closed; open it anew", path=self._path)
        return file

    def take_ring(self) -> OwnedRing:
        """Give a ring of this process that nobody uses."""
        while (owned := self._rings.take()).pid != os.getpid():
            pass
        return owned

    def give_ring(self, owned: OwnedRing) -> None:
        """Take back a ring on which nothing is in flight."""
        self._rings.give(owned)

    def describe(self) -> str:
        """Say in a line how pages are read."""
        way = "past the page cache (O_DIRECT)" if self.direct else "through the page cache"
        return f"io_uring, {self.depth} reads in flight, {way}{instead_of(self.passed_over)}"

    def close(self) -> None:
        """Let the file and the rings that nobody uses go."""
        self._file = None
        self._rings = Spares(lambda: OwnedRing(self.depth))


class UringRead:
    """A batch in flight on a ring; see ``reader.PendingRead``. It keeps ring, file and frames alive."""

    def __init__(
        self,
        reader: UringReader,
        file: PageFile,
        page_ids: npt.NDArray[np.uint32],
        places: npt.NDArray[np.int64],
        frames: npt.NDArray[np.uint8],
    ) -> None:
        self._reader = reader
        self._owned = reader.take_ring()
        self._file = file
        self._request = page_ids, places, len(page_ids), frames, file.data_offset, file.pages_per_read
        self._check(kernels.uring_start(self._owned.arrays, file.fd, *self._request))

    def finish(self) -> int:
        """Wait until every page is in its frame; give the operations."""
        status = self._check(kernels.uring_finish(self._owned.arrays, self._file.fd, *self._request))
        self._reader.give_ring(self._owned)
        return status

    def _check(self, status: int) -> int:
        if status >= 0:
            return int(status)
        path, control = self._file.path, self._owned.arrays.control
        if control[kernels.BROKEN]:
            raise ReadError(
                f"the io_uring that reads {path} failed: {os.strerror(-status).lower()}; "
                "try again, or choose the reader 'pread'",
                path=path,
            )
        offset = int(control[kernels.ERROR_OFFSET])
        self._reader.give_ring(self._owned)
        raise self._file.failure(-status, offset)


def _setup(depth: int) -> tuple[int, npt.NDArray[np.void]]:
    """Ask the kernel for a ring; give its descriptor and the parameters that it filled in."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A kernel that doesn't know the flags answers EINVAL.
    for flags in (_COOP_TASKRUN, 0):
        params = np.zeros(1, _PARAMS)
        params["flags"] = flags
        fd = libc.syscall(_IO_URING_SETUP, ctypes.c_uint(depth), ctypes.c_void_p(params.ctypes.data))
        code = ctypes.get_errno()
        if fd >= 0 or code != errno.EINVAL:
            break
    if fd < 0:
        raise ReadError(
            f"io_uring isn't available: {os.strerror(code).lower()} (switched off in "
            "/proc/sys/kernel/io_uring_disabled, or by the container's system call filter?)"
        )
    if not params[0]["features"] & _SINGLE_MMAP:
        os.close(fd)
        raise ReadError("io_uring isn't available: Linux is older than 5.4")
    return fd, params[0]


def _map_shared(fd: int, n_bytes: int, offset: int) -> npt.NDArray[np.uint8]:
    memory = mmap.mmap(
        fd,
        n_bytes,
        flags=mmap.MAP_SHARED | mmap.MAP_POPULATE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        offset=offset,
    )
    return np.frombuffer(memory, np.uint8)


def _ring_over(
    fd: int, params: npt.NDArray[np.void], queues: npt.NDArray[np.uint8], sqes: npt.NDArray[np.uint8]
) -> kernels.Ring:
    """Lay out the arrays that kernels take over the mapped memory."""
    sq, cq, base = params["sq"], params["cq"], queues.ctypes.data

    def number(offset: int) -> int:
        return int(queues[offset : offset + 4].view(np.uint32)[0])

    n_slots = int(params["sq_entries"])
    control = np.zeros(kernels.CONTROL_WORDS, np.int64)
    control[kernels.RING_FD] = fd
    control[kernels.SQ_TAIL] = base + int(sq["tail"])
    control[kernels.SQ_MASK] = number(int(sq["mask"]))
    control[kernels.SQ_ARRAY] = base + int(sq["array"])
    control[kernels.SQES] = sqes.ctypes.data
    control[kernels.CQ_HEAD] = base + int(cq["head"])
    control[kernels.CQ_TAIL] = base + int(cq["tail"])
    control[kernels.CQ_MASK] = number(int(cq["mask"]))
    control[kernels.CQES] = base + int(cq["cqes"])
    control[kernels.N_FREE] = n_slots
    slots = np.zeros((n_slots, kernels.SLOT_WORDS), np.int64)
    slots[:, kernels.FREE] = np.arange(n_slots)
    return kernels.Ring(control, slots)
