"""The kernel's counters say what they are taken for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from annserve.measure import counters
from annserve.measure.counters import Memory, Usage, memory_now, usage_now


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
