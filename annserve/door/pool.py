"""Threads for calls, and how many calls they have: whoever brings one more can see that it would wait too long."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CallPool(ThreadPoolExecutor):
    """A pool that is full once it has a call for each of its threads; what is brought to it all the same, it takes.

    Parameters
    ----------
    threads : int
        Made when they are needed.
    name : str
        Of the threads, for whoever looks at the process.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._n_threads = threads
        # next() on a count is one step of the interpreter: no lock, and no call is missed.
        self._brought, self._ended = itertools.count(1), itertools.count(1)
        self._n_brought = self._n_ended = 0

    @property
    def full(self) -> bool:
        """Whether a further call would wait for a thread."""
        return self._n_brought - self._n_ended >= self._n_threads

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Take a call; only gRPC's own thread brings some."""
        self._n_brought = next(self._brought)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._end)
        return future

    def _end(self, future: Future[Any]) -> None:
        self._n_ended = next(self._ended)


class AtOnce(ThreadPoolExecutor):
    """No pool at all: what is brought is done by whoever brings it. For refusals, which wait for nothing."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
