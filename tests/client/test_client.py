"""The client cuts batches, raises what the server raised, tries again where that helps, and stays light."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from serve import fake
from serve.running import run, serving

from annserve import errors
from annserve.client import Client, parts
from annserve.client.convert import queries_to_send
from annserve.client.status import error_of
from annserve.door.status import reason_of, status_of
from annserve.errors import AnnserveError, BusyError, DeadlineError, InputError, ServerError
from annserve.results import SearchStats
from annserve.rpc import search_pb2, search_pb2_grpc

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AnnserveError)]


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (300, 16)).astype(np.uint8)


@pytest.fixture(scope="module")
def server(rows, tmp_path_factory):
    with serving(fake.write(tmp_path_factory.mktemp("client") / "photos", rows)) as server:
        yield server


@pytest.mark.parametrize("limit", ["REQUEST_BYTES", "REQUEST_QUERIES", "REQUEST_NEIGHBORS"])
def test_a_batch_cut_into_requests_answers_as_in_one(server, rows, monkeypatch, limit):
    with Client(server.address) as whole:
        expected = whole.search(rows, 4)
    monkeypatch.setattr(parts, limit, 70)
    assert len(list(parts.parts(rows, None, 4))) > 4
    with Client(server.address) as cut:
        result = cut.search(rows, 4)
    np.testing.assert_array_equal(result.ids, expected.ids)
    np.testing.assert_array_equal(result.distances, expected.distances)
    for name in SearchStats.COUNTS:
        np.testing.assert_array_equal(getattr(result.stats, name), getattr(expected.stats, name))
    assert result.stats.stage_seconds["score"] > expected.stats.stage_seconds["score"]


def test_a_batch_beyond_what_a_request_may_hold_is_cut_by_itself(server, rows):
    many = np.repeat(rows, 60, axis=0)
    with Client(server.address, timeout=120) as client:
        assert len(many) > client.server_info()["limits"]["queries"]
        result = client.search(many, 1)
    np.testing.assert_array_equal(result.ids[:, 0], np.repeat(np.arange(300), 60))


def test_each_count_arrives_under_its_own_name(server, rows):
    with Client(server.address) as client:
        stats = client.search(rows[:2], 3).stats
    assert [getattr(stats, name).tolist() for name in SearchStats.COUNTS] == [
        [3 + i] * 2 for i in range(len(SearchStats.COUNTS))
    ]
    assert (stats.stage_seconds, stats.seconds) == ({"score": 0.25}, 0.5)


@pytest.mark.parametrize(("n_queries", "k"), [(60_000, 1), (4_000, 10), (300, 300)])
def test_requests_and_answers_fit_the_smallest_limit_of_a_server(rows, tmp_path, n_queries, k):
    many = np.resize(rows, (n_queries, 16)).astype(np.float32)
    folder = fake.write(tmp_path / "photos", rows)
    with serving(folder, options=("--message-mib", "1")) as small, Client(small.address, timeout=120) as client:
        assert client.search(many, k).ids.shape == (n_queries, k)


def test_results_belong_to_the_caller(server, rows):
    with Client(server.address) as client:
        result = client.search(rows[:2], 3)
    result.ids[0, 0] = result.distances[0, 0] = 9


def test_facts_of_the_index_have_the_names_of_the_embedded_door(server, tmp_path, rows):
    expected = fake.open(fake.write(tmp_path / "same", rows)).info()
    with Client(server.address) as client:
        assert client.info() == expected | {"collection": "photos"}


def test_server_info_tells_version_start_and_limits(server):
    with Client(server.address) as client:
        info = client.server_info()
    assert set(info) == {"version", "start_time", "limits", "workers", "writable"}
    asked = {"message_bytes": 64 << 20, "queries": 16_384, "k": 1_000, "dim": 32_768}
    assert info["limits"] == asked | {"session_bytes": 128, "measured_queries": 1_000}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_the_server_is_raised_again_as_itself(kind):
    """Without a network: the status that the server makes, as the call that the client sees."""

    class Call(grpc.RpcError):
        def __init__(self, status):
            self._status = status

        def trailing_metadata(self):
            return (("grpc-status-details-bin", self._status.SerializeToString()),)

        def code(self):
            return next(code for code in grpc.StatusCode if code.value[0] == self._status.code)

        def details(self):
            return self._status.message

    error = error_of(Call(status_of(kind("what, where, what to do"), "method")), "address")
    assert type(error) is kind
    assert str(error) == "what, where, what to do"
    assert reason_of(kind).isupper()


def test_no_server_is_one_clear_error_after_a_few_tries():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        with Client(address) as client, pytest.raises(ServerError, match=f"no server answers at {address}"):
            client.search(np.ones(4))
    assert 0.2 < time.monotonic() - begun < 10


def test_a_server_that_comes_up_in_time_is_met():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{chosen.getsockname()[1]}"

    def appear():
        time.sleep(0.3)
        servers.append(answering(lambda request: good_answer(), address))

    servers = []
    threading.Thread(target=appear).start()
    with Client(address) as client:
        assert client.search(np.ones(4), 2).ids.tolist() == [[1, 2]]
    servers[0].stop(0)


def test_a_server_that_is_unavailable_is_tried_again_but_not_for_ever():
    calls = []

    def unavailable(request):
        calls.append(request)
        raise grpc.RpcError

    server = answering(unavailable, code=grpc.StatusCode.UNAVAILABLE)
    with Client(server.address) as client, pytest.raises(ServerError):
        client.search(np.ones(4))
    assert 2 <= len(calls) <= 5
    server.stop(0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, BusyError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
    ],
)
def test_other_failures_are_not_tried_again(code, kind):
    calls = []

    def failing(request):
        calls.append(request)
        raise grpc.RpcError

    server = answering(failing, code=code)
    with Client(server.address) as client, pytest.raises(kind):
        client.search(np.ones(4))
    assert len(calls) == 1
    server.stop(0)


LIES = {
    "too few ids": {"ids": bytes(8)},
    "too few distances": {"distances": bytes(4)},
    "another number of queries": {"num_queries": 2},
    "k of 0": {"k": 0, "ids": b"", "distances": b""},
    "negative sizes": {"num_queries": -1, "k": -2},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_an_answer_that_contradicts_itself_is_an_error_of_the_server(lie):
    server = answering(lambda request: good_answer(**LIES[lie]))
    with Client(server.address) as client, pytest.raises(ServerError, match="another version"):
        client.search(np.ones(4), 2)
    server.stop(0)


def test_the_time_out_covers_all_requests_of_a_batch(monkeypatch):
    def slow(request):
        time.sleep(0.15)
        return good_answer()

    monkeypatch.setattr(parts, "REQUEST_QUERIES", 1)
    server = answering(slow)
    with Client(server.address, timeout=0.5) as hasty, pytest.raises(DeadlineError):
        hasty.search(np.ones((10, 4)), 2)
    server.stop(0)


def test_a_proxy_of_the_environment_is_left_aside(server, rows, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(server.address) as client:
        assert client.search(rows[0], 1).ids[0, 0] == 0


@pytest.mark.parametrize("wrong", [np.ones((1, 2, 3)), np.array("x"), np.array([["a"]]), np.ones(3, complex)])
def test_what_is_no_matrix_of_numbers_is_refused_before_it_is_sent(wrong):
    with pytest.raises(InputError) as refused:
        queries_to_send(wrong)
    assert refused.value.field == "queries"


def test_the_client_needs_neither_numba_nor_faiss_nor_the_server():
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        ours = ("annserve.serve", "annserve.services", "annserve.door")
        if name.split(".")[0] in ("numba", "llvmlite", "faiss", "zarr") or name in ours:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import annserve, numpy
client = annserve.Client("127.0.0.1:1")
client.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_query_prints_neighbours_and_writes_files(server, rows, tmp_path):
    source, ids, distances = (str(tmp_path / name) for name in ("q.npy", "ids.npy", "distances.npy"))
    np.save(source, rows[:12])
    asked = ("query", source, "--address", server.address, "-k", "2")
    shown = run(*asked)
    assert shown.returncode == 0, shown.stderr
    assert "0 (0)" in shown.stdout
    written = run(*asked, "--out", ids, "--distances", distances, "--recall", "1")
    assert written.returncode == 0, written.stderr
    assert np.load(ids)[:, 0].tolist() == list(range(12))
    assert np.load(distances).dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["distances.npy", "ids.npy", "q.npy"]


def test_query_says_what_is_wrong_in_one_line(server, tmp_path):
    np.save(tmp_path / "q.npy", np.ones((2, 15), np.float32))
    wrong = run("query", str(tmp_path / "q.npy"), "--address", server.address)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "dimension 15, but the index has 16" in wrong.stderr
    absent = run("query", str(tmp_path / "q.npy"), "--address", "127.0.0.1:1")
    assert (absent.returncode, absent.stderr.count("\n")) == (4, 1)
    assert "no server answers at 127.0.0.1:1" in absent.stderr


def good_answer(**changes) -> search_pb2.SearchResponse:
    """Neighbours 1 and 2 of one query, with whatever is to be wrong about them."""
    columns = {"ids": np.array([1, 2], "<u8").tobytes(), "distances": bytes(8), "num_queries": 1, "k": 2}
    return search_pb2.SearchResponse(**(columns | changes))


def answering(answer, address: str = "127.0.0.1:0", code: grpc.StatusCode | None = None) -> grpc.Server:
    """Start a server in this process that answers as told, or fails with `code`."""

    class Service(search_pb2_grpc.SearchServiceServicer):
        def Search(self, request, context):
            try:
                return answer(request)
            except grpc.RpcError:
                context.abort(code, "planted")

    server = grpc.server(ThreadPoolExecutor(2))
    search_pb2_grpc.add_SearchServiceServicer_to_server(Service(), server)
    server.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    return server
