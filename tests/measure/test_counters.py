"""The kernel's counters say what they are taken for."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from annserve.measure import counters
from annserve.measure.counters import Memory, Usage, memory_now, memory_of, usage_now, usage_of
from annserve.measure.server import ServerProcesses, find_server


def test_reads_that_the_page_cache_answers_are_not_device_reads(tmp_path):
    path = tmp_path / "cached"
    path.write_bytes(bytes(1 << 20))
    path.read_bytes()
    before = usage_now().device_bytes_read
    if before is None:
        pytest.skip("needs /proc/self/io")
    path.read_bytes()
    assert usage_now().device_bytes_read - before < 1 << 19


def test_cpu_time_runs_while_we_work_and_rests_while_we_sleep():
    began = usage_now().cpu_seconds
    time.sleep(0.05)
    slept = usage_now().cpu_seconds
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass
    assert slept - began < 0.04
    assert usage_now().cpu_seconds > slept


def test_memory_that_is_touched_is_resident():
    before = memory_now()
    if before.rss_bytes is None:
        pytest.skip("needs /proc/self/smaps_rollup")
    # Larger than what malloc ever keeps for reuse (32 MiB), so that it is fresh memory.
    held = np.ones(80 << 20, np.uint8)
    after = memory_now()
    assert after.rss_bytes - before.rss_bytes > 70 << 20
    assert after.pss_bytes - before.pss_bytes > 70 << 20
    assert held.all()


def test_counters_that_are_closed_to_us_are_unknown_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(counters, "_PROC_SELF", tmp_path)
    assert memory_now() == Memory(None, None)
    assert usage_now() == Usage(pytest.approx(time.process_time(), abs=1), None)


LISTENER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
held = bytearray(b"x") * (60 << 20)
input()
until = __import__("time").process_time() + 0.4
while __import__("time").process_time() < until: pass
print("worked", flush=True)
input()
"""


def test_a_server_of_this_machine_is_found_by_its_address_and_counted():
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        server = find_server(f"127.0.0.1:{port}")
        assert server.pids == (process.pid,)
        before = server.usage()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "worked\n"
        assert 0.35 < server.usage().since(before).cpu_seconds < 0.8
        assert server.memory().rss_bytes > 60 << 20
        process.stdin.write("\n")
    assert server.usage() == Usage(None, None)
    assert server.memory() == Memory(None, None)


def test_a_server_elsewhere_is_unknown_and_no_error():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert find_server(f"127.0.0.1:{port}").pids == ()
    assert find_server("192.0.2.1:50051").pids == ()
    assert ServerProcesses(()).usage() == Usage(None, None)


def test_counters_of_a_process_are_the_same_from_outside():
    me = Path("/proc/self")
    assert usage_of(me).cpu_seconds == pytest.approx(usage_now().cpu_seconds, abs=0.1)
    assert memory_of(me).rss_bytes == pytest.approx(memory_now().rss_bytes, rel=0.1)
