"""Whatever arrives, the server answers the next call."""

from __future__ import annotations

import contextlib
import socket

import fake
import grpc
import numpy as np
import pytest
from running import serving

from annserve.client import Client
from annserve.errors import BusyError, CorruptionError, ServerError
from annserve.rpc import search_pb2

SEARCH = "/annserve.v1.SearchService/Search"
NO_PROXY = ("grpc.enable_http_proxy", 0)


@pytest.fixture(scope="module")
def server(photos):
    with serving(photos) as server:
        yield server


@pytest.fixture(autouse=True)
def serves_on(server):
    yield
    with Client(server.address) as client:
        assert client.search(np.zeros(24), 1).ids.shape == (1, 1)
    assert server.process.poll() is None


def send(server, message: bytes, method: str = SEARCH) -> bytes:
    with grpc.insecure_channel(server.address, options=[NO_PROXY]) as channel:
        return channel.unary_unary(method)(message, timeout=10)


def test_bytes_that_are_no_message_are_an_error_of_the_caller(server):
    with pytest.raises(grpc.RpcError, match="5 bytes of the request aren't a message") as refused:
        send(server, b"\xff\xff\xff\xff\xff")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_random_and_damaged_messages_are_answered_or_refused_but_never_internal(server, rng):
    """Mutations reach deeper than noise: most still parse, with another type, dim, k or length."""
    request = search_pb2.SearchRequest(
        matrix=search_pb2.Matrix(row_type=1, dim=24, data=np.ones(48, np.float32).tobytes()), k=5
    )
    whole = np.frombuffer(request.SerializeToString(), np.uint8)
    refusals = set()
    with grpc.insecure_channel(server.address, options=[NO_PROXY]) as channel:
        call = channel.unary_unary(SEARCH)
        for _ in range(300):
            damaged = whole.copy()
            places = rng.integers(0, len(damaged), rng.integers(1, 4))
            damaged[places] = rng.integers(0, 256, len(places))
            noise = rng.bytes(rng.integers(0, 60))
            for message in (damaged[: rng.integers(1, 1 + len(damaged))].tobytes(), damaged.tobytes(), noise):
                try:
                    call(message, timeout=10)
                except grpc.RpcError as error:
                    refusals.add(error.code())
    assert refusals
    assert refusals <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


def test_noise_on_the_port_is_shrugged_off(server, rng):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for junk in (rng.bytes(4096), b"GET / HTTP/1.1\r\n\r\n", preface, preface + rng.bytes(4096), b""):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        # The server may have hung up already, which is its right.
        with connection, contextlib.suppress(OSError):
            connection.sendall(junk)
            connection.settimeout(0.2)
            connection.recv(1024)


def test_a_message_over_the_limit_is_refused_unread(photos):
    with serving(photos, options=("--message-mib", "1")) as small:
        with pytest.raises(grpc.RpcError, match="larger than max") as refused:
            send(small, bytes(2 << 20))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with Client(small.address) as client:
            assert client.server_info()["limits"]["message_bytes"] == 1 << 20


def test_an_unknown_method_is_unimplemented(server):
    with pytest.raises(grpc.RpcError) as refused:
        send(server, b"", "/annserve.v1.SearchService/Guess")
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_bug_is_a_number_for_the_caller_and_one_line_with_the_traceback_in_the_log(photos):
    with serving(photos) as server:
        with Client(server.address) as client:
            with pytest.raises(ServerError, match=r"under request_id [0-9a-f]{32}$") as failed:
                client.search(np.zeros(24), fake.K_BUG)
            assert "planted" not in str(failed.value)
            assert client.search(np.zeros(24), 1).ids.shape == (1, 1)
        code, log = server.stop()
    request_id = str(failed.value).split()[-1]
    (line,) = [line for line in log.splitlines() if request_id in line]
    assert "level=error" in line
    assert "RuntimeError: planted" in line
    assert code == 0


def test_facts_of_an_error_reach_the_client(server):
    with Client(server.address) as client:
        with pytest.raises(CorruptionError, match="checksum") as damaged:
            client.search(np.zeros(24), fake.K_CORRUPTION)
        assert (str(damaged.value.path), damaged.value.offset) == ("pages.bin", 8192)
        with pytest.raises(BusyError) as busy:
            client.search(np.zeros(24), fake.K_BUSY)
        assert busy.value.retry_after_ms == 250
