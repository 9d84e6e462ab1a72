"""Counts are there from the start, add up over processes, and say what a search cost."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from annserve.results import DELTA, MISS, REPEAT, SearchStats
from annserve.watch.history import History, quantile
from annserve.watch.metrics import (
    REASONS,
    STAGES,
    count_call,
    declare_methods,
    exposition,
    forget_process,
    meter,
    registry_of,
)

SEARCH = "/annserve.v1.SearchService/Search"


def series(text: bytes) -> dict[tuple, float]:
    """Name and labels → value."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def stats(n: int, pages: int = 3) -> SearchStats:
    counts = {name: np.full(n, i) for i, name in enumerate(SearchStats.COUNTS)} | {"pages_read": np.full(n, pages)}
    return SearchStats(**counts, stage_seconds={"read": 0.02 * n, "score": 0.0, "unheard of": 1.0}, seconds=0.1)


def test_every_series_of_a_collection_is_there_before_it_is_asked():
    declare_methods((SEARCH,))
    meter("fresh")
    there = series(exposition(None))
    for name in ("queries", "pages_read", "reads", "read_bytes", "pages_cached", "rows_scored", "partial_answers"):
        assert there["annserve_" + name + "_total", "fresh"] == 0
    assert {there["annserve_rejected_total", *sorted(("fresh", reason))] for reason in REASONS} == {0}
    assert {there["annserve_stage_seconds_count", *sorted(("fresh", stage))] for stage in STAGES} == {0}
    assert there["annserve_search_seconds_count", "fresh"] == there["annserve_queue_calls", "fresh"] == 0
    for name in ("cache_pages_saved_total", "audited_queries_total"):
        assert there["annserve_" + name, "fresh"] == 0
    assert there["annserve_cache_evictions_total", "fresh", "page"] == 0
    for code in ("OK", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"):
        assert ("grpc_server_handled_total", *sorted((code, "Search", "annserve.v1.SearchService"))) in there


def test_a_search_is_counted_by_its_queries_and_its_stages_by_a_querys_share():
    told = meter("counted")
    told.searched(stats(4), 0.5, queued_seconds=0.004)
    told.searched(stats(1, pages=9), 0.001, partial=True)
    told.rejected("busy")
    told.waiting(3)
    told.audited(200)
    told.cache_did(pages_saved=7, answers_evicted=2, pages_evicted=1)
    told.opened({"count": 10, "snapshot": 2, "disk_bytes": 70, "ram_tiers": {"heads": 5, "codes": 6, "cache": 9}})
    told.opened({"count": 12, "snapshot": 3, "disk_bytes": 80, "ram_tiers": {"heads": 7}})
    there = series(exposition(None))
    expected = {
        "queries_total": 5, "pages_read_total": 21, "reads_total": 5, "read_bytes_total": 10,
        "partial_answers_total": 1, "search_seconds_count": 2, "queue_calls": 3, "cache_pages_saved_total": 7,
        "audited_queries_total": 200, "rows": 12, "index_version": 3, "disk_bytes": 80, "cache_bytes": 0,
    }  # fmt: skip
    assert {name: there["annserve_" + name, "counted"] for name in expected} == expected
    assert there["annserve_cache_evictions_total", "answer", "counted"] == 2
    assert there["annserve_rejected_total", "busy", "counted"] == 1
    assert there["annserve_stage_seconds_sum", "counted", "read"] == pytest.approx(0.04)
    assert there["annserve_stage_seconds_count", "counted", "score"] == 0, "a stage that wasn't run isn't 0 long"
    assert there["annserve_ram_bytes", "codes", "counted"] == 0, "a tier that is gone holds nothing"
    assert there["annserve_collection_workers", "counted", "ready"] == 1
    assert there["annserve_collection_workers", "counted", "opening"] == 0
    told.gone()
    there = series(exposition(None))
    held = ["rows", "disk_bytes", "cache_bytes"]
    assert [there["annserve_" + name, "counted"] for name in held] == [0, 0, 0]
    assert there["annserve_ram_bytes", "counted", "heads"] == 0


def test_threads_lose_no_count():
    told = meter("threads")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: told.write() if i % 5 == 0 else told.searched(stats(2), 0.01), range(500)))
    assert series(exposition(None))["annserve_queries_total", "threads"] == 800


def test_what_nobody_writes_is_written_before_it_is_much():
    told = meter("unwritten")
    for _ in range(5_000):
        told.searched(stats(1), 0.01)
    assert len(told._noted) < 4_096


def test_many_observations_fall_where_each_one_would():
    told, one_by_one, edges = meter("many"), meter("one by one"), [0.0, 1e-4, 1.0001e-4, 0.025, 0.03, 30.0, 31.0]
    for seconds in edges:
        told.searched(stats(1), seconds)
        one_by_one._seconds.observe(seconds)
    there = series(exposition(None))
    buckets = {key[1:]: value for key, value in there.items() if key[0] == "annserve_search_seconds_bucket"}
    assert [v for k, v in buckets.items() if "many" in k] == [v for k, v in buckets.items() if "one by one" in k]
    assert there["annserve_search_seconds_sum", "many"] == pytest.approx(sum(edges))


WORKER = """
import os, sys, numpy as np
from annserve.results import DELTA, MISS, REPEAT, SearchStats
from annserve.watch.metrics import count_call, meter, write_counts
told = meter("shared")
told.state("ready")
told.waiting(int(sys.argv[1]))
told.audited(50)
told.opened({"count": 1, "snapshot": 1, "disk_bytes": 1, "ram_tiers": {"cache": 100}})
told.searched(SearchStats(pages_read=np.full(int(sys.argv[1]), 2)), 0.01)
count_call("/annserve.v1.SearchService/Search", "OK", 0.01)
write_counts()
print(os.getpid())
"""


def test_counts_of_processes_add_up_and_outlive_them(tmp_path):
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    pids = [
        int(subprocess.check_output([sys.executable, "-c", WORKER, str(n)], env=environment, timeout=60))
        for n in (2, 3)
    ]
    there = series(exposition(tmp_path))
    assert there["annserve_queries_total", "shared"] == 5
    assert there["annserve_pages_read_total", "shared"] == 10
    assert there["annserve_search_seconds_count", "shared"] == 2
    assert there["annserve_collection_workers", "ready", "shared"] == 2
    assert there["annserve_queue_calls", "shared"] == 5
    assert there["annserve_audited_queries_total", "shared"] == 100
    assert there["annserve_cache_bytes", "shared"] == 200, "each worker has a cache"
    for pid in pids:
        forget_process(pid, tmp_path)
    there = series(exposition(tmp_path))
    assert there["annserve_queries_total", "shared"] == 5, "a counter never falls"
    assert ("annserve_queue_calls", "shared") not in there


def test_the_history_gives_rates_and_quantiles_of_the_last_seconds(monkeypatch):
    told, history, now = meter("past"), History(lambda: registry_of(None)), [1_000.0]
    monkeypatch.setattr("annserve.watch.history.time.time", lambda: now[0])
    history.look()
    for _ in range(20):
        told.searched(stats(2, pages=7), 0.0042)
    now[0] += 4
    history.look()
    for _ in range(6):
        now[0] += 4
        history.look()
    first, *_, last = history.points("past")
    assert (first["queries_per_second"], first["calls_per_second"], first["pages_per_query"]) == (10, 5, 7)
    assert 0.004 <= first["p50_seconds"] <= first["p99_seconds"] <= 0.0063
    assert (last["queries_per_second"], last["p50_seconds"], last["pages_per_query"]) == (0, None, None)
    assert (first["cache_shares"], first["saved_per_query"], first["evictions_per_second"]) == (None, 0, 0)
    assert history.points("never heard of") == []


def test_the_history_tells_in_what_share_of_answers_a_cache_took_part(monkeypatch):
    told, history, now = meter("aside"), History(lambda: registry_of(None)), [1_000.0]
    monkeypatch.setattr("annserve.watch.history.time.time", lambda: now[0])
    told.searched(replace(stats(4), grades=np.full(4, REPEAT, np.uint8)), 0.001)
    history.look()
    told.searched(replace(stats(4), grades=np.array([MISS, MISS, REPEAT, DELTA], np.uint8)), 0.001)
    told.cache_did(pages_saved=6, answers_evicted=1, pages_evicted=3)
    now[0] += 4
    history.look()
    (point,) = history.points("aside")
    assert {grade: share for grade, share in point["cache_shares"].items() if share} == {
        "miss": 0.5, "repeat": 0.25, "delta": 0.25
    }  # fmt: skip
    assert (point["saved_per_query"], point["evictions_per_second"]) == (1.5, 1)


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: 10, math.inf: 10}, 0.5, 0.5),
        ({1.0: 5, 2.0: 10, math.inf: 10}, 0.5, 1.0),
        ({1.0: 0, 2.0: 10, math.inf: 10}, 0.99, 1.99),
        ({1.0: 0, 2.0: 0, math.inf: 10}, 0.5, 2.0),
    ],
)
def test_a_quantile_is_read_off_a_histogram(buckets, share, expected):
    assert quantile(buckets, share) == (None if expected is None else pytest.approx(expected))


def test_a_call_of_a_strangers_method_makes_no_series():
    count_call("", "UNAUTHENTICATED", 0.001)
    assert ("grpc_server_handled_total", "", "", "UNAUTHENTICATED") in series(exposition(None))
