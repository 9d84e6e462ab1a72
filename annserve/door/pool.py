"""Threads for calls, and how many calls they have: whoever brings one more can see that it would wait too long.

The thread that worked last works next, for its memory is warm; one that has had nothing to do for a while ends. So
there are as many threads as calls come side by side, not as many as there ever were in the worst moment.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

#: A thread that waits for so long without a call ends.
IDLE_SECONDS = 10.0


@dataclass(slots=True)
class Job:
    """A call, and the future of its outcome."""

    future: Future[Any]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def do(self) -> None:
        """Call, unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            found = self.fn(*self.args, **self.kwargs)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(found)


class Seat:
    """Where an idle thread waits for its next job; None is the last."""

    __slots__ = ("job", "turn")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.turn = threading.Lock()
        self.turn.acquire()

    def give(self, job: Job | None) -> None:
        """Wake the thread with this."""
        self.job = job
        self.turn.release()


class CallPool(ThreadPoolExecutor):
    """A pool that is full once it has a call for each of its threads; what is brought to it all the same, it takes.

    Its threads are its own: of the class that gRPC asks for, nothing but the interface is used.

    Parameters
    ----------
    threads : int
        At most; made when they are needed.
    name : str
        Of the threads, for whoever looks at the process.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self._most, self._name = threads, name
        self._lock = threading.Lock()
        self._seats: list[Seat] = []
        self._jobs: deque[Job] = deque()
        self._at_work: set[threading.Thread] = set()
        self._n_calls = 0
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether a further call would wait for a thread."""
        return self._n_calls >= self._most

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Take a call."""
        job = Job(Future(), fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the pool '{self._name}' is shut down")
            self._n_calls += 1
            if self._seats:
                self._seats.pop().give(job)
            elif len(self._at_work) >= self._most or not self._begin_thread(job):
                self._jobs.append(job)
        return job.future

    def _begin_thread(self, job: Job) -> bool:
        """Have a new thread do a job; False where the system gives none, which must not end whoever brought it."""
        seat = Seat()
        # A thread keeps its arguments for as long as it lives.
        seat.job = job
        thread = threading.Thread(target=self._work, args=(seat,), name=self._name, daemon=True)
        self._at_work.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._at_work.discard(thread)
            return False
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further call; wait until those are done that it has, or cancel those that haven't begun."""
        with self._lock:
            self._closed = True
            left = list(self._jobs) if cancel_futures else []
            seats, self._seats = self._seats, []
            threads = list(self._at_work)
        for job in left:
            job.future.cancel()
        for seat in seats:
            seat.give(None)
        for thread in threads if wait else ():
            thread.join()

    def _work(self, seat: Seat) -> None:
        job, seat.job = seat.job, None
        while job is not None:
            job.do()
            # A thread that waits shall keep nothing of its last call.
            job = None
            job = self._next(seat)
        with self._lock:
            self._at_work.discard(threading.current_thread())

    def _next(self, seat: Seat) -> Job | None:
        """Give the calling thread's next job; None ends it."""
        with self._lock:
            self._n_calls -= 1
            if self._jobs:
                return self._jobs.popleft()
            if self._closed:
                return None
            self._seats.append(seat)
        if not seat.turn.acquire(timeout=IDLE_SECONDS):
            with self._lock:
                if seat in self._seats:
                    self._seats.remove(seat)
                    return None
            # One came in the last moment.
            seat.turn.acquire()
        job, seat.job = seat.job, None
        return job


class AtOnce(ThreadPoolExecutor):
    """No pool at all: what is brought is done by whoever brings it. For refusals, which wait for nothing."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
