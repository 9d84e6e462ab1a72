"""Threads for calls: as many as calls come side by side, the warmest first, none for ever."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from annserve.door import pool as pools
from annserve.door.pool import CallPool


@pytest.fixture
def pool():
    made = CallPool(4, "test-pool")
    yield made
    made.shutdown()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "test-pool"}


def wait_until(seen) -> None:
    until = time.monotonic() + 5
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_calls_one_after_another_are_the_same_threads(pool):
    ids = set()
    for _ in range(20):
        ids.add(pool.submit(threading.get_ident).result(5))
        wait_until(lambda: len(pool._seats) == 1)
    assert len(ids) == 1


def test_the_thread_that_worked_last_works_next(pool):
    gates = [threading.Event() for _ in range(4)]
    calls = [pool.submit(lambda gate=gate: gate.wait(5) and threading.get_ident()) for gate in gates]
    for i in (2, 0, 3, 1):
        gates[i].set()
        calls[i].result(5)
        wait_until(lambda: len(threads()) - len(pool._seats) == sum(not gate.is_set() for gate in gates))
    assert pool.submit(threading.get_ident).result(5) == calls[1].result()


def test_a_thread_that_waits_keeps_nothing_of_its_calls(pool):
    class Asked:
        pass

    for _ in range(2):  # of the first, with which it was made, and of one that came later
        asked = Asked()
        kept = weakref.ref(asked)
        pool.submit(lambda asked: None, asked).result(5)
        del asked
        wait_until(lambda kept=kept: kept() is None and len(pool._seats) == 1)
    assert len(threads()) == 1


def test_there_are_never_more_threads_than_it_may_have_and_every_call_is_done(pool):
    gate = threading.Event()
    calls = [pool.submit(lambda i=i: gate.wait(5) and i) for i in range(30)]
    assert (len(threads()), pool.full) == (4, True)
    gate.set()
    assert [call.result(5) for call in calls] == list(range(30))
    wait_until(lambda: not pool.full)


def test_a_thread_without_calls_ends_and_another_comes_when_it_is_needed(pool, monkeypatch):
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.05)
    gate = threading.Event()
    calls = [pool.submit(gate.wait, 5) for _ in range(4)]
    assert len(threads()) == 4
    gate.set()
    assert all(call.result(5) for call in calls)
    wait_until(lambda: not threads())
    assert pool.submit(int, "7").result(5) == 7


def test_calls_that_come_as_threads_end_are_all_done(pool, monkeypatch):
    """Threads lose patience after a millisecond or two, which is when calls come: none may fall between."""
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.001)
    for i in range(400):
        pair = [pool.submit(int, i), pool.submit(int, i)]
        assert [call.result(5) for call in pair] == [i, i]
        time.sleep(0.0005 * (i % 5))


def test_a_system_that_gives_no_thread_ends_nobody_and_the_call_is_done_when_there_is_one(pool, monkeypatch):
    """gRPC's own thread brings calls: what is raised there would end it, and the server would answer nobody."""
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    waiting = pool.submit(lambda: 1)
    monkeypatch.undo()
    assert (pool.submit(lambda: 2).result(5), waiting.result(5)) == (2, 1)
    wait_until(lambda: pool._n_calls == 0)


def refuse_to_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_a_call_raises_is_its_futures_and_the_thread_goes_on(pool):
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)
    assert pool.submit(int, "7").result(5) == 7


def test_closing_waits_for_what_runs_and_cancels_what_does_not():
    pool, gate = CallPool(1, "test-pool"), threading.Event()
    running, waiting = pool.submit(lambda: gate.wait(5) and "done"), pool.submit(int, "7")
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(5)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int, "7")
    assert closing.is_alive()
    gate.set()
    closing.join(5)
    assert (running.result(), threads()) == ("done", set())
