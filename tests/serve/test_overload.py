"""What comes beyond what can be answered is refused at once and says when to come again; the rest is answered."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import fake
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from running import serving

from annserve.door.pool import AtOnce, CallPool
from annserve.rpc import search_pb2, search_pb2_grpc

ROWS = np.random.default_rng(4).integers(0, 256, (60, 8)).astype(np.uint8)
NO_PROXY = [("grpc.enable_http_proxy", 0)]


def request(name: str = "") -> search_pb2.SearchRequest:
    matrix = search_pb2.Matrix(row_type=search_pb2.ROW_TYPE_UINT8, dim=8, data=ROWS[7].tobytes())
    return search_pb2.SearchRequest(collection=name, matrix=matrix, k=1)


def outcome(call) -> str:
    return "OK" if call.code() is grpc.StatusCode.OK else call.code().name


def test_a_flood_is_refused_at_once_with_a_delay_while_health_answers_and_what_was_taken_in_is_answered(tmp_path):
    slow = fake.write(tmp_path / "slow", ROWS, seconds=0.3)
    with (
        serving(slow, options=("--threads", "1", "--waiting-max", "3")) as server,
        grpc.insecure_channel(server.address, NO_PROXY) as channel,
    ):
        stub = search_pb2_grpc.SearchServiceStub(channel)
        stub.Search(request(), timeout=5)
        begun = time.monotonic()
        calls = [stub.Search.future(request(), timeout=10) for _ in range(60)]
        ended: dict[int, float] = {}
        for i, call in enumerate(calls):
            call.add_done_callback(lambda _, i=i: ended.setdefault(i, time.monotonic() - begun))
        time.sleep(0.1)
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2).status == 1
        for call in calls:
            call.exception()
        counts = Counter(outcome(call) for call in calls)
        assert set(counts) == {"OK", "RESOURCE_EXHAUSTED"}
        assert 4 <= counts["OK"] <= 20
        refused = [call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert max(ended[calls.index(call)] for call in refused) < 1.0
        for call in refused:
            details = rpc_status.from_call(call).details
            retry = error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in details)
            assert retry.retry_delay.ToMilliseconds() >= 10
        assert stub.Search(request(), timeout=5).num_queries == 1


def test_a_flood_of_one_collection_leaves_another_its_answers(tmp_path):
    slow, quick = fake.write(tmp_path / "slow", ROWS, seconds=0.1), fake.write(tmp_path / "quick", ROWS)
    with (
        serving(slow, quick, options=("--threads", "1", "--waiting-max", "8")) as server,
        grpc.insecure_channel(server.address, NO_PROXY) as channel,
    ):
        stub = search_pb2_grpc.SearchServiceStub(channel)
        for name in ("slow", "quick"):
            stub.Search(request(name), timeout=5)
        flood = [stub.Search.future(request("slow"), timeout=10) for _ in range(9)]
        time.sleep(0.05)
        for _ in range(3):
            begun = time.monotonic()
            stub.Search(request("quick"), timeout=5)
            assert time.monotonic() - begun < 0.4
        for call in flood:
            call.exception()


def test_a_pool_is_full_with_a_call_for_each_thread_and_free_again_when_one_ends():
    pool = CallPool(2, "test")
    gates = [Future() for _ in range(2)]
    calls = [pool.submit(gate.result) for gate in gates]
    assert pool.full
    gates[0].set_result(None)
    calls[0].result(5)
    until = time.monotonic() + 5
    while pool.full:
        assert time.monotonic() < until
    gates[1].set_result(None)
    pool.shutdown()


def test_no_pool_does_at_once_what_it_is_brought_and_passes_as_one():
    assert isinstance(AtOnce(), ThreadPoolExecutor)
    assert AtOnce().submit(int, "7").result() == 7
    with pytest.raises(ZeroDivisionError):
        AtOnce().submit(lambda: 1 / 0)
