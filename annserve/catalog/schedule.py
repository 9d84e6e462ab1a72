"""Which search runs when: a bounded queue for each collection, and a few searches at once, in fairness.

Invariants
----------
- A call waits only while as many searches run as may, and a batch is made only of calls that wait already: batching
  costs no call any time, and shares the cost of a search among many as soon as there are many.
- A call is taken in only if its turn is foreseen before its deadline, and the queue has room; else it is refused at
  once, with the time after which to come again. What is taken in and whose deadline passes is never begun.
- One call more may run if it is a batch by itself: at its ends it waits for the disk with nothing else to do.
- The collection that has had the least time goes next, of those that have calls waiting: a flood of one delays another
  by one batch for each search that may run at most.
- The threads that search are the callers' own. Whoever ends a search chooses the next batch and wakes the thread of its
  first call, which searches for all of them: one switch between threads, and none for a call that finds no other.
- An error of a batch is the error of one call of it: its calls are then searched one by one.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from annserve.catalog.catalog import Version
from annserve.errors import BusyError, DeadlineError, ServerError
from annserve.results import SearchResult
from annserve.search.aside import AS_IT_COMES, CacheUse
from annserve.search.clock import Deadline

#: Queries of a batch: more share the cost of a call no further, and make the last one wait.
BATCH_QUERIES = 64
#: Weight of the newest search in the running mean of seconds a query.
_NEWEST = 0.1
#: A search that took longer than so many times the mean met a stall, which the next one won't: it counts as so many.
_STALLED = 3.0
#: Seconds that a query is thought to take before any was measured.
_SECONDS_AT_FIRST = 0.001
#: Of the time left, the share that a call may be foreseen to wait: what is foreseen is a mean.
_PATIENCE = 0.8
#: Where a partial answer is wanted, the search is to end so much before the deadline: share of the time, and seconds.
_MARGIN, _MARGIN_MOST = 0.1, 0.02


#: Takes what is to be called when a caller goes away; says False where it has gone already.
Watch = Callable[[Callable[[], None]], bool]


class Ask(NamedTuple):
    """What a call wants.

    Attributes
    ----------
    queries : (nq, dim) array
    k : int
    recall_target : float
    rerank_queries : (nq, raw dim) array, optional
    rerank_candidates : int, optional
    cache : CacheUse
    """

    queries: npt.NDArray[np.generic]
    k: int
    recall_target: float
    rerank_queries: npt.NDArray[np.generic] | None = None
    rerank_candidates: int | None = None
    cache: CacheUse = AS_IT_COMES

    def search(self, version: Version, deadline: Deadline) -> SearchResult:
        """Do it."""
        return version.collection.search(
            self.queries,
            self.k,
            recall_target=self.recall_target,
            rerank_queries=self.rerank_queries,
            rerank_candidates=self.rerank_candidates,
            deadline=deadline,
            **self.cache._asdict(),
        )


@dataclass(eq=False, slots=True)
class Ticket:
    """A call that waits or runs, and what becomes of it.

    Attributes
    ----------
    version : Version
    ask : Ask
    deadline : Deadline
    key : object
        Calls of one key may be searched as one batch; None: alone.
    seconds : float
        That it is foreseen to take.
    batch : list of Ticket
        What its own thread is to search for, itself first; empty until its turn, and where another's thread does it.
    result, error
        What becomes of it.
    settled : bool
    woken : Lock, optional
        Released when it is settled, and when it is its thread's turn; None where that never waits.
    """

    version: Version
    ask: Ask
    deadline: Deadline
    key: object = None
    seconds: float = 0.0
    batch: Sequence[Ticket] = ()
    result: SearchResult | None = None
    error: BaseException | None = None
    settled: bool = False
    woken: threading.Lock | None = None

    def settle(self, result: SearchResult | None, error: BaseException | None = None) -> None:
        """Let the caller go on with this."""
        self.result, self.error, self.settled = result, error, True
        self.wake()

    def wake(self) -> None:
        """Let its thread look at what it has become."""
        if self.woken is not None:
            self.woken.release()


@dataclass
class Queue:
    """The calls of one collection that wait, and what the scheduler knows of it."""

    waiting: deque[Ticket] = field(default_factory=deque)
    #: Foreseen seconds of those that wait.
    ahead: float = 0.0
    #: Seconds of searches that the collection has had, on the clock by which the next one is chosen.
    had: float = 0.0
    #: Running mean of the seconds a query takes: planned, and of all rows.
    seconds: dict[bool, float] = field(default_factory=dict)

    def seconds_of(self, ask: Ask) -> float:
        """Foresee how long a call takes."""
        return len(ask.queries) * self.seconds.get(ask.recall_target == 1.0, _SECONDS_AT_FIRST)

    def learn(self, ask: Ask, n_queries: int, seconds: float) -> None:
        """Take a search that ended into the mean."""
        if n_queries:
            exact, newest = ask.recall_target == 1.0, seconds / n_queries
            before = self.seconds.get(exact, newest)
            self.seconds[exact] = before + _NEWEST * (min(newest, _STALLED * before) - before)


class Scheduler:
    """Runs the searches of a server; threads may share it.

    Parameters
    ----------
    at_once : int
        Searches that may run.
    waiting_max : int
        Calls of one collection that may wait.
    """

    def __init__(self, at_once: int, waiting_max: int) -> None:
        self._at_once, self._waiting_max = at_once, waiting_max
        self._queues: dict[str, Queue] = {}
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._running = 0
        self._clock = 0.0
        self._closed = False

    def search(self, version: Version, ask: Ask, deadline: Deadline, watch: Watch | None = None) -> SearchResult:
        """Search when it is this call's turn, and give what was found.

        Parameters
        ----------
        version : Version
            Held by the caller until this returns.
        ask : Ask
            Sizes are within limits.
        deadline : Deadline
            Of this call alone.
        watch : callable, optional
            Is given what is to be called if the caller goes away, as ``ServicerContext.add_callback`` is; says False
            where it has gone already.

        Raises
        ------
        BusyError
            If too many calls wait already, or the deadline would pass before the turn of this one.
        DeadlineError
            If the deadline passed, and no partial answer is wanted; or the call was cancelled.
        AnnserveError
            Whatever the search raises.
        """
        ticket = self._admit(version, ask, deadline)
        if watch is not None and not watch(lambda: self._abandon(ticket)):
            self._abandon(ticket)
        if ticket.woken is not None:
            self._wait(ticket)
        if ticket.batch:
            self._carry_out(ticket.batch)
            # A ring of references: everything of the batch would stay until the collector of rings comes by.
            ticket.batch = ()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.result is not None, "settled without a result"
        return ticket.result

    def give_way(self, seconds: float) -> bool:
        """Wait until no call waits and no more than one runs, at most so long; say whether that came about."""
        with self._lock:
            return self._idle.wait_for(lambda: self._running <= 1 and not self._any_waiting(), seconds)

    def load(self) -> dict[str, tuple[int, float]]:
        """Give for each collection the calls that wait, and the seconds that they are foreseen to take."""
        with self._lock:
            return {name: (len(queue.waiting), queue.ahead) for name, queue in self._queues.items()}

    @property
    def running(self) -> int:
        """Searches that run now."""
        return self._running

    def forget(self, name: str) -> None:
        """Let go of what is known of a collection that is gone."""
        with self._lock:
            if name in self._queues and not self._queues[name].waiting:
                del self._queues[name]

    def close(self) -> None:
        """Refuse calls that wait still and those that come, and wait until none is searched."""
        with self._lock:
            self._closed = True
            left = [ticket for queue in self._queues.values() for ticket in queue.waiting]
            self._queues.clear()
        for ticket in left:
            ticket.settle(None, ServerError("the server stops"))
        with self._lock:
            self._idle.wait_for(lambda: not self._running)

    def _wait(self, ticket: Ticket) -> None:
        """Wait until a call is settled, or its turn.

        Raises
        ------
        DeadlineError
            If its deadline comes first.
        """
        deadline = ticket.deadline
        # A partial answer comes from the search itself; everyone else stops waiting at the deadline.
        left = -1.0 if deadline.at == math.inf else max(deadline.at - time.monotonic(), 0.0)
        assert ticket.woken is not None, "it was to begin at once"
        if ticket.woken.acquire(timeout=left + (_MARGIN_MOST if deadline.partial and left >= 0 else 0.0)):
            return
        if self._withdraw(ticket) or not ticket.batch:
            # Where another's thread searches for it, that goes on for the other calls of its batch.
            raise DeadlineError("the deadline passed before the search ended; allow more time")
        # Its turn came in the last moment; who gave it has woken it already.
        ticket.woken.acquire()

    def _admit(self, version: Version, ask: Ask, deadline: Deadline) -> Ticket:
        now = time.monotonic()
        if now >= deadline.at:
            raise DeadlineError("the deadline passed before the search began; allow more time")
        with self._lock:
            if self._closed:
                raise ServerError("the server stops")
            queue = self._queue_of(version)
            if not queue.waiting:
                # Time in which a collection asked for nothing isn't saved up.
                queue.had = max(queue.had, self._clock)
            if self._running < self._most(ask) and not self._any_waiting():
                self._running += 1
                ticket = Ticket(version, ask, deadline)
                ticket.batch = (ticket,)
                return ticket
            wait = self._foreseen(queue)
            if len(queue.waiting) >= self._waiting_max:
                raise _busy(f"{len(queue.waiting)} calls of collection {version.name!r} wait already", wait)
            if wait > _PATIENCE * (deadline.at - now):
                raise _busy(f"the turn of this call would come in {wait:.3g} s, after most of its time", wait)
            ticket = Ticket(version, ask, deadline, _key_of(version, ask, deadline), queue.seconds_of(ask))
            ticket.woken = threading.Lock()
            ticket.woken.acquire()
            queue.waiting.append(ticket)
            queue.ahead += ticket.seconds
        return ticket

    def _queue_of(self, version: Version) -> Queue:
        queue = self._queues.get(version.name)
        if queue is None:
            queue = self._queues[version.name] = Queue()
        return queue

    def _foreseen(self, queue: Queue) -> float:
        """Foresee how long a further call of a queue waits: its own calls come in turn with those of the others."""
        others = sum(min(other.ahead, queue.ahead) for other in self._queues.values() if other is not queue)
        return (queue.ahead + others) / self._at_once

    def _withdraw(self, ticket: Ticket) -> bool:
        with self._lock:
            queue = self._queues.get(ticket.version.name)
            if queue is None or ticket not in queue.waiting:
                return False
            queue.waiting.remove(ticket)
            queue.ahead -= ticket.seconds
            return True

    def _abandon(self, ticket: Ticket) -> None:
        """End a call that nobody waits for: at once if it waits, before its next stage if it runs."""
        if ticket.settled:
            return
        ticket.deadline.cancel()
        if self._withdraw(ticket):
            ticket.settle(None, DeadlineError("the call was cancelled"))

    def _any_waiting(self) -> bool:
        return any(queue.waiting for queue in self._queues.values())

    def _carry_out(self, batch: Sequence[Ticket]) -> None:
        """Search for a batch that counts as running, in the thread of its first call, and let the next one begin."""
        begun = time.monotonic()
        try:
            _answer(batch)
        finally:
            spent = time.monotonic() - begun
            with self._lock:
                queue = self._queue_of(batch[0].version)
                queue.had += spent
                queue.learn(batch[0].ask, sum(len(ticket.ask.queries) for ticket in batch), spent)
                self._running -= 1
                self._begin_next()
                self._idle.notify_all()

    def _most(self, ask: Ask) -> int:
        """Give how many searches may run, a call that asks this among them."""
        return self._at_once + (len(ask.queries) > BATCH_QUERIES // 2)

    def _begin_next(self) -> None:
        """Let the collection that has had the least have its turn, if there is room."""
        queue = min((queue for queue in self._queues.values() if queue.waiting), key=lambda one: one.had, default=None)
        if queue is None or self._running >= self._most(queue.waiting[0].ask):
            return
        self._running += 1
        self._clock = max(self._clock, queue.had)
        batch = _taken(queue)
        batch[0].batch = batch
        batch[0].wake()


def _taken(queue: Queue) -> list[Ticket]:
    """Take the next batch of a queue: its first call, and those that can join it."""
    first = queue.waiting.popleft()
    batch, size = [first], len(first.ask.queries)
    if first.key is not None:
        passed_over: deque[Ticket] = deque()
        while queue.waiting and size < BATCH_QUERIES:
            ticket = queue.waiting.popleft()
            if ticket.key == first.key and size + len(ticket.ask.queries) <= BATCH_QUERIES:
                batch.append(ticket)
                size += len(ticket.ask.queries)
            else:
                passed_over.append(ticket)
        queue.waiting.extendleft(reversed(passed_over))
    queue.ahead = max(queue.ahead - sum(ticket.seconds for ticket in batch), 0.0) if queue.waiting else 0.0
    return batch


def _key_of(version: Version, ask: Ask, deadline: Deadline) -> object:
    """Give what calls must have in common to be searched as one; None for one that goes alone."""
    if deadline.partial or ask.rerank_queries is not None or len(ask.queries) > BATCH_QUERIES // 2:
        return None
    return id(version), ask.k, ask.recall_target, ask.cache, ask.queries.dtype.str, ask.queries.shape[1]


def _answer(batch: Sequence[Ticket]) -> None:
    """Search for the calls of a batch, and let each go on with what is its own."""
    now = time.monotonic()
    late = [ticket for ticket in batch if ticket.deadline.at <= now and not ticket.deadline.partial]
    for ticket in late:
        ticket.settle(None, DeadlineError("the deadline passed before the search began; allow more time"))
    batch = [ticket for ticket in batch if ticket not in late]
    if len(batch) > 1:
        try:
            results = _search_together(batch)
        except Exception:  # whose error it is shows below
            pass
        else:
            for ticket, result in zip(batch, results, strict=True):
                ticket.settle(result)
            return
    for ticket in batch:
        _answer_alone(ticket)


def _search_together(batch: Sequence[Ticket]) -> list[SearchResult]:
    """Search once for several calls; give what is each one's own."""
    queries = np.concatenate([ticket.ask.queries for ticket in batch])
    together = batch[0].ask._replace(queries=queries)
    found = together.search(batch[0].version, Deadline(max(ticket.deadline.at for ticket in batch)))
    ends = np.cumsum([len(ticket.ask.queries) for ticket in batch]).tolist()
    return [found.rows(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _answer_alone(ticket: Ticket) -> None:
    deadline = ticket.deadline
    if deadline.partial:
        left = deadline.at - time.monotonic()
        deadline.at -= min(_MARGIN * max(left, 0.0), _MARGIN_MOST)
    try:
        result = ticket.ask.search(ticket.version, deadline)
    except BaseException as error:
        ticket.settle(None, error)
    else:
        ticket.settle(result)


def _busy(why: str, wait: float) -> BusyError:
    return BusyError(f"{why}; come again later, or ask for less at once", retry_after_ms=max(round(wait * 1e3), 10))
