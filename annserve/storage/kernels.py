"""Compiled loops of reading: pread of many pages, and an io_uring driven without Python.

io_uring, in short: the program writes requests (SQEs) and puts their numbers into the submission queue, one
``io_uring_enter`` hands them over and waits, and completions (CQEs) appear in the completion queue. Both
queues are memory shared with Linux, so heads and tails are read with acquire and written with release order.

A ring carries one batch at a time, for one thread: ``uring_start`` it, compute, ``uring_finish`` it.

Invariants
----------
- A request's number is its slot: at most ``len(slots)`` are in flight, as many as the submission queue has
  entries, so neither queue can overflow.
- When ``uring_finish`` returns, no request of that batch is in flight, whatever went wrong, unless the ring
  itself failed (``control[BROKEN]``): then it must not be used again.

References
----------
[1] Axboe, "Efficient IO with io_uring", 2019; struct layouts from linux/io_uring.h.
"""

# Compiled callees have no types that mypy knows; the kernels' contracts are held by their oracles.
# mypy: disable-error-code="no-any-return, return-value"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from annserve.kernels.jit import inline_kernel, kernel
from annserve.kernels.memory import load_acquire, load_u64, store_release, store_u64

_external: Any = types.ExternalFunction
_pointer: Any = types.CPointer

# ---------------------------------------------------------------------------------------------------------
# pread

_pread = _external("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))
_errno_location = _external("__errno_location", _pointer(types.int32)())

_EINTR, _EAGAIN, _EBUSY = 4, 11, 16
#: What a read says that meets the end of the file: no errno of a read, so it can't be mistaken.
END_OF_FILE = 61  # ENODATA


@inline_kernel
def _run_length(
    page_ids: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], start: int, n: int, longest: int
) -> int:
    """Count the entries from `start` on that are neighbours on the disk and in the frames, at most `longest`."""
    stop = min(n, start + longest)
    end = start + 1
    while (
        end < stop and np.int64(page_ids[end]) == np.int64(page_ids[end - 1]) + 1 and places[end] == places[end - 1] + 1
    ):
        end += 1
    return end - start


@kernel
def pread_pages(
    fd: int,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    frames: npt.NDArray[np.uint8],
    data_offset: int,
    pages_per_read: int,
) -> tuple[int, int]:
    """Read pages one operation after another.

    Parameters
    ----------
    fd : int
        The file.
    page_ids : (p,) uint32  # IN
    places : (p,) int64  # IN
        Frame of each page.
    frames : (f, page_bytes) uint8  # OUT
    data_offset : int
        Byte of page 0.
    pages_per_read : int
        Most pages of one operation.

    Returns
    -------
    (status, offset)
        Operations, or −errno (−`END_OF_FILE`) and the byte of the file at which it failed.
    """
    page_bytes = np.int64(frames.shape[1])
    n_reads, i = 0, 0
    while i < len(page_ids):
        run = _run_length(page_ids, places, i, len(page_ids), pages_per_read)
        address = np.int64(frames.ctypes.data) + places[i] * page_bytes
        offset = data_offset + np.int64(page_ids[i]) * page_bytes
        left = run * page_bytes
        while left > 0:
            got = _pread(np.int32(fd), np.uint64(address), np.uint64(left), offset)
            if got < 0:
                error = np.int64(_errno_location()[0])
                if error in (_EINTR, _EAGAIN):
                    continue
                return -error, offset
            if got == 0:
                return -END_OF_FILE, offset
            address += got
            offset += got
            left -= got
        n_reads += 1
        i += run
    return n_reads, np.int64(-1)


# ---------------------------------------------------------------------------------------------------------
# io_uring

_syscall = _external(
    "syscall",
    types.int64(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64),
)

_IO_URING_ENTER = 426
_ENTER_GETEVENTS = 1
_OP_READ = 22
_SQE_BYTES, _CQE_BYTES = 64, 16

#: A device may answer "again" when its tags run out; it gets this many chances for one request.
_RETRIES_MAX = 1_000

# Words of `control`.
RING_FD = 0  # descriptor of the ring
SQ_TAIL, SQ_MASK, SQ_ARRAY, SQES = 1, 2, 3, 4  # addresses; the mask is a number
CQ_HEAD, CQ_TAIL, CQ_MASK, CQES = 5, 6, 7, 8
N_FREE = 9  # slots that aren't in flight; their numbers stand in slots[:N_FREE, FREE]
N_QUEUED = 10  # requests in the submission queue that the kernel hasn't taken yet
BROKEN = 11  # errno with which the ring itself failed, or 0
# Of the batch that is on its way:
NEXT = 12  # entries of page_ids that have been queued
PENDING = 13  # requests in flight
N_READS = 14  # operations so far
ERROR = 15  # errno of the first request that failed, or 0
ERROR_OFFSET = 16  # its byte in the file
CONTROL_WORDS = 17

# Columns of `slots`: what is left to read of a request.
ADDRESS, OFFSET, LEFT, FILE, RETRIES, FREE = 0, 1, 2, 3, 4, 5
SLOT_WORDS = 6


class Ring(NamedTuple):
    """Everything that a kernel needs to drive a ring; made by ``uring.OwnedRing``, which keeps its memory.

    Attributes
    ----------
    control : (CONTROL_WORDS,) int64
        Addresses in the shared memory, counters, and how far the batch is.
    slots : (n_slots, SLOT_WORDS) int64
        Requests in flight.
    """

    control: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]


@kernel
def _queue(ring: Ring, slot: int) -> None:
    """Write the request of a slot and put it into the submission queue."""
    control, slots = ring.control, ring.slots
    sqe = control[SQES] + slot * _SQE_BYTES
    # opcode u8, flags u8, ioprio u16, fd i32 | off | addr | len u32, rw_flags u32 | user_data | …
    store_u64(sqe, np.int64(_OP_READ) | (slots[slot, FILE] << np.int64(32)))
    store_u64(sqe + 8, slots[slot, OFFSET])
    store_u64(sqe + 16, slots[slot, ADDRESS])
    store_u64(sqe + 24, slots[slot, LEFT])
    store_u64(sqe + 32, np.int64(slot))
    store_u64(sqe + 40, np.int64(0))
    store_u64(sqe + 48, np.int64(0))
    store_u64(sqe + 56, np.int64(0))
    tail = load_acquire(control[SQ_TAIL])
    place = np.int64(tail) & control[SQ_MASK]
    store_release(control[SQ_ARRAY] + 4 * place, np.uint32(slot))
    store_release(control[SQ_TAIL], np.uint32(tail + np.uint32(1)))
    control[N_QUEUED] += 1


@kernel
def _fill(
    ring: Ring,
    fd: int,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    n: int,
    frames: npt.NDArray[np.uint8],
    data_offset: int,
    pages_per_read: int,
) -> None:
    """Queue as much of a batch as there are free slots."""
    control, slots = ring.control, ring.slots
    page_bytes = np.int64(frames.shape[1])
    base = np.int64(frames.ctypes.data)
    i = control[NEXT]
    while i < n and control[N_FREE] > 0:
        run = _run_length(page_ids, places, i, n, pages_per_read)
        control[N_FREE] -= 1
        slot = slots[control[N_FREE], FREE]
        slots[slot, ADDRESS] = base + places[i] * page_bytes
        slots[slot, OFFSET] = data_offset + np.int64(page_ids[i]) * page_bytes
        slots[slot, LEFT] = run * page_bytes
        slots[slot, FILE] = fd
        slots[slot, RETRIES] = 0
        _queue(ring, slot)
        control[PENDING] += 1
        control[N_READS] += 1
        i += run
    control[NEXT] = i


@kernel
def _enter(ring: Ring, at_least: int) -> int:
    """Hand the queued requests over and wait for completions; 0, or the errno of a broken ring."""
    control = ring.control
    while True:
        taken = _syscall(
            np.int64(_IO_URING_ENTER),
            control[RING_FD],
            control[N_QUEUED],
            np.int64(at_least),
            np.int64(_ENTER_GETEVENTS),
            np.int64(0),
            np.int64(0),
        )
        if taken >= 0:
            control[N_QUEUED] -= taken
            return 0
        error = np.int64(_errno_location()[0])
        if error in (_EAGAIN, _EBUSY):
            # Completions must be taken before more is accepted: the caller reaps and comes again.
            return 0
        if error != _EINTR:
            control[BROKEN] = error
            return error


@kernel
def uring_reap(ring: Ring) -> int:
    """Take the completions that are there, without waiting; requests that fell short are queued again.

    Returns
    -------
    int
        Completions taken.
    """
    control, slots = ring.control, ring.slots
    head = load_acquire(control[CQ_HEAD])
    tail = load_acquire(control[CQ_TAIL])
    n_taken = 0
    while head != tail:
        cqe = control[CQES] + _CQE_BYTES * (np.int64(head) & control[CQ_MASK])
        slot = np.int64(load_u64(cqe))
        got = np.int64(np.int32(load_u64(cqe + 8) & np.uint64(0xFFFFFFFF)))
        # An entry may be reused by the kernel only once it has been read.
        head = np.uint32(head + np.uint32(1))
        store_release(control[CQ_HEAD], head)
        n_taken += 1
        if got > 0:
            slots[slot, ADDRESS] += got
            slots[slot, OFFSET] += got
            slots[slot, LEFT] -= got
            if slots[slot, LEFT] > 0:
                _queue(ring, slot)
                continue
        else:
            error = np.int64(END_OF_FILE) if got == 0 else -got
            if (error in (_EINTR, _EAGAIN)) and slots[slot, RETRIES] < _RETRIES_MAX:
                slots[slot, RETRIES] += 1
                _queue(ring, slot)
                continue
            if control[ERROR] == 0:
                control[ERROR] = error
                control[ERROR_OFFSET] = slots[slot, OFFSET]
        control[PENDING] -= 1
        slots[control[N_FREE], FREE] = slot
        control[N_FREE] += 1
    return n_taken


@kernel
def uring_start(
    ring: Ring,
    fd: int,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    n: int,
    frames: npt.NDArray[np.uint8],
    data_offset: int,
    pages_per_read: int,
) -> int:
    """Send a batch on its way without waiting; `uring_finish` with the same arguments must follow.

    Parameters
    ----------
    ring : Ring  # IN, OUT
        None of its own is on its way.
    fd : int
        The file; for direct reads frames and offsets are aligned.
    page_ids : (≥ n,) uint32  # IN
        Trusted: checked against the file by the caller.
    places : (≥ n,) int64  # IN
        Frame of each page.
    n : int
        Pages of the batch.
    frames : (f, page_bytes) uint8  # OUT
        Belong to the ring until the batch is finished.
    data_offset : int
        Byte of page 0.
    pages_per_read : int
        Most pages of one operation.

    Returns
    -------
    int
        0, or −errno if the ring itself failed.
    """
    ring.control[NEXT:CONTROL_WORDS] = 0
    _fill(ring, fd, page_ids, places, n, frames, data_offset, pages_per_read)
    return -_enter(ring, 0)


@kernel
def uring_finish(
    ring: Ring,
    fd: int,
    page_ids: npt.NDArray[np.uint32],
    places: npt.NDArray[np.int64],
    n: int,
    frames: npt.NDArray[np.uint8],
    data_offset: int,
    pages_per_read: int,
) -> int:
    """Wait until a batch has been read; arguments as those of `uring_start`.

    Returns
    -------
    int
        Operations, or −errno (−`END_OF_FILE`); ``control[ERROR_OFFSET]`` says at which byte. Nothing
        of the batch is in flight any more, unless ``control[BROKEN]``.
    """
    control = ring.control
    while True:
        if control[ERROR] == 0:
            _fill(ring, fd, page_ids, places, n, frames, data_offset, pages_per_read)
        pending = control[PENDING]
        if pending == 0:
            if control[ERROR] != 0:
                return -control[ERROR]
            if control[NEXT] >= n:
                return control[N_READS]
        # A last stretch is waited for whole; before, a quarter is enough to send more.
        waiting_to_go = control[ERROR] == 0 and control[NEXT] < n
        error = _enter(ring, max(1, pending // 4) if waiting_to_go else pending)
        if error != 0:
            return -error
        uring_reap(ring)
