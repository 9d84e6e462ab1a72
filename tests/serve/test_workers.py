"""Several processes are one server: they share the port, follow the disk together, and are replaced when they die."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import fake
import numpy as np
import psutil
import pytest
from running import environment, run, serving

from annserve.client import Client
from annserve.config import ServeConfig
from annserve.errors import CorruptionError, ServerError
from annserve.guard.keys import new_key
from annserve.serve.run_folder import RunFolder

ROWS = np.random.default_rng(4).integers(0, 256, (60, 8)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    return fake.write(tmp_path / "photos", ROWS)


def workers_of(server) -> list[psutil.Process]:
    """The processes that search: children of the one that makes them."""
    (nursery,) = psutil.Process(server.process.pid).children()
    return nursery.children()


def wait_until(true, seconds=20.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.05)


def listening(server) -> Counter:
    sockets = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == server.port]
    return Counter(one.pid for one in sockets)


def test_as_many_processes_as_asked_listen_on_one_port_and_all_answer(folder):
    with serving(folder, options=("--workers", "3")) as server:
        pids = {worker.pid for worker in workers_of(server)}
        assert len(pids) == 3
        assert set(listening(server)) == pids
        for _ in range(20):
            with Client(server.address) as client:
                assert client.search(ROWS[5], 1).ids[0, 0] == 5
        code, _ = server.stop()
    assert code == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_worker_that_dies_is_replaced_and_the_others_answer_meanwhile(folder):
    with serving(folder, options=("--workers", "2")) as server:
        victim, other = workers_of(server)
        os.kill(victim.pid, signal.SIGKILL)
        with Client(server.address) as client:
            for row in range(10):
                assert client.search(ROWS[row], 1).ids[0, 0] == row
        wait_until(lambda: len(listening(server)) == 2)
        assert {worker.pid for worker in workers_of(server)} > {other.pid}
        code, log = server.stop()
    assert code == 0
    assert "worker died" in log


def test_a_worker_whose_successor_cannot_begin_is_replaced_once_that_can(folder, tmp_path):
    """The keys are half written just as it begins."""
    keys = tmp_path / "keys.json"
    _, key = new_key(keys, "tests", "read")
    whole = keys.read_text()
    with serving(folder, options=("--keys", str(keys))) as server:
        keys.write_text(whole[:-9])
        (victim,) = workers_of(server)
        os.kill(victim.pid, signal.SIGKILL)
        time.sleep(1.5)
        assert not listening(server)
        keys.write_text(whole)
        wait_until(lambda: listening(server))
        with Client(server.address, api_key=key) as client:
            assert client.search(ROWS[5], 1).ids[0, 0] == 5
        code, log = server.stop()
    assert code == 0
    assert "isn't a file of keys" in log


def test_a_server_that_can_make_no_more_workers_ends_and_says_so(folder):
    """So that an init system starts it anew, which sees only whether it runs."""
    with serving(folder) as server:
        (nursery,) = psutil.Process(server.process.pid).children()
        os.kill(nursery.pid, signal.SIGKILL)
        assert server.process.wait(10) == ServerError.exit_code
        _, log = server.stop()
    assert "the process that makes workers has ended" in log.splitlines()[-1]


@pytest.mark.parametrize("level", ["supervisor", "nursery"])
def test_workers_do_not_outlive_those_that_made_them(folder, level):
    with serving(folder, options=("--workers", "2")) as server:
        (nursery,) = psutil.Process(server.process.pid).children()
        pids = [worker.pid for worker in workers_of(server)]
        os.kill(server.process.pid if level == "supervisor" else nursery.pid, signal.SIGKILL)
        wait_until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))


def test_a_worker_told_to_stop_in_its_first_moment_stops(folder):
    """The order to stop stands right behind that to start, so that the signal comes before the worker heeds any."""
    run = RunFolder.make()
    config = ServeConfig(collections={"photos": folder})
    told = {"config": config.model_dump(mode="json"), "run": str(run.path), "address": "127.0.0.1:0"}
    orders = "".join(json.dumps(order) + "\n" for order in (told, {"start": 0}, {"stop": True}))
    command = [sys.executable, "-P", "-m", "annserve.serve.nursery"]
    nursery = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment("fake")
    )
    assert nursery.stdin is not None
    nursery.stdin.write(orders)
    nursery.stdin.flush()
    assert nursery.wait(60) == 0
    assert nursery.stdout is not None
    assert json.loads(nursery.stdout.read().splitlines()[-1]) == {"ended": 0, "status": 0}
    nursery.stdin.close()
    nursery.stdout.close()
    run.remove()


def test_a_signal_to_all_processes_at_once_is_one_drain(tmp_path):
    """As a terminal sends SIGINT, and an init system SIGTERM: calls in flight are answered."""
    slow = fake.write(tmp_path / "slow", ROWS, seconds=0.8)
    for number in (signal.SIGINT, signal.SIGTERM):
        with serving(slow, options=("--workers", "2")) as server, Client(server.address) as client:
            client.server_info()
            answers = []
            caller = threading.Thread(target=lambda: answers.append(client.search(ROWS[3], 1)))  # noqa: B023
            caller.start()
            time.sleep(0.3)
            supervisor = psutil.Process(server.process.pid)
            for process in (*supervisor.children(recursive=True), supervisor):
                process.send_signal(number)
            assert server.process.wait(20) == 0
            caller.join(10)
            assert [answer.ids[0, 0] for answer in answers] == [3]


def test_new_versions_reach_all_workers_and_no_call_fails_or_is_wrong_meanwhile(folder):
    """Version n finds row (i + n) % 60 where version 0 finds row i: each answer must be that of some version."""
    failures, seen, stop = [], set(), threading.Event()

    def ask(address: str, row: int) -> None:
        with Client(address) as client:
            while not stop.is_set():
                try:
                    found = client.search(ROWS[row], 1, recall_target=1.0)
                except Exception as error:
                    failures.append(error)
                    return
                if found.distances[0, 0] != 0:
                    failures.append(found)
                seen.add((int(found.ids[0, 0]) - row) % len(ROWS))

    with serving(folder, options=("--workers", "2")) as server:
        callers = [threading.Thread(target=ask, args=(server.address, row)) for row in range(6)]
        for caller in callers:
            caller.start()
        for version in range(1, 6):
            fake.publish(folder, np.roll(ROWS, version, axis=0), version + 1)
            wait_until(lambda: version in seen)  # noqa: B023
        time.sleep(0.6)
        seen.clear()
        time.sleep(0.2)
        stop.set()
        for caller in callers:
            caller.join()
        assert failures == []
        assert seen == {5}
        code, log = server.stop()
    assert code == 0
    assert log.count("event=closed") == log.count("event=opened")


def test_a_damaged_collection_beside_others_is_set_aside_with_its_reason(folder, tmp_path):
    bad = fake.write(tmp_path / "bad", ROWS)
    fake.publish(bad, ROWS, 0)
    with serving(folder, bad) as server:
        with Client(server.address, collection="photos") as good:
            assert good.search(ROWS[1], 1).ids[0, 0] == 1
        with Client(server.address, collection="bad") as other, pytest.raises(CorruptionError, match="damaged"):
            other.search(ROWS[1], 1)
        fake.publish(bad, ROWS, 4)
        with Client(server.address, collection="bad") as other:
            wait_until(lambda: _answers(other))


def _answers(client: Client) -> bool:
    try:
        return bool(client.search(ROWS[2], 1).ids[0, 0] == 2)
    except (CorruptionError, ServerError):
        return False


def test_a_server_with_nothing_that_can_be_served_says_why_and_ends(tmp_path):
    bad = fake.write(tmp_path / "bad", ROWS)
    fake.publish(bad, ROWS, 0)
    ended = run("serve", str(bad), "--listen", "127.0.0.1:0")
    assert ended.returncode == CorruptionError.exit_code
    assert "is damaged" in ended.stderr.splitlines()[-1]


def test_nothing_is_left_behind_in_the_temporary_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(folder) as server:
        (place,) = Path(tmp_path).glob("annserve-run-*")
        assert place.stat().st_mode & 0o777 == 0o700
        server.stop()
    assert not place.exists()


def test_a_run_folder_that_takes_no_files_any_more_ends_no_worker_and_holds_up_no_version(
    folder, tmp_path, monkeypatch
):
    """As where the disk of temporary files is full; here the folder is taken away."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(folder, options=("--http-listen", "127.0.0.1:0")) as server:
        url = server.status_url()
        (place,) = Path(tmp_path).glob("annserve-run-*")
        (worker,) = workers_of(server)
        (place / "worker-0.json").unlink()
        (place / "worker-0.json").mkdir()
        (place / "counts-0").mkdir()
        for version in (2, 3):
            fake.publish(folder, np.roll(ROWS, version, axis=0), version)
            with Client(server.address) as client:
                wait_until(lambda: client.info()["snapshot"] == version)  # noqa: B023
        with urllib.request.urlopen(url + "healthz", timeout=10) as answer:
            assert answer.status == 200
        assert workers_of(server) == [worker]
        (place / "worker-0.json").rmdir()
        wait_until(lambda: (place / "worker-0.json").exists())
        code, log = server.stop()
    assert code == 0
    assert (log.count("event=opened"), log.count("event=closed"), log.count("can't tell")) == (3, 3, 1)


def test_a_run_folder_in_use_is_locked_against_those_who_tidy_up():
    run = RunFolder.make()
    tidying = os.open(run.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(tidying, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run.remove()
    fcntl.flock(tidying, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(tidying)
