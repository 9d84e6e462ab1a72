"""A call whose message doesn't come gives its thread back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hostile import Target
from running import wait_until

from annserve.door import patience, status
from annserve.door.status import Door
from annserve.rpc import admin_pb2, admin_pb2_grpc
from annserve.services.health import Health

INFO = "/annserve.v1.AdminService/GetServerInfo"
CHECK = "/grpc.health.v1.Health/Check"


class Admin(admin_pb2_grpc.AdminServiceServicer):
    def GetServerInfo(self, request, context):
        return admin_pb2.GetServerInfoResponse(version="1")

    def WatchJob(self, request, context):
        yield from ()


@pytest.fixture
def address(monkeypatch):
    """A server with two threads, and little patience."""
    monkeypatch.setattr(status, "MESSAGE_SECONDS", 0.3)
    monkeypatch.setattr(patience, "SMALL_MESSAGE_SECONDS", 0.3)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[Door({})])
    admin_pb2_grpc.add_AdminServiceServicer_to_server(Admin(), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def ask(address: str) -> None:
    """Be answered by a method of ours and by health, of one message and of many."""
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        assert admin.GetServerInfo(admin_pb2.GetServerInfoRequest(), timeout=10).version == "1"
        probe = health_pb2_grpc.HealthStub(channel)
        assert probe.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        watch = probe.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == 1
        watch.cancel()


@pytest.mark.parametrize("path", [INFO, CHECK, "/grpc.health.v1.Health/Watch", "/annserve.v1.AdminService/WatchJob"])
def test_threads_that_wait_for_half_a_message_are_given_back(address, path):
    """More such calls than threads; their callers stay connected."""
    half = [Target(address).begun_call(path, 1_000, b"x") for _ in range(5)]
    time.sleep(0.1)
    begun = time.monotonic()
    ask(address)
    assert time.monotonic() - begun < 8
    for connection in half:
        connection.close()


@pytest.mark.parametrize("path", [INFO, CHECK])
def test_a_call_without_a_message_is_refused_in_words(address, path):
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.stream_unary(path)
        with pytest.raises(grpc.RpcError, match="brought no message") as refused:
            call(iter(()), timeout=10)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_no_message_of_health_is_refused(address):
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(CHECK)(b"\xff\xff", timeout=10)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_messages_of_strangers_that_are_awaited_at_once_are_bounded(address, monkeypatch):
    """Each may be as large as any, and whoever sends it needs no key; a probe finds room again when they gave up."""
    monkeypatch.setattr(patience, "_STRANGERS", threading.BoundedSemaphore(1))
    monkeypatch.setattr(patience, "SMALL_MESSAGE_SECONDS", 2.0)
    half = Target(address).begun_call(CHECK, 1_000, b"x")
    wait_until(lambda: not patience._STRANGERS._value)
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        probe = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError, match="keep back their messages") as refused:
            probe.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        wait_until(lambda: patience._STRANGERS._value)
        assert probe.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
    half.close()
