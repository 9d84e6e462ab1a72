"""Both clients, for threads and for asyncio, keep the same promises: what follows runs with each of them."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status
from serve import fake
from serve.running import serving

from annserve.client import AsyncClient, Client, parts, retry
from annserve.client.channel import Endpoint, Pool
from annserve.client.throttle import FEW, Throttle
from annserve.door.status import status_of
from annserve.errors import BusyError, DeadlineError, InputError, ReadError, ServerError
from annserve.rpc import admin_pb2, admin_pb2_grpc, search_pb2, search_pb2_grpc


class Awaited:
    """``AsyncClient`` as if it were ``Client``: its own event loop, one call at a time."""

    def __init__(self, address: str, **settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(address, **settings)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def search_batches(self, batches, k=10, **options):
        async def gathered():
            return [result async for result in self._client.search_batches(batches, k, **options)]

        return self._loop.run_until_complete(gathered())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._loop.close()


@pytest.fixture(params=[Client, Awaited], ids=["threads", "asyncio"])
def door(request):
    return request.param


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (300, 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def server(rows, tmp_path_factory):
    with serving(fake.write(tmp_path_factory.mktemp("doors") / "photos", rows)) as server:
        yield server


class _EndedError(Exception):
    """gRPC has no room for the call, and ends it."""


class Planted:
    """A server in this process that does as told, and notes what it is sent."""

    def __init__(self, answer, port: str = "127.0.0.1:0", credentials=None) -> None:
        self.requests, self.metadata, self.peers = [], [], []
        self._server = grpc.server(ThreadPoolExecutor(16))
        planted = self

        class Search(search_pb2_grpc.SearchServiceServicer):
            def Search(self, request, context):
                planted.requests.append(request)
                planted.metadata.append(dict(context.invocation_metadata()))
                planted.peers.append(context.peer())
                try:
                    return answer(request, len(planted.requests))
                except _EndedError:
                    return context.abort(grpc.StatusCode.CANCELLED, "")
                except Exception as error:
                    status = status_of(error, "method")
                return context.abort_with_status(rpc_status.to_status(status))

            def MeasureRecall(self, request, context):
                planted.requests.append(request)
                estimate = search_pb2.RecallEstimate(
                    k=request.k,
                    recall_target=0.9,
                    queries=2,
                    recall=0.75,
                    recall_low=0.5,
                    recall_high=0.9,
                    confidence=0.95,
                )
                return search_pb2.MeasureRecallResponse(
                    recall=estimate, query_recalls=[0.5, 1.0], pages_mean=7.5, snapshot=3
                )

        class Admin(admin_pb2_grpc.AdminServiceServicer):
            def GetServerInfo(self, request, context):
                return admin_pb2.GetServerInfoResponse(version="1", workers=3)

        search_pb2_grpc.add_SearchServiceServicer_to_server(Search(), self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(Admin(), self._server)
        add = self._server.add_insecure_port
        number = self._server.add_secure_port(port, credentials) if credentials else add(port)
        self.address = f"127.0.0.1:{number}"
        self._server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()


def good(request=None, number=0) -> search_pb2.SearchResponse:
    n_queries = len(request.matrix.data) // (4 * request.matrix.dim) if request else 1
    ids = np.full((n_queries, 2), number, "<u8")
    return search_pb2.SearchResponse(
        ids=ids.tobytes(), distances=bytes(8 * n_queries), num_queries=n_queries, k=2, snapshot=1
    )


def partial(request, number) -> search_pb2.SearchResponse:
    """An answer that the deadline cut short, from a cache; of requests with a first query of zeros, none is."""
    answer = good(request, number)
    n_queries, whole = answer.num_queries, not np.frombuffer(request.matrix.data, "<f4")[:4].any()
    answer.stats.pages_read.extend(range(n_queries))
    answer.stats.bytes_read.extend(4_096 * i for i in range(n_queries))
    answer.stats.stage_seconds["read"] = 0.25
    answer.stats.cache.extend([search_pb2.CACHE_GRADE_REPEAT, search_pb2.CACHE_GRADE_MISS][:n_queries])
    if not whole:
        answer.partial = True
        answer.stats.truncated.extend(i == 0 for i in range(n_queries))
    return answer


def failing_first(times: int, error: Exception):
    def answer(request, number):
        if number <= times:
            raise error
        return good(request, number)

    return answer


QUERY = np.ones((1, 4), np.float32)


def test_answers_are_those_of_the_engine(door, server, rows):
    with door(server.address) as client:
        result = client.search(rows, 4)
        info, told = client.info(), client.server_info()
    np.testing.assert_array_equal(result.ids[:, 0], np.arange(300))
    assert (info["count"], told["limits"]["k"]) == (300, 1_000)


def test_what_is_asked_arrives_under_its_name(door):
    with Planted(good) as planted, door(planted.address, collection="notes") as client:
        client.search(
            QUERY,
            2,
            recall_target=0.9,
            exact=True,
            on_deadline="partial",
            session="dialogue-17",
            request_id="r-1",
            rerank_candidates=7,
        )
    (request,) = planted.requests
    assert (request.collection, request.k, request.recall_target, request.exact) == ("notes", 2, 0.9, True)
    assert (request.session, request.request_id, request.rerank_candidates) == (b"dialogue-17", "r-1", 7)
    assert request.on_deadline == search_pb2.ON_DEADLINE_PARTIAL
    assert planted.metadata[0]["x-request-id"] == "r-1"


@pytest.mark.parametrize(
    "options", [{"on_deadline": "never"}, {"k": "ten"}, {"recall_target": "high"}, {"session": 5}, {"k": 2**40}]
)
def test_what_can_not_be_sent_is_refused_here(door, options):
    with Planted(good) as planted, door(planted.address) as client:
        with pytest.raises(InputError):
            client.search(QUERY, **options)
        assert not planted.requests


def test_a_batch_of_several_requests_is_answered_in_its_order(door, monkeypatch):
    """Later requests are answered first."""
    monkeypatch.setattr(parts, "REQUEST_QUERIES", 1)

    def answer(request, number):
        value = np.frombuffer(request.matrix.data, "<f4")[0]
        time.sleep(0.1 if value == 0 else 0)
        return good(request, int(value))

    queries = np.repeat(np.arange(10, dtype=np.float32)[:, None], 4, axis=1)
    with Planted(answer) as planted, door(planted.address) as client:
        assert client.search(queries, 2).ids[:, 0].tolist() == list(range(10))
        assert len(planted.requests) == 10
        assert len(set(planted.peers)) > 1


def test_batches_are_answered_one_by_one_and_taken_when_their_turn_comes(door, monkeypatch):
    monkeypatch.setattr(parts, "REQUEST_QUERIES", 2)
    taken = []

    def batches():
        for size in (1, 5, 0, 3, *[1] * 20):
            taken.append(size)
            yield np.full((size, 4), len(taken), np.float32)

    with Planted(good) as planted, door(planted.address) as client:
        results = client.search_batches(batches(), 2)
        if door is Client:
            first = next(results)
            assert len(taken) <= 1 + parts.REQUESTS_UNDER_WAY
            results = [first, *results]
    assert [len(result.ids) for result in results] == taken


def test_what_an_answer_cost_and_how_whole_it_is_comes_with_it(door, monkeypatch):
    """Of a batch of two requests, of which the deadline cut short the second."""
    monkeypatch.setattr(parts, "REQUEST_QUERIES", 2)
    queries = np.repeat(np.array([0, 0, 1, 1], np.float32)[:, None], 4, axis=1)
    with Planted(partial) as planted, door(planted.address) as client:
        whole, found = client.search(queries[:2], 2), client.search(queries, 2, on_deadline="partial")
    assert (whole.partial, whole.truncated.tolist()) == (False, [])
    assert (found.partial, found.truncated.tolist()) == (True, [False, False, True, False])
    assert found.stats.cache == ("repeat", "miss", "repeat", "miss")
    assert found.stats.pages_read.tolist() == [0, 1, 0, 1]
    assert found.stats.bytes_read.tolist() == [0, 4_096, 0, 4_096]
    assert found.stats.stage_seconds == {"read": 0.5}


@pytest.mark.parametrize("told", ["pages_read", "cache", "truncated"])
def test_a_server_that_tells_of_other_queries_than_were_asked_is_not_believed(door, told):
    def answer(request, number):
        response = good(request, number)
        getattr(response.stats, told).extend([1, 1, 1])
        return response

    with Planted(answer) as planted, door(planted.address) as client, pytest.raises(ServerError, match=told):
        client.search(QUERY, 2)


def test_some_batches_are_under_way_at_once(door):
    """As many as requests of one search, and no more; the answers come in order."""
    at_once, most = [], []

    def answer(request, number):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.05)
        at_once.pop()
        return good(request, int(np.frombuffer(request.matrix.data, "<f4")[0]))

    with Planted(answer) as planted, door(planted.address) as client:
        found = list(client.search_batches((np.full((1, 4), i, np.float32) for i in range(12)), 2))
    assert [result.ids[0, 0] for result in found] == list(range(12))
    assert 1 < max(most) <= parts.REQUESTS_UNDER_WAY


@pytest.mark.parametrize("error", [BusyError("full", retry_after_ms=1), ServerError("warming up")])
def test_a_refusal_that_passes_is_met_again(door, error):
    with Planted(failing_first(2, error)) as planted, door(planted.address) as client:
        assert client.search(QUERY, 2).ids.tolist() == [[3, 3]]


def test_a_call_that_the_server_ends_unasked_is_one_that_it_had_no_room_for(door):
    with Planted(failing_first(2, _EndedError())) as planted, door(planted.address) as client:
        assert client.search(QUERY, 2).ids.tolist() == [[3, 3]]
    with Planted(failing_first(99, _EndedError())) as planted, door(planted.address) as client:
        with pytest.raises(BusyError, match="ended the call"):
            client.search(QUERY, 2)
        assert len(planted.requests) == retry.TRIES


def test_the_delay_that_the_server_asks_for_is_kept(door):
    with Planted(failing_first(1, BusyError("full", retry_after_ms=600))) as planted, door(planted.address) as client:
        begun = time.monotonic()
        client.search(QUERY, 2)
        assert 0.6 <= time.monotonic() - begun < 5


def test_who_is_asked_to_come_later_than_there_is_time_fails_at_once(door):
    with Planted(failing_first(9, BusyError("full", retry_after_ms=60_000))) as planted:
        begun = time.monotonic()
        with door(planted.address, timeout=5) as client, pytest.raises(BusyError) as refused:
            client.search(QUERY, 2)
    assert time.monotonic() - begun < 2
    assert (len(planted.requests), refused.value.retry_after_ms) == (1, 60_000)


@pytest.mark.parametrize(
    "error", [InputError("k is wrong", field="k"), ReadError("the device failed"), DeadlineError("late")]
)
def test_what_another_try_would_not_help_is_tried_once(door, error):
    with Planted(failing_first(9, error)) as planted, door(planted.address) as client:
        with pytest.raises(type(error)):
            client.search(QUERY, 2)
        assert len(planted.requests) == 1


def test_tries_end(door):
    with Planted(failing_first(99, BusyError("full", retry_after_ms=1))) as planted, door(planted.address) as client:
        with pytest.raises(BusyError):
            client.search(QUERY, 2)
        assert len(planted.requests) == retry.TRIES


def test_delays_grow_and_differ(monkeypatch):
    class Call(grpc.RpcError):
        trailing_metadata = lambda self: ()  # noqa: E731
        code = lambda self: grpc.StatusCode.UNAVAILABLE  # noqa: E731
        details = lambda self: "down"  # noqa: E731

    delays = [
        [tries.delay_after(Call()) for _ in range(4)]
        for tries in (retry.Tries("a", Throttle(), 60.0) for _ in range(50))
    ]
    bounds = [min(retry.DELAY_SECONDS * 2**i, retry.DELAY_SECONDS_MAX) for i in range(4)]
    for i, bound in enumerate(bounds):
        drawn = [one[i] for one in delays]
        assert bound / 2 <= min(drawn) < max(drawn) <= bound


def test_calls_are_held_back_while_the_server_refuses_many_and_tell_it(door, monkeypatch):
    monkeypatch.setattr(retry, "DELAY_SECONDS", 0.0)
    with Planted(failing_first(999, BusyError("full", retry_after_ms=1))) as planted, door(planted.address) as client:
        errors = []
        for _ in range(20):
            with pytest.raises(BusyError) as refused:
                client.search(QUERY, 2)
            errors.append(refused.value)
    assert FEW <= len(planted.requests) < 20 * retry.TRIES / 2
    (held_back,) = {error.retry_after_ms for error in errors if "wasn't sent" in str(error)}
    assert held_back == 1


def test_recall_is_measured_and_told_in_numbers(door):
    with Planted(good) as planted, door(planted.address) as client:
        found = client.measure_recall(QUERY, 2, confidence=0.99)
        client.measure_recall(live=50)
        with pytest.raises(InputError, match="give queries, or live"):
            client.measure_recall()
    assert (found.recall, found.recall_low, found.recall_high, found.snapshot) == (0.75, 0.5, 0.9, 3)
    assert found.query_recalls.tolist() == [0.5, 1.0]
    asked, live = planted.requests
    assert (asked.matrix.dim, asked.confidence, asked.k) == (4, 0.99, 2)
    assert (live.WhichOneof("queries"), live.live) == ("live", 50)


def test_calls_side_by_side_go_over_connections_of_their_own():
    """And calls one after another over one."""
    with (
        Planted(lambda request, number: time.sleep(0.2) or good(request)) as planted,
        Client(planted.address) as client,
    ):
        for _ in range(2):
            client.search(QUERY, 2)
        assert len(set(planted.peers)) == 1
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: client.search(QUERY, 2), range(6)))
        assert len(set(planted.peers)) == 6


def test_no_more_connections_than_allowed_and_the_idlest_is_taken():
    pool, opened = Pool(lambda number: number, 2), []
    with pool.connection() as first, pool.connection() as second, pool.connection() as third:
        opened += [first, second, third]
    with pool.connection() as again:
        opened.append(again)
    assert opened == [0, 1, 0, 0]
    with pytest.raises(InputError, match="connections is 0"):
        Pool(lambda number: number, 0)


def test_threads_share_a_client(server, rows):
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: client.search(rows[i], 1).ids[0, 0], range(64)))
    assert found == list(range(64))


class TestSecurity:
    @pytest.fixture(scope="class")
    @staticmethod
    def pem(tmp_path_factory) -> Path:
        """A self-signed certificate for 127.0.0.1."""
        folder = tmp_path_factory.mktemp("pem")
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=annserve"
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(folder / "pem")]
        try:
            subprocess.run([*command.split(), *names], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs openssl")
        return folder

    @pytest.fixture
    @staticmethod
    def guarded(pem):
        pair = ((pem / "key").read_bytes(), (pem / "pem").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], pair[1], require_client_auth=True)
        with Planted(good, credentials=credentials) as planted:
            yield planted

    def test_key_and_certificates_are_shown_over_tls(self, door, guarded, pem):
        shown = {"tls_ca": pem / "pem", "tls_certificate": pem / "pem", "tls_key": pem / "key", "api_key": "secret"}
        with door(guarded.address, **shown) as client:
            assert client.search(QUERY, 2).ids.shape == (1, 2)
        assert guarded.metadata[0]["authorization"] == "Bearer secret"

    def test_without_them_nothing_is_asked(self, door, guarded, pem):
        for shown in ({}, {"tls": True}, {"tls_ca": pem / "pem"}):
            with door(guarded.address, timeout=2, **shown) as client, pytest.raises((ServerError, DeadlineError)):
                client.search(QUERY, 2)
        assert not guarded.requests

    def test_a_key_never_travels_unencrypted_to_another_machine(self, door):
        for address in ("10.0.0.7:50051", "search.example:50051", "[2001:db8::1]:50051"):
            with pytest.raises(InputError, match="for everyone to read"):
                door(address, api_key="secret")
        for address in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
            door(address, api_key="secret").close()
        assert "secret" not in repr(Endpoint("127.0.0.1:1", api_key="secret"))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"api_key": "se\ncret"},
            {"api_key": "schlüssel"},
            {"api_key": ""},
            {"tls_key": Path("x")},
            {"tls_ca": Path("/none")},
        ],
    )
    def test_what_does_not_fit_is_refused_before_a_call(self, door, wrong):
        with pytest.raises(InputError):
            door("127.0.0.1:1", **wrong)


def test_a_call_that_waits_for_another_try_ends_with_the_time_out(door):
    def down(request, number):
        raise ServerError("down")

    with Planted(down) as planted, door(planted.address, timeout=0.4) as client:
        begun = time.monotonic()
        with pytest.raises((ServerError, DeadlineError)):
            client.search(QUERY, 2)
        assert time.monotonic() - begun < 2


def test_closing_ends_what_is_under_way():
    gate = threading.Event()
    with Planted(lambda request, number: gate.wait(5) and good(request)) as planted:
        client = Client(planted.address)
        failed = []

        def ask():
            try:
                client.search(QUERY, 2)
            except Exception as error:
                failed.append(error)

        caller = threading.Thread(target=ask)
        caller.start()
        time.sleep(0.3)
        client.close()
        caller.join(5)
        gate.set()
        assert not caller.is_alive()
    (error,) = failed
    assert isinstance(error, ServerError)
    assert "was closed" in str(error)


def test_a_closed_client_says_so(door):
    client = door("127.0.0.1:1")
    client.close()
    for call in (lambda: client.search(QUERY, 2), lambda: client.search(np.zeros((300_000, 16)), 2), client.info):
        with pytest.raises(ServerError, match="was closed; make another"):
            call()


@pytest.mark.parametrize("address", ["localhost", "http://localhost:50051", ""])
def test_an_address_without_host_and_port_is_refused(door, address):
    with pytest.raises(InputError, match="give HOST:PORT") as caught:
        door(address)
    assert caught.value.field == "address"


def test_a_session_that_is_no_name_is_refused_before_it_is_sent(door):
    with door("127.0.0.1:1") as client, pytest.raises(InputError, match="session is 17") as caught:
        client.search(QUERY, 2, session=17)
    assert caught.value.field == "session"
