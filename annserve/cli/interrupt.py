"""Ctrl-C that can't get lost.

Compilers and asynchronous libraries swallow a ``KeyboardInterrupt`` now and then, or make another error of it. So
it is remembered: whatever the error was, the command leaves as interrupted, and a build that went on stops at its
next event.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_seen = threading.Event()


@contextmanager
def interrupts_remembered() -> Iterator[None]:
    """Remember Ctrl-C until the block ends; outside of the main thread nothing can, and nothing is done."""
    _seen.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since the command began."""
    return _seen.is_set()


def raise_if_interrupted() -> None:
    """Raise the ``KeyboardInterrupt`` that somebody swallowed."""
    if _seen.is_set():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _seen.set()
    raise KeyboardInterrupt
