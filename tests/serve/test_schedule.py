"""Who searches when: fairness, bounds, batches of what waits, deadlines and calls that go away."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from annserve.catalog.catalog import Version
from annserve.catalog.schedule import BATCH_QUERIES, Ask, Queue, Scheduler
from annserve.errors import BusyError, CorruptionError, DeadlineError, InputError, ServerError
from annserve.results import SearchResult, SearchStats
from annserve.search.clock import Deadline

BAD = 99.0


class Engine:
    """Gives each query's first element back as its id; searches wait at a gate, and are noted."""

    n_rows = 1_000

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[float]] = []

    def search(self, queries, k=10, *, deadline=None, **asked):
        self.batches.append(queries[:, 0].tolist())
        self.entered.release()
        while not self.gate.wait(0.005):
            if time.monotonic() >= deadline.at:
                if deadline.partial:
                    break
                raise DeadlineError("time is over")
        if BAD in queries[:, 0]:
            raise CorruptionError("a bad page")
        ids = np.repeat(queries[:, :1], k, axis=1).astype(np.uint64)
        late = np.full(len(queries), time.monotonic() >= deadline.at)
        counts = {name: np.full(len(queries), len(queries)) for name in SearchStats.COUNTS}
        return SearchResult(ids, ids.astype(np.float32), SearchStats(**counts), late)

    def info(self):
        return {}

    def close(self):
        pass


class Bench:
    """A scheduler before collections that note what they are asked, and callers at hand."""

    def __init__(self, threads: int, waiting_max: int = 50) -> None:
        self.scheduler = Scheduler(threads, waiting_max)
        self.callers = ThreadPoolExecutor(200)
        self.versions: dict[str, Version] = {}

    def version(self, name: str) -> Version:
        if name not in self.versions:
            self.versions[name] = Version(name, Engine(), 1, {})
        return self.versions[name]

    def engine(self, name: str = "a") -> Engine:
        return self.version(name).collection

    def ask(self, *values, name="a", k=3, target=0.9, deadline=None, watch=None):
        ask = Ask(np.array([[value, 0] for value in values], np.float32), k, target)
        return self.callers.submit(self.scheduler.search, self.version(name), ask, deadline or Deadline(), watch)

    def hold(self, name: str = "a"):
        """Keep one thread in a search until the gate opens."""
        self.engine(name).gate.clear()
        self.engine(name).entered = threading.Semaphore(0)
        held = self.ask(0, name=name)
        assert self.engine(name).entered.acquire(timeout=5)
        return held

    def wait_for(self, n_waiting: int, name: str = "a") -> None:
        until = time.monotonic() + 5
        while self.scheduler.load().get(name, (0, 0))[0] != n_waiting:
            assert time.monotonic() < until, self.scheduler.load()
            time.sleep(0.002)


@pytest.fixture
def bench():
    made: list[Bench] = []

    def make(threads=1, waiting_max=50):
        made.append(Bench(threads, waiting_max))
        return made[-1]

    yield make
    for one in made:
        for version in one.versions.values():
            version.collection.gate.set()
        one.callers.shutdown()
        one.scheduler.close()


def test_an_idle_server_searches_at_once_and_alone(bench):
    b = bench(2)
    assert b.ask(7).result(5).ids.tolist() == [[7, 7, 7]]
    assert b.engine().batches == [[7]]


def test_calls_that_wait_become_one_batch_and_each_gets_its_own_rows(bench):
    b = bench()
    held = b.hold()
    calls = []
    for i in range(10):
        calls.append(b.ask(10 + i, 20 + i))
        b.wait_for(i + 1)
    b.engine().gate.set()
    results = [call.result(5) for call in calls]
    assert [result.ids[:, 0].tolist() for result in results] == [[10 + i, 20 + i] for i in range(10)]
    assert all(len(result.stats.pages_read) == 2 for result in results)
    assert len(b.engine().batches) == 2
    held.result(5)


def test_the_first_caller_of_a_batch_searches_for_all_even_where_its_own_time_is_over(bench):
    """Its thread is woken, and finds its deadline passed; those beside it get their answers all the same."""
    b = bench()
    held = b.hold()
    late = b.ask(1, deadline=Deadline(time.monotonic() + 60))
    b.wait_for(1)
    beside = [b.ask(2), b.ask(3)]
    b.wait_for(3)
    b.scheduler._queues["a"].waiting[0].deadline.at = time.monotonic()
    b.engine().gate.set()
    assert isinstance(late.exception(5), DeadlineError)
    assert [call.result(5).ids[0, 0] for call in beside] == [2, 3]
    assert b.engine().batches[1] == [2, 3]
    held.result(5)


def test_a_call_that_is_a_batch_by_itself_begins_beside_one_that_runs(bench):
    """One more than may run otherwise, and only one; what is small waits for its turn."""
    b = bench()
    held = b.hold()
    large = [b.ask(*range(BATCH_QUERIES)) for _ in range(2)]
    assert b.engine().entered.acquire(timeout=5)
    small = b.ask(7)
    b.wait_for(2)
    assert b.scheduler.running == 2
    b.engine().gate.set()
    for call in (held, *large, small):
        call.result(5)
    assert b.scheduler.running == 0


def test_what_a_call_held_is_free_when_its_answer_is(bench):
    """No ring of references is left, which only the collector would end: alone, and in a batch."""
    b = bench()
    gc.disable()
    try:
        held = b.hold()
        waiting = [b.ask(value) for value in (1, 2, 3)]
        b.wait_for(3)
        b.engine().gate.set()
        answers = [weakref.ref(call.result(5).stats) for call in (held, *waiting)]
        del held, waiting
        until = time.monotonic() + 5
        while any(answer() is not None for answer in answers):  # their threads let go a moment later
            assert time.monotonic() < until
            b.ask(4).result(5)
    finally:
        gc.enable()


def its_turn_comes(b: Bench) -> None:
    """End the search that runs, and wait until the next one is told to begin."""
    b.engine().gate.set()
    until = time.monotonic() + 5
    while b.scheduler.load()["a"][0]:
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_turn_that_comes_before_a_call_waits_for_it_is_taken(bench):
    b = bench()
    b.hold()
    assert b.ask(7, watch=lambda gone: its_turn_comes(b) is None).result(5).ids.tolist() == [[7, 7, 7]]
    assert b.ask(8).result(5).ids.tolist() == [[8, 8, 8]]


def test_a_turn_that_comes_in_the_moment_of_the_deadline_ends_this_call_alone(bench, monkeypatch):
    b = bench()
    b.hold()
    withdraw = b.scheduler._withdraw
    monkeypatch.setattr(b.scheduler, "_withdraw", lambda ticket: its_turn_comes(b) or withdraw(ticket))
    late = b.ask(1, deadline=Deadline(time.monotonic() + 0.2))
    b.wait_for(1)
    beside = [b.ask(value) for value in (2, 3)]
    b.wait_for(3)
    with pytest.raises(DeadlineError):
        late.result(5)
    assert [call.result(5).ids.tolist() for call in beside] == [[[2, 2, 2]], [[3, 3, 3]]]


def test_no_thread_searches_but_those_of_callers(bench):
    before = set(threading.enumerate())
    b = bench(3)
    assert set(threading.enumerate()) == before
    searched: list[str] = []
    b.engine().search = lambda *a, **kw: searched.append(threading.current_thread().name) or 1 / 0
    assert isinstance(b.ask(1).exception(5), ZeroDivisionError)
    assert searched[0].startswith("ThreadPoolExecutor")


def test_only_calls_that_ask_alike_share_a_batch_and_none_grows_beyond_its_bound(bench):
    b = bench()
    b.hold()
    b.ask(1, k=5)
    b.wait_for(1)
    b.ask(2, k=6)
    b.wait_for(2)
    b.ask(3, k=5)
    b.wait_for(3)
    b.ask(4, k=5, target=0.95)
    b.wait_for(4)
    many = [b.ask(*range(100, 100 + BATCH_QUERIES // 4), k=7) for _ in range(6)]
    b.wait_for(10)
    b.engine().gate.set()
    for call in many:
        call.result(5)
    batches = b.engine().batches[1:]
    assert batches[:3] == [[1, 3], [2], [4]]
    assert max(len(batch) for batch in batches) == BATCH_QUERIES


def test_an_error_of_one_call_is_not_that_of_those_beside_it(bench):
    b = bench()
    b.hold()
    calls = [b.ask(1), b.ask(BAD), b.ask(2)]
    b.wait_for(3)
    b.engine().gate.set()
    assert isinstance(calls[1].exception(5), CorruptionError)
    assert [calls[i].result(5).ids[0, 0] for i in (0, 2)] == [1, 2]


def test_a_batch_whose_answer_cannot_be_taken_apart_leaves_nobody_waiting(bench):
    b = bench()
    search = b.engine().search
    b.engine().search = lambda queries, k, **asked: None if len(queries) > 1 else search(queries, k, **asked)
    b.hold()
    calls = [b.ask(i) for i in range(3)]
    b.wait_for(3)
    b.engine().gate.set()
    assert [call.result(5).ids[0, 0] for call in calls] == [0, 1, 2]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(bench):
    b = bench(waiting_max=3)
    b.hold()
    waiting = [b.ask(i) for i in range(3)]
    b.wait_for(3)
    begun = time.monotonic()
    refused = b.ask(9).exception(5)
    assert time.monotonic() - begun < 1
    assert isinstance(refused, BusyError)
    assert refused.retry_after_ms >= 10
    # Another collection has a queue of its own.
    other = b.ask(5, name="b")
    b.wait_for(1, "b")
    b.engine().gate.set()
    assert [call.result(5).ids[0, 0] for call in (*waiting, other)] == [0, 1, 2, 5]


def test_a_call_that_would_come_too_late_is_refused_and_not_kept_waiting(bench):
    b = bench()
    queue_seconds = 0.05
    b.ask(1).result(5)
    b.scheduler._queues["a"].seconds[False] = queue_seconds
    b.hold()
    for i in range(10):
        b.ask(i)
        b.wait_for(i + 1)
    assert isinstance(b.ask(5, deadline=Deadline(time.monotonic() + 0.4)).exception(5), BusyError)
    assert b.scheduler.load()["a"][0] == 10
    patient = b.ask(5, deadline=Deadline(time.monotonic() + 60))
    b.engine().gate.set()
    assert patient.result(5).ids[0, 0] == 5


def test_one_search_that_stalls_refuses_nobody_after_it():
    queue, ask = Queue(), Ask(np.zeros((1, 2), np.float32), 3, 0.9)
    for seconds in (0.001, 0.001, 2.0):
        queue.learn(ask, 1, seconds)
    assert queue.seconds_of(ask) < 0.0015
    for _ in range(40):  # where all are slow, that's soon known
        queue.learn(ask, 1, 0.02)
    assert queue.seconds_of(ask) > 0.015


def test_a_flood_of_one_collection_delays_another_by_one_batch(bench):
    b = bench()
    b.hold()
    flood = [b.ask(*range(BATCH_QUERIES // 2)) for _ in range(20)]
    b.wait_for(20)
    b.ask(1, name="b")
    b.wait_for(1, "b")
    order: list[str] = []
    for name in ("a", "b"):
        b.engine(name).search = noted(order, name, b.engine(name).search)
    b.engine().gate.set()
    for call in flood:
        call.result(10)
    assert order.index("b") <= 1


def noted(order, name, search):
    """Note whose turn it is, and take some time."""

    def slow(*arguments, **asked):
        order.append(name)
        time.sleep(0.01)
        return search(*arguments, **asked)

    return slow


def test_a_deadline_that_passes_in_the_queue_ends_the_call_and_it_is_never_searched(bench):
    b = bench()
    b.hold()
    late = b.ask(5, deadline=Deadline(time.monotonic() + 0.1))
    assert isinstance(late.exception(5), DeadlineError)
    b.engine().gate.set()
    b.ask(6).result(5)
    assert [5] not in b.engine().batches


def test_a_deadline_that_passes_in_the_search_ends_it_or_gives_a_part(bench):
    b = bench()
    b.engine().gate.clear()
    late = b.ask(*range(BATCH_QUERIES), deadline=Deadline(time.monotonic() + 0.2))
    assert isinstance(late.exception(5), DeadlineError)
    end = time.monotonic() + 0.5
    deadline = Deadline(end, partial=True)
    assert b.ask(5, deadline=deadline).result(5).partial
    assert deadline.at < end, "time is kept for the answer's way back"


def test_a_caller_that_goes_away_frees_its_place_and_ends_its_search(bench):
    b = bench()
    gone: list = []

    def watch(callback):
        gone.append(callback)
        return True

    b.engine().gate.clear()
    running = b.ask(*range(BATCH_QUERIES), watch=watch)
    assert b.engine().entered.acquire(timeout=5)
    waiting = b.ask(2, watch=watch)
    b.wait_for(1)
    for callback in gone:
        callback()
    assert isinstance(waiting.exception(5), DeadlineError)
    assert isinstance(running.exception(5), DeadlineError)
    assert b.scheduler.load()["a"][0] == 0
    assert isinstance(b.ask(3, watch=lambda callback: False).exception(5), DeadlineError)
    b.engine().gate.set()
    assert b.ask(4).result(5).ids[0, 0] == 4


def test_whoever_gives_way_waits_until_nobody_else_does(bench):
    b = bench(2)
    assert b.scheduler.give_way(1)
    b.engine("b").gate.clear()
    held = [b.hold(), b.ask(1, name="b")]
    assert b.engine("b").entered.acquire(timeout=5)
    assert not b.scheduler.give_way(0.05)
    for name in ("a", "b"):
        b.engine(name).gate.set()
    for call in held:
        call.result(5)
    assert b.scheduler.give_way(5)


def test_an_error_of_any_kind_reaches_its_caller_and_the_thread_goes_on(bench):
    b = bench()
    b.engine().search = lambda *a, **kw: (_ for _ in ()).throw(InputError("k is wrong"))
    assert isinstance(b.ask(1).exception(5), InputError)
    b.engine().search = lambda *a, **kw: 1 / 0
    assert isinstance(b.ask(1).exception(5), ZeroDivisionError)
    del b.engine().search
    assert b.ask(1).result(5).ids[0, 0] == 1


def test_closing_refuses_those_that_wait(bench):
    b = bench()
    held = b.hold()
    waiting = b.ask(1)
    b.wait_for(1)
    closing = threading.Thread(target=b.scheduler.close)
    closing.start()
    assert isinstance(waiting.exception(5), ServerError)
    b.engine().gate.set()
    held.result(5)
    closing.join(5)
    assert isinstance(b.ask(1).exception(5), ServerError)


def test_many_calls_of_many_kinds_all_get_their_own_answers(bench):
    """Random sizes, kinds and collections from many callers: no answer is lost, mixed up or given twice."""
    b = bench(3, waiting_max=1_000)
    rng = np.random.default_rng(3)
    calls = []
    for i in range(600):
        values = rng.integers(0, 90, rng.integers(1, 9)).tolist()
        calls.append((values, b.ask(*values, name="ab"[i % 2], k=int(rng.integers(1, 4)))))
    for values, call in calls:
        assert call.result(20).ids[:, 0].tolist() == values
    assert all(n == 0 for n, _ in b.scheduler.load().values())
