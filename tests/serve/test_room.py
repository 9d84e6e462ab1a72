"""However many calls bring large messages, a process holds no more bytes of them than it has room for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from hostile import Target, check_refusal
from running import wait_until

from annserve.door import status
from annserve.door.patience import PATIENCE
from annserve.door.room import LARGE_BYTES, Room
from annserve.door.status import Door
from annserve.errors import BusyError
from annserve.rpc import search_pb2, search_pb2_grpc

LARGE = search_pb2.SearchRequest(matrix=search_pb2.Matrix(data=bytes(2 << 20)))
SMALL = search_pb2.SearchRequest(matrix=search_pb2.Matrix(data=bytes(LARGE_BYTES // 2)))


class Search(search_pb2_grpc.SearchServiceServicer):
    """Answers when it is let."""

    def __init__(self) -> None:
        self.go_on, self.begun = threading.Event(), threading.Semaphore(0)

    def Search(self, request, context):
        if not request.HasField("matrix"):
            return search_pb2.SearchResponse(ids=bytes(2 << 20))
        self.begun.release()
        self.go_on.wait(10)
        return search_pb2.SearchResponse()

    def SearchStream(self, requests, context):
        for one in requests:
            self.Search(one.search, context)
            yield search_pb2.SearchStreamResponse(sequence=one.sequence)


@pytest.fixture
def service():
    """A service with room for two large messages, and a stub of it."""
    served = Search()
    server = grpc.server(ThreadPoolExecutor(12), interceptors=[Door({}, room=Room(5 << 20))])
    search_pb2_grpc.add_SearchServiceServicer_to_server(served, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        stub.address = f"127.0.0.1:{port}"
        yield served, stub
    served.go_on.set()
    server.stop(0).wait()


def test_large_messages_beyond_the_room_are_refused_and_small_ones_are_not(service):
    served, stub = service
    held = [stub.Search.future(LARGE, timeout=20) for _ in range(2)]
    for _ in held:
        assert served.begun.acquire(timeout=5)
    with pytest.raises(grpc.RpcError, match="come again later") as refused:
        stub.Search(LARGE, timeout=10)
    assert check_refusal(refused.value) == "RESOURCE_EXHAUSTED"
    stream = iter([search_pb2.SearchStreamRequest(sequence=1, search=LARGE)])
    with pytest.raises(grpc.RpcError, match="come again later"):
        next(stub.SearchStream(stream, timeout=10))
    small = [stub.Search.future(SMALL, timeout=20) for _ in range(4)]
    served.go_on.set()
    for call in (*held, *small):
        call.result()
    stub.Search(LARGE, timeout=10)
    stream = iter([search_pb2.SearchStreamRequest(sequence=n, search=LARGE) for n in range(5)])
    assert [one.sequence for one in stub.SearchStream(stream, timeout=10)] == list(range(5))


def test_answers_that_nobody_takes_have_a_bounded_room_and_a_time(service, monkeypatch):
    monkeypatch.setattr(status, "MESSAGE_SECONDS", 2.0)
    _, stub = service
    deaf = [Target(stub.address).deaf_call("/annserve.v1.SearchService/Search") for _ in range(2)]

    def refused() -> grpc.RpcError | None:
        try:
            assert len(stub.Search(search_pb2.SearchRequest(), timeout=10).ids) == 2 << 20
        except grpc.RpcError as error:
            return error
        return None

    refusal = wait_until(refused)
    assert "come again later" in refusal.details()
    assert check_refusal(refusal) == "RESOURCE_EXHAUSTED"
    for _ in range(5):
        wait_until(lambda: refused() is None)
    for connection in deaf:
        connection.close()
    wait_until(lambda: not PATIENCE._waiting)


def test_one_message_has_room_however_large_it_is_and_failures_leave_nothing_behind():
    room = Room(10)
    for _ in range(3):
        with suppress(ZeroDivisionError), room.holding(LARGE_BYTES + 1), room.holding(LARGE_BYTES):
            with pytest.raises(BusyError):
                room.holding(LARGE_BYTES + 1).__enter__()
            raise ZeroDivisionError
