"""Scratch that is made once and used again: it belongs to whoever searches just now, whichever thread that is.

A thread that kept its own would keep it while it does nothing, and a server has hundreds of threads where few search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Spares(Generic[T]):
    """Things of one kind that nobody uses; there are never more of them than were in use at once. Threads may share it.

    Parameters
    ----------
    make : callable
        Makes one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []

    def take(self) -> T:
        """Give one that is the caller's until it is given back: the last that was, whose memory is warm, or a new one.

        Whoever fails meanwhile needn't give it back.
        """
        # Both ends of a list are one step of the interpreter: no lock, and none is given twice.
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def give(self, one: T) -> None:
        """Give one back."""
        self._free.append(one)
