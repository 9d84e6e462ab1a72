"""Messages of any content, noise, half messages and slow callers: refused in words, and the next call is answered.

ANNSERVE_FUZZ=1 looks for new examples; ANNSERVE_FUZZ_EXAMPLES says how many of each method.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

import grpc
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from hostile import ALLOWED, METHODS, PREFACE, begun_call, check_refusal, frame, headers, messages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import serving

from annserve.client import Client
from annserve.rpc import search_pb2

EXAMPLES = int(os.environ.get("ANNSERVE_FUZZ_EXAMPLES", "30"))
SEARCH = "/annserve.v1.SearchService/Search"
OPTIONS = [("grpc.enable_http_proxy", 0)]
CALL_SECONDS = 20


@pytest.fixture(scope="module")
def server(photos, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    with serving(photos, options=("--data", str(data))) as server:
        yield server
        code, log = server.stop()
        assert code == 0
        assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3_000]


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=OPTIONS) as channel:
        yield channel


@pytest.fixture(autouse=True)
def serves_on(server):
    yield
    with Client(server.address, collection="photos") as client:
        assert client.search(np.zeros(24), 1).ids.shape == (1, 1)
    assert server.process.poll() is None


def call(channel: grpc.Channel, path: str, request: object) -> str:
    """Call a method with a message or bytes; give the code that it ends with, after a look at what it says."""
    method = METHODS[path]
    data = request if isinstance(request, bytes) else request.SerializeToString()
    if method.client_streaming:
        answers = channel.stream_stream(path)(iter([data, data]), timeout=CALL_SECONDS)
    elif method.server_streaming:
        answers = channel.unary_stream(path)(data, timeout=CALL_SECONDS)
    else:
        answers = once(channel.unary_unary(path), data)
    try:
        for one in answers:
            answered = GetMessageClass(method.output_type).FromString(one)
            if path.endswith("SearchStream") and answered.HasField("refused"):
                told = answered.refused
                assert (bool(told.reason), bool(told.message), code_name(told.code) in ALLOWED) == (True,) * 3, told
    except grpc.RpcError as error:
        return check_refusal(error)
    return "OK"


def once(method, data: bytes):
    yield method(data, timeout=CALL_SECONDS)


def code_name(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


@pytest.mark.parametrize("path", METHODS)
def test_any_message_is_answered_or_refused_with_code_reason_and_field(channel, path):
    codes = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(messages(METHODS[path].input_type))
    def sent(request):
        codes.add(call(channel, path, request))

    sent()
    assert codes


@pytest.mark.parametrize("path", METHODS)
def test_bytes_that_are_no_message_are_refused_or_read_as_one(channel, path):
    @settings(max_examples=EXAMPLES // 2, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def sent(noise):
        call(channel, path, noise)

    sent()


NAN = np.float32(np.nan).tobytes()
GOOD = {"collection": "photos", "k": 3}


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    dim=st.sampled_from([24, 0, -1, 1, 23, 2**31 - 1, -(2**31), 32_769]),
    row_type=st.integers(-1, 6),
    data=st.one_of(
        st.binary(max_size=100), st.sampled_from([bytes(24), bytes(96), b"\xff" * 96, b"\x00\x00\xc0\x7f" * 24])
    ),
    k=st.sampled_from([1, 0, -1, 400, 401, 1_001, 2**31 - 1]),
    target=st.sampled_from([0.9, 1.0, 0.0, -1.0, float("nan"), float("inf"), 0.999]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "exact": st.booleans(),
            "session": st.sampled_from([b"a", bytes(128), bytes(129), bytes(1_000_000)]),
            "request_id": st.sampled_from(["r-1", "x" * 65, "a b", "\n", "ü"]),
            "on_deadline": st.integers(-1, 4),
            "approximate_cosine": st.sampled_from([0.9, 0.0, float("nan"), 2.0]),
            "rerank_candidates": st.sampled_from([-1, 0, 5, 10_000]),
            "collection": st.sampled_from(["photos", "", "nothing", "../photos", "x" * 100_000]),
        },
    ),
)
def test_a_search_that_is_nearly_right_is_answered_or_refused_by_field(channel, dim, row_type, data, k, target, more):
    matrix = search_pb2.Matrix(row_type=row_type, dim=dim, data=data)
    request = search_pb2.SearchRequest(**{**GOOD, "matrix": matrix, "k": k, "recall_target": target, **more})
    code = call(channel, SEARCH, request)
    wrong = dim != 24 or not 1 <= row_type <= 4 or not 1 <= k <= 400 or not (0.8 <= target <= 0.99 or target == 1.0)
    if wrong:
        assert code in ("INVALID_ARGUMENT", "NOT_FOUND"), code


def test_a_message_that_says_more_than_it_brings_holds_up_nobody(server):
    """Two hundred connections, each with a call half said; then their callers leave."""
    half = [begun_call(server.address, path, 1_000, b"x" * 10) for path in list(METHODS) * 14]
    try:
        with Client(server.address, collection="photos") as client:
            for _ in range(20):
                client.search(np.zeros(24), 1)
    finally:
        for connection in half:
            connection.close()


def test_a_message_that_says_it_is_huge_takes_no_memory(server):
    before = server.rss_bytes() if hasattr(server, "rss_bytes") else 0
    connections = [begun_call(server.address, SEARCH, 2**32 - 1, b"") for _ in range(20)]
    time.sleep(0.5)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.settimeout(2)
            connection.recv(4_096)
        connection.close()
    assert before == 0 or server.rss_bytes() < before + (64 << 20)


def test_a_caller_that_drips_bytes_holds_up_nobody(server):
    host, _, port = server.address.rpartition(":")
    said = PREFACE + frame(4, 0, 0, b"") + headers(SEARCH)
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(50)]
    with Client(server.address, collection="photos") as client:
        for at in range(0, len(said), 20):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(said[at : at + 20])
            client.search(np.zeros(24), 1)
    for connection in slow:
        connection.close()


def test_frames_of_no_sense_end_their_connection_alone(server, rng):
    host, _, port = server.address.rpartition(":")
    for _ in range(60):
        said = PREFACE + frame(4, 0, 0, b"")
        for _ in range(int(rng.integers(1, 6))):
            kind, flags, stream = (int(one) for one in rng.integers(0, [12, 256, 6]))
            said += frame(kind, flags, stream, rng.bytes(int(rng.integers(0, 100))))
        connection = socket.create_connection((host, int(port)), timeout=5)
        with connection, contextlib.suppress(OSError):
            connection.sendall(said)
            connection.settimeout(0.05)
            connection.recv(4_096)


def test_a_caller_that_reads_no_answer_holds_up_nobody(server):
    """Answers pile up in its own connection, and then in its own calls."""
    host, _, port = server.address.rpartition(":")
    request = search_pb2.SearchRequest(
        **GOOD | {"k": 300}, matrix=search_pb2.Matrix(row_type=3, dim=24, data=bytes(24 * 200))
    ).SerializeToString()
    said = PREFACE + frame(4, 0, 0, b"")
    for stream in range(1, 41, 2):
        message = b"\0" + len(request).to_bytes(4, "big") + request
        said += headers(SEARCH, stream) + frame(0, 1, stream, message)
    with socket.create_connection((host, int(port)), timeout=5) as deaf:
        deaf.sendall(said)
        with Client(server.address, collection="photos") as client:
            for _ in range(20):
                client.search(np.zeros(24), 1)


def test_a_stream_that_never_ends_is_answered_request_by_request(channel):
    """And refusals in it end nothing."""
    good = search_pb2.SearchRequest(**GOOD, matrix=search_pb2.Matrix(row_type=3, dim=24, data=bytes(24)))
    bad = search_pb2.SearchRequest(collection="nothing")

    def requests():
        for sequence in range(300):
            yield search_pb2.SearchStreamRequest(sequence=sequence, search=bad if sequence % 3 else good)

    path = "/annserve.v1.SearchService/SearchStream"
    stream = channel.stream_stream(
        path,
        request_serializer=search_pb2.SearchStreamRequest.SerializeToString,
        response_deserializer=search_pb2.SearchStreamResponse.FromString,
    )
    answers = list(stream(requests(), timeout=60))
    assert [answer.sequence for answer in answers] == list(range(300))
    assert [answer.WhichOneof("outcome") for answer in answers[:4]] == ["found", "refused", "refused", "found"]
    assert {answer.refused.code for answer in answers[1:3]} == {5}
