"""A server comes up or says why not, is asked how it is, respects deadlines, and leaves without losing a call."""

from __future__ import annotations

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fake
import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hostile import Target
from running import run, serving

from annserve.client import Client
from annserve.errors import BusyError, DeadlineError, InputError
from annserve.rpc import admin_pb2, admin_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def channel_to(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_in_flight_at_a_signal_are_answered_and_the_exit_code_is_0(slow, number):
    """Ten callers on a slow engine with two threads: running and waiting calls are both in flight."""
    with (
        serving(slow, options=("--threads", "2")) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(10) as callers,
    ):
        client.server_info()
        calls = [callers.submit(client.search, np.zeros(24), 3) for _ in range(10)]
        time.sleep(0.8)
        code, log = server.stop(number)
        assert [call.result().ids.shape for call in calls] == [(1, 3)] * 10
    assert code == 0
    assert "event=opened collection=slow ram_bytes=4224 io=fake" in log
    assert f"event=stopping signal={signal.Signals(number).name}" in log
    assert log.splitlines()[-1].split(" ")[2] == "event=stopped"


def test_a_grace_that_ends_ends_the_calls(tmp_path):
    folder = fake.write(tmp_path / "endless", np.ones((20, 4), np.uint8), seconds=5)
    with serving(folder, options=("--grace-seconds", "0.2")) as server, Client(server.address) as client:
        client.server_info()
        with ThreadPoolExecutor(1) as callers:
            call = callers.submit(client.search, np.ones(4), 1)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert call.exception(timeout=4) is not None


def test_health_turns_to_not_serving_before_the_last_call_ends(slower):
    with serving(slower) as server, channel_to(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "annserve.v1.SearchService", "annserve.v1.AdminService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == SERVING, service
        with pytest.raises(grpc.RpcError) as unknown:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=5)
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == SERVING
        with Client(server.address) as client, ThreadPoolExecutor(1) as callers:
            call = callers.submit(client.search, np.zeros(24), 1)
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            assert not call.done()
            call.result()
        watch.cancel()


def test_health_answers_while_every_search_thread_is_taken(slow):
    with (
        serving(slow, options=("--threads", "1")) as server,
        Client(server.address) as client,
        channel_to(server.address) as channel,
        ThreadPoolExecutor(6) as callers,
    ):
        calls = [callers.submit(client.search, np.zeros(24), 1) for _ in range(6)]
        time.sleep(0.1)
        begun = time.monotonic()
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        # Behind the searches it would have waited for more than two seconds.
        assert time.monotonic() - begun < 1.0
        for call in calls:
            call.result()


def test_watchers_of_health_do_not_use_up_the_threads(photos):
    with serving(photos) as server, channel_to(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(20)]
        assert {next(watch).status for watch in watches} == {SERVING}
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        for watch in watches:
            watch.cancel()


def test_who_watches_and_takes_nothing_holds_up_nobody(photos):
    """Neither probes, nor other watchers, nor the end of the server."""
    with serving(photos, options=("--grace-seconds", "0.5")) as server, channel_to(server.address) as channel:
        deaf = [Target(server.address).deaf_call("/grpc.health.v1.Health/Watch") for _ in range(3)]
        time.sleep(0.3)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service="collections/photos"), timeout=20)
        assert next(watch).status == SERVING
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 5
        for connection in deaf:
            connection.close()


def test_who_only_watches_does_not_make_the_end_wait(photos):
    with serving(photos) as server, channel_to(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [answer.status for answer in watch] == [NOT_SERVING]
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 5


def test_reflection_gives_the_proto_files(photos):
    with serving(photos) as server, channel_to(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest
        asked = [ask(list_services=""), ask(file_containing_symbol="annserve.v1.SearchService")]
        listed, found = stub.ServerReflectionInfo(iter(asked), timeout=10)
        assert {service.name for service in listed.list_services_response.service} == {
            "annserve.v1.AdminService",
            "annserve.v1.SearchService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        names = {
            FileDescriptorProto.FromString(file).name for file in found.file_descriptor_response.file_descriptor_proto
        }
        assert "annserve/v1/search.proto" in names


def test_a_deadline_ends_the_search_itself_and_not_only_the_wait(slower):
    """A search takes 1.5 s. A thread that had gone on with the first could not end the second in 2.5 s."""
    with serving(slower, options=("--threads", "1")) as server:
        with Client(server.address, timeout=0.1) as hasty, pytest.raises(DeadlineError, match="time"):
            hasty.search(np.zeros(24), 1)
        with Client(server.address, timeout=2.5) as client:
            assert client.search(np.zeros(24), 1).ids.shape == (1, 1)


def test_a_call_whose_deadline_passed_while_it_waited_is_not_begun(slow):
    with serving(slow, options=("--threads", "1")) as server, ThreadPoolExecutor(20) as callers:
        with Client(server.address, timeout=0.5) as client:
            client.server_info()
            calls = [callers.submit(client.search, np.zeros(24), 1) for _ in range(20)]
            errors = [call.exception() for call in calls]
        late = [error for error in errors if error is not None]
        assert 1 <= len(late) < 20
        # Refused at once where its deadline is foreseen to pass, which depends on what was measured before.
        assert {type(error) for error in late} <= {DeadlineError, BusyError}
        # Twenty searches of 0.4 s would keep the only thread for 8 s.
        with Client(server.address, timeout=4) as client:
            client.search(np.zeros(24), 1)


def test_kernels_are_loaded_before_the_server_says_that_it_serves(slow):
    """The fake engine is quick in its first search only, so that the first caller already finds it slow."""
    with serving(slow) as server, Client(server.address, timeout=0.2) as client, pytest.raises(DeadlineError):
        client.search(np.zeros(24), 1)


def test_a_port_in_use_is_one_line_and_exit_code_4(photos):
    with serving(photos) as server:
        second = run("serve", str(photos), "--listen", server.address)
        assert second.returncode == 4
        assert second.stdout == ""
        assert second.stderr.count("\n") == 1
        assert f"port {server.port} is in use on 127.0.0.1" in second.stderr


def test_a_port_held_by_a_server_that_shares_it_is_in_use_all_the_same(photos):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        second = run("serve", str(photos), "--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert (second.returncode, "is in use" in second.stderr) == (4, True)


def test_an_index_that_is_not_there_ends_the_server_with_its_error(tmp_path):
    missing = run("serve", str(tmp_path / "none"), "--listen", "127.0.0.1:0", engine="real")
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr


def test_two_indexes_of_one_name_are_refused(tmp_path, photos):
    other = fake.write(tmp_path / "photos", np.ones((20, 4), np.uint8))
    refused = run("serve", str(photos), str(other), "--listen", "127.0.0.1:0")
    assert (refused.returncode, "two indexes are named 'photos'" in refused.stderr) == (2, True)


def test_the_port_file_holds_the_port_of_a_server_that_answers(photos, tmp_path):
    with serving(photos, options=("--port-file", str(tmp_path / "port"))) as server:
        port = int((tmp_path / "port").read_text())
        assert port == server.port
        with Client(f"127.0.0.1:{port}") as client:
            assert client.server_info()["version"]


def test_many_callers_at_once_each_get_their_own_answer(photos):
    rows = np.load(photos / "rows.npy")
    wrong: list[int] = []

    def ask(first: int) -> None:
        with Client(server.address) as client:
            for row in range(first, len(rows), 8):
                if client.search(rows[row], 1).ids[0, 0] != row:
                    wrong.append(row)

    with serving(photos) as server:
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_indexes_are_listed_in_pages_by_name(tmp_path):
    folders = [fake.write(tmp_path / name, np.ones((20, 4), np.uint8)) for name in ("c", "a", "b")]
    with serving(*folders) as server, channel_to(server.address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        request, names = admin_pb2.ListIndexesRequest(page_size=2), []
        while True:
            page = admin.ListIndexes(request, timeout=5)
            names.append([index.collection for index in page.indexes])
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert names == [["a", "b"], ["c"]]
        for wrong in ({"page_size": -1}, {"page_token": "zzz"}):
            with pytest.raises(grpc.RpcError) as refused:
                admin.ListIndexes(admin_pb2.ListIndexesRequest(**wrong), timeout=5)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_address_open_to_others_needs_the_word_insecure(photos):
    refused = run("serve", str(photos), "--listen", "0.0.0.0:0")
    assert (refused.returncode, "--insecure" in refused.stderr) == (InputError.exit_code, True)
