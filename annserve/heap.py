"""What is freed goes back to the system: a build's steps follow each other, and so do a server's versions."""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: mallopt(3): arrays of so many bytes are the system's again when they are freed; and heaps that threads share.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_RETURNED_BYTES, _ARENAS = 2 << 20, 2


def keep_nothing_freed() -> None:
    """Tell the C library to give large arrays back to the system when they are freed, instead of keeping them.

    It learns from arrays that are freed to keep ever larger ones (mallopt(3), M_MMAP_THRESHOLD), in a heap for each
    thread: a process would hold what its largest steps took until it ends. Libraries without the switch are left alone.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def return_what_is_free() -> None:
    """Let the C library give back what small arrays have left free."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
