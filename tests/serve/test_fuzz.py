"""Messages of any content, noise, half messages and slow callers: refused in words, and the next call is answered.

ANNSERVE_FUZZ=1 looks for new examples; ANNSERVE_FUZZ_EXAMPLES says how many of each method, and ANNSERVE_FUZZ_TALLY
names a folder for the counts of what was answered (``bench/fuzz.py`` does all that).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter, defaultdict
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from guard.certificates import needs_openssl, self_signed
from hostile import ALLOWED, METHODS, PREFACE, Target, check_refusal, details_of, frame, messages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import serving
from serve.conftest import index, rows_of

from annserve.door.patience import SMALL_MESSAGE_SECONDS
from annserve.guard.keys import new_key
from annserve.rpc import search_pb2

EXAMPLES = int(os.environ.get("ANNSERVE_FUZZ_EXAMPLES", "30"))
SEARCH = "/annserve.v1.SearchService/Search"
CALL_SECONDS = 20


class Tally:
    """How calls ended, and the longest of them, by method."""

    def __init__(self) -> None:
        self._codes: dict[str, Counter[str]] = defaultdict(Counter)
        self._longest: Counter[str] = Counter()

    def count(self, path: str, code: str, seconds: float) -> None:
        self._codes[path][code] += 1
        self._longest[path] = max(self._longest[path], round(seconds, 4))

    def write(self, name: str) -> None:
        """Write what was counted, where somebody wants it, and begin anew."""
        if folder := os.environ.get("ANNSERVE_FUZZ_TALLY"):
            told = {
                path: {"codes": codes, "longest_seconds": self._longest[path]} for path, codes in self._codes.items()
            }
            Path(folder, f"{name}.json").write_text(json.dumps(told))
        self._codes.clear()
        self._longest.clear()


tally = Tally()


@pytest.fixture(scope="module", params=["open", pytest.param("guarded", marks=needs_openssl)])
def serving_target(request, photos, tmp_path_factory):
    """A server of the fake engine that everybody may call; one of the real engine, with a cache, under TLS and keys."""
    folder = tmp_path_factory.mktemp(request.param)
    served, engine, options, guard = photos, "fake", ["--data", folder / "data"], {}
    if request.param == "guarded":
        served, engine = index(folder / "photos", rows_of("uint8"), "l2", "real"), "real"
        (folder / "data" / "inputs").mkdir(parents=True)
        np.save(folder / "data" / "inputs" / "rows.npy", rows_of("uint8"))
        certificate, private = self_signed(folder)
        guard = {"certificate": certificate, "key": new_key(folder / "keys.json", "stranger", "admin")[1]}
        options += ["--tls-certificate", certificate, "--tls-key", private, "--keys", folder / "keys.json"]
        options += ["--cache", "1MiB"]
    with serving(served, engine=engine, options=tuple(map(str, options))) as server:
        yield server, Target(server.address, **guard)
        code, log = server.stop()
    tally.write(request.param)
    assert code == 0
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3_000]
    assert "worker died" not in log
    assert not guard or guard["key"] not in log


@pytest.fixture(scope="module")
def target(serving_target) -> Target:
    return serving_target[1]


@pytest.fixture(scope="module")
def channel(target):
    with target.channel() as channel:
        yield channel


@pytest.fixture(autouse=True)
def serves_on(serving_target):
    """After all that, the next call is answered, soon."""
    yield
    server, target = serving_target
    begun = time.monotonic()
    with target.client("photos") as client:
        assert client.search(np.zeros(24), 1).ids.shape == (1, 1)
    assert time.monotonic() - begun < CALL_SECONDS
    assert server.process.poll() is None


def call(channel: grpc.Channel, path: str, request: object) -> str:
    """Call a method with a message or bytes; give the code that it ends with, after a look at what it says."""
    begun, method = time.monotonic(), METHODS[path]
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
        code = check_refusal(error)
    else:
        code = "OK"
    seconds = time.monotonic() - begun
    assert seconds < CALL_SECONDS, f"{path} took {seconds} s"
    tally.count(path, code, seconds)
    return code


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


def mostly(right, *others):
    """Give what is right three times in four, so that requests are wrong in one place and not in all."""
    return st.one_of(st.just(right), st.just(right), st.just(right), st.sampled_from([right, *others]))


GOOD = {"collection": "photos", "k": 3}


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    dim=mostly(24, 0, -1, 1, 23, 2**31 - 1, -(2**31), 32_769),
    row_type=mostly(3, -1, 0, 1, 2, 4, 5, 6),
    data=st.one_of(mostly(bytes(96), bytes(24), b"\xff" * 96, b"\x00\x00\xc0\x7f" * 24), st.binary(max_size=100)),
    k=mostly(3, 1, 0, -1, 400, 401, 1_001, 2**31 - 1),
    target=mostly(0.9, 1.0, 0.0, -1.0, float("nan"), float("inf"), 0.999),
    more=st.fixed_dictionaries(
        {},
        optional={
            "exact": st.booleans(),
            "session": mostly(b"a", bytes(128), bytes(129), bytes(1_000_000)),
            "request_id": mostly("r-1", "x" * 65, "a b", "\n", "ü"),
            "on_deadline": mostly(0, -1, 1, 2, 3, 4),
            "approximate_cosine": mostly(0.9, 0.0, float("nan"), 2.0),
            "rerank_candidates": mostly(5, -1, 0, 10_000),
            "collection": mostly("photos", "", "nothing", "../photos", "x" * 100_000),
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


def test_a_message_that_says_more_than_it_brings_holds_up_nobody(target):
    """Two hundred connections, each with a call half said; then their callers leave."""
    half = [target.begun_call(path, 1_000, b"x" * 10) for path in list(METHODS) * 14]
    try:
        with target.client("photos") as client:
            for _ in range(20):
                client.search(np.zeros(24), 1)
    finally:
        for connection in half:
            connection.close()


def test_a_message_that_says_it_is_huge_takes_no_memory(serving_target):
    server, target = serving_target
    before = server.rss_bytes()
    connections = [target.begun_call(SEARCH, 2**32 - 1, b"") for _ in range(20)]
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.settimeout(0.2)
            connection.recv(4_096)
        connection.close()
    assert server.rss_bytes() < before + (64 << 20)


def test_a_caller_that_drips_bytes_holds_up_nobody(target):
    said = PREFACE + frame(4, 0, 0, b"") + target.said(SEARCH)
    slow = [target.connection() for _ in range(50)]
    with target.client("photos") as client:
        for at in range(0, len(said), 20):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(said[at : at + 20])
            client.search(np.zeros(24), 1)
    for connection in slow:
        connection.close()


def test_frames_of_no_sense_end_their_connection_alone(target, rng):
    for _ in range(60):
        said = PREFACE + frame(4, 0, 0, b"")
        for _ in range(int(rng.integers(1, 6))):
            kind, flags, stream = (int(one) for one in rng.integers(0, [12, 256, 6]))
            said += frame(kind, flags, stream, rng.bytes(int(rng.integers(0, 100))))
        tell(target.connection(), said)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    began=st.sampled_from(
        [b"", PREFACE, PREFACE[:10], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\x16\x03\x03\x40\x00"]
    ),
    noise=st.binary(max_size=2_000),
    encrypted=st.booleans(),
)
def test_noise_on_the_port_is_shrugged_off(target, began, noise, encrypted):
    """Before the handshake of TLS and, where there is one, after it."""
    tell(target.connection() if encrypted else target.plain(), began + noise)


def tell(connection: socket.socket, said: bytes) -> None:
    """Say something, wait a moment for an answer, and leave; the server may have hung up before, which is its right."""
    with connection, contextlib.suppress(OSError):
        connection.sendall(said)
        connection.settimeout(0.02)
        connection.recv(4_096)


def test_a_caller_that_reads_no_answer_holds_up_nobody(target):
    """Answers pile up in its own connection, and then in its own calls."""
    request = search_pb2.SearchRequest(
        **GOOD | {"k": 300}, matrix=search_pb2.Matrix(row_type=3, dim=24, data=bytes(24 * 200))
    ).SerializeToString()
    said = PREFACE + frame(4, 0, 0, b"")
    for stream in range(1, 41, 2):
        message = b"\0" + len(request).to_bytes(4, "big") + request
        said += target.said(SEARCH, stream) + frame(0, 1, stream, message)
    with target.connection() as deaf:
        deaf.sendall(said)
        with target.client("photos") as client:
            for _ in range(20):
                client.search(np.zeros(24), 1)


HUGE = {
    "vector": search_pb2.SearchRequest(**GOOD, vector=search_pb2.Vector(values=bytes(1_000_000))),
    "rerank_vector": search_pb2.SearchRequest(
        **GOOD, vector=search_pb2.Vector(values=[0] * 24), rerank_vector=search_pb2.Vector(values=bytes(1_000_000))
    ),
    "matrix.data": search_pb2.SearchRequest(
        **GOOD, matrix=search_pb2.Matrix(row_type=1, dim=24, data=bytes(10_000_001))
    ),
    "queries": search_pb2.SearchRequest(**GOOD, matrix=search_pb2.Matrix(row_type=3, dim=24, data=bytes(24 * 20_000))),
    "session": search_pb2.SearchRequest(**GOOD, vector=search_pb2.Vector(values=[0] * 24), session=bytes(1_000_000)),
    "request_id": search_pb2.SearchRequest(
        **GOOD, vector=search_pb2.Vector(values=[0] * 24), request_id="x" * 1_000_000
    ),
}


@pytest.mark.parametrize("field", HUGE)
def test_what_is_huge_within_a_message_is_refused_by_its_field(channel, field):
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(SEARCH)(HUGE[field].SerializeToString(), timeout=CALL_SECONDS)
    assert check_refusal(refused.value) == "INVALID_ARGUMENT"
    assert field in field_of(refused.value)


def field_of(error: grpc.RpcError) -> str:
    return details_of(rpc_status.from_call(error))["BadRequest"].field_violations[0].field


REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


HEALTH = [f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List")]


@pytest.mark.parametrize("path", [*HEALTH, REFLECTION])
def test_noise_for_methods_that_are_not_ours_is_refused_or_answered(channel, path):
    """Probes of health anybody may send, without a key."""
    codes = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(probe)))
    def sent(noise):
        answers = channel.stream_stream(path)(iter([noise]), timeout=CALL_SECONDS)
        try:
            next(answers, None)
        except grpc.RpcError as error:
            codes.add(error.code().name)
        else:
            answers.cancel()

    sent()
    assert codes <= {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


@pytest.mark.parametrize("path", [HEALTH[0], HEALTH[1], REFLECTION])
def test_what_is_half_said_to_methods_that_are_not_ours_leaves_threads_to_others(target, channel, path):
    """More calls than administration has threads, of health without a key."""
    silent = [target.begun_call(path, 100, b"x") for _ in range(80)]
    time.sleep(0.2)
    info = channel.unary_unary("/annserve.v1.AdminService/GetServerInfo")
    begun = time.monotonic()
    for _ in range(5):
        assert info(b"", timeout=CALL_SECONDS)
    assert time.monotonic() - begun < SMALL_MESSAGE_SECONDS / 2
    for connection in silent:
        connection.close()


def probe(service: str) -> bytes:
    return health_pb2.HealthCheckRequest(service=service).SerializeToString()


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
