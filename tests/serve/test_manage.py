"""Collections are made and removed, and jobs run, over gRPC and through another process's socket."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from annserve.client import AdminClient
from annserve.door.status import Door
from annserve.errors import ConflictError, InputError, NotFoundError
from annserve.jobs import DataFolder, Jobs, work
from annserve.rpc import admin_pb2, admin_pb2_grpc, job_pb2
from annserve.services import manage_service
from annserve.services.forward import Forwarded, NoManager, RemoteManager
from annserve.services.manage_service import ManageService

PROGRAM = Path(__file__).parents[1] / "jobs" / "program.py"
NO_PROXY = [("grpc.enable_http_proxy", 0)]
SLOW = job_pb2.BuildWork(input="slow_forever.npy")


def server_of(service: admin_pb2_grpc.AdminServiceServicer, address: str) -> tuple[grpc.Server, str]:
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[Door({})])
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, address if address.startswith("unix:") else f"127.0.0.1:{port}"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> DataFolder:
    monkeypatch.setattr(work, "PROGRAM", (sys.executable, str(PROGRAM)))
    monkeypatch.setenv("PROGRAM_CALLS", str(tmp_path / "calls"))
    folder = DataFolder(tmp_path / "data")
    for name in ("rows.npy", "slow.npy", "slow_forever.npy", "bad.npy"):
        (folder.path / "inputs" / name).touch()
    return folder


@pytest.fixture(params=["here", "passed on"])
def admin(request, folder, tmp_path):
    """The service as a caller reaches it: in the process that it asks, or in one that passes on."""
    jobs = Jobs(folder, threads=1)
    service, servers, channel = ManageService(folder, jobs), [], None
    if request.param == "passed on":
        inner, address = server_of(service, f"unix:{tmp_path / 's'}")
        servers.append(inner)
        channel = grpc.insecure_channel(address, NO_PROXY)
        service = Forwarded(RemoteManager(channel))
    outer, address = server_of(service, "127.0.0.1:0")
    servers.append(outer)
    with grpc.insecure_channel(address, NO_PROXY) as caller:
        stub = admin_pb2_grpc.AdminServiceStub(caller)
        stub.servers, stub.address = servers, address
        yield stub
    jobs.close()
    for server in servers:
        server.stop(0).wait()
    if channel is not None:
        channel.close()


def create(admin, name: str = "photos") -> admin_pb2.Collection:
    return admin.CreateCollection(admin_pb2.CreateCollectionRequest(collection=name)).collection


def start(admin, *, collection: str = "photos", **asked) -> job_pb2.Job:
    return admin.StartJob(job_pb2.StartJobRequest(collection=collection, **asked)).job


def watch(admin, job: job_pb2.Job) -> list[job_pb2.Job]:
    return [one.job for one in admin.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id))]


def running(admin, job: job_pb2.Job) -> job_pb2.Job:
    calls = admin.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id))
    found = next(one.job for one in calls if one.job.progress.done)
    calls.cancel()
    return found


def refusal(call, *arguments) -> tuple[str, str, str, str]:
    """Give code, reason, field and message of what a call is refused with."""
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments)
    reason = field = ""
    for detail in rpc_status.from_call(refused.value).details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "annserve"
            reason = info.reason
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
    return refused.value.code().name, reason, field, refused.value.details()


def test_a_collection_is_made_built_and_removed(admin, folder):
    made = create(admin)
    assert (made.name, made.state, made.managed) == ("photos", admin_pb2.COLLECTION_STATE_EMPTY, True)
    asked = job_pb2.BuildWork(input="rows.npy", metric="cosine", skip_invalid=True, seed=3, ram="20B")
    states = watch(admin, start(admin, build=asked))
    assert states[-1].state == job_pb2.JOB_STATE_SUCCEEDED
    assert states[-1].build == asked
    assert states[-1].outcome == "build of photos: done"
    assert states[-1].create_time.ToSeconds() <= states[-1].start_time.ToSeconds() <= states[-1].end_time.ToSeconds()
    assert (states[-1].progress.stage, states[-1].progress.total, states[-1].progress.unit) == ("cluster", 10, "rows")
    for kind in ({"append": job_pb2.AppendWork(input="rows.npy")}, {"compact": job_pb2.CompactWork()}):
        assert watch(admin, start(admin, **kind))[-1].state == job_pb2.JOB_STATE_SUCCEEDED
    verified = start(admin, verify=job_pb2.VerifyWork(queries=0))
    assert watch(admin, verified)[-1].state == job_pb2.JOB_STATE_SUCCEEDED
    calls = [json.loads(line) for line in (folder.path.parent / "calls").read_text().splitlines()]
    assert [kind for kind, *_ in calls] == ["build", "append", "compact", "verify"]
    assert "--queries=0" in calls[-1]
    admin.DeleteCollection(admin_pb2.DeleteCollectionRequest(collection="photos"))
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["inputs", "jobs"]
    create(admin)


def test_refusals_say_code_reason_and_field(admin):
    create(admin)

    def asked(**request):
        return job_pb2.StartJobRequest(**{"collection": "photos", **request})

    made = admin_pb2.CreateCollectionRequest
    for call, request, code, reason, field in [
        (admin.CreateCollection, made(collection="photos"), "ABORTED", "CONFLICT_ERROR", ""),
        (admin.CreateCollection, made(collection="../x"), "INVALID_ARGUMENT", "INPUT_ERROR", "collection"),
        (admin.CreateCollection, made(), "INVALID_ARGUMENT", "INPUT_ERROR", "collection"),
        (admin.CreateCollection, made(collection="jobs"), "INVALID_ARGUMENT", "INPUT_ERROR", "collection"),
        (admin.DeleteCollection, made(collection="jobs"), "INVALID_ARGUMENT", "INPUT_ERROR", "collection"),
        (admin.DeleteCollection, made(collection="notes"), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.StartJob, asked(), "INVALID_ARGUMENT", "INPUT_ERROR", "work"),
        (admin.StartJob, asked(build=job_pb2.BuildWork()), "INVALID_ARGUMENT", "INPUT_ERROR", "input"),
        (admin.StartJob, asked(build=job_pb2.BuildWork(input="../a")), "INVALID_ARGUMENT", "INPUT_ERROR", "input"),
        (admin.StartJob, asked(build=job_pb2.BuildWork(input="no.npy")), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.StartJob, asked(compact=job_pb2.CompactWork()), "INVALID_ARGUMENT", "INPUT_ERROR", "collection"),
        (admin.StartJob, asked(collection="notes", build=SLOW), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.StartJob, asked(resume_job_id="x"), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.StartJob, asked(build=SLOW, request_id="x" * 65), "INVALID_ARGUMENT", "INPUT_ERROR", "request_id"),
        (admin.StartJob, asked(build=SLOW, request_id="ü"), "INVALID_ARGUMENT", "INPUT_ERROR", "request_id"),
        (admin.GetJob, job_pb2.GetJobRequest(job_id="x"), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.CancelJob, job_pb2.CancelJobRequest(), "NOT_FOUND", "NOT_FOUND_ERROR", ""),
        (admin.ListJobs, job_pb2.ListJobsRequest(page_size=-1), "INVALID_ARGUMENT", "INPUT_ERROR", "page_size"),
        (admin.ListJobs, job_pb2.ListJobsRequest(page_token="x"), "INVALID_ARGUMENT", "INPUT_ERROR", "page_token"),
    ]:
        assert refusal(call, request)[:3] == (code, reason, field), request
    code, _, _, message = refusal(lambda: list(admin.WatchJob(job_pb2.WatchJobRequest(job_id="x"))))
    assert (code, "there is no job 'x'" in message) == ("NOT_FOUND", True)


def test_a_job_outlives_its_caller_and_is_continued_after_it_was_cancelled(admin):
    create(admin)
    job = start(admin, build=SLOW, request_id="r-1")
    running(admin, job)
    assert start(admin, build=SLOW, request_id="r-1").job_id == job.job_id
    code, _, _, message = refusal(admin.DeleteCollection, admin_pb2.DeleteCollectionRequest(collection="photos"))
    assert (code, f"job {job.job_id} is at work" in message) == ("ABORTED", True)
    admin.CancelJob(job_pb2.CancelJobRequest(job_id=job.job_id))
    assert watch(admin, job)[-1].state == job_pb2.JOB_STATE_CANCELLED
    again = start(admin, collection="", resume_job_id=job.job_id)
    assert (again.resumed_job_id, again.build, again.collection) == (job.job_id, SLOW, "photos")
    running(admin, again)


def test_jobs_are_listed_newest_first_a_page_at_a_time(admin):
    for name in ("one", "two"):
        create(admin, name)
    jobs = []
    for name in ("one", "two", "one", "two", "one"):
        jobs.append(start(admin, collection=name, build=job_pb2.BuildWork(input="bad.npy")))
        assert watch(admin, jobs[-1])[-1].state == job_pb2.JOB_STATE_FAILED
    listed, token = [], ""
    for size in (2, 2, 1):
        page = admin.ListJobs(job_pb2.ListJobsRequest(page_size=2, page_token=token))
        assert len(page.jobs) == size
        listed += page.jobs
        token = page.next_page_token
    assert token == ""
    assert [job.job_id for job in listed] == [job.job_id for job in reversed(jobs)]
    some = admin.ListJobs(job_pb2.ListJobsRequest(collection="two"))
    assert {job.collection for job in some.jobs} == {"two"}
    assert (len(some.jobs), some.next_page_token) == (2, "")


def test_a_watcher_that_leaves_gives_its_place_to_another(admin, monkeypatch):
    create(admin)
    job = start(admin, build=SLOW)
    for _ in range(manage_service.WATCHERS_MAX + 3):
        running(admin, job)
        deadline = time.monotonic() + 5
    assert time.monotonic() < deadline


def test_a_server_without_a_data_folder_says_so():
    server, address = server_of(Forwarded(NoManager()), "127.0.0.1:0")
    with grpc.insecure_channel(address, NO_PROXY) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        code, _, _, message = refusal(admin.ListJobs, job_pb2.ListJobsRequest())
        assert (code, "--data" in message) == ("FAILED_PRECONDITION", True)
        assert refusal(lambda: list(admin.WatchJob(job_pb2.WatchJobRequest())))[0] == "FAILED_PRECONDITION"
    server.stop(0).wait()


@pytest.mark.parametrize("admin", ["passed on"], indirect=True)
def test_where_the_process_for_jobs_is_gone_a_call_may_be_made_again(admin):
    admin.servers[0].stop(0).wait()
    with pytest.raises(grpc.RpcError, match="doesn't answer") as refused:
        admin.ListJobs(job_pb2.ListJobsRequest())
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


class Restarted(admin_pb2_grpc.AdminServiceServicer):
    """Is silent for longer than its caller's time-out, then away, then back."""

    def __init__(self) -> None:
        self.calls = 0

    def WatchJob(self, request, context):
        self.calls += 1
        state = job_pb2.JOB_STATE_WAITING if self.calls == 1 else job_pb2.JOB_STATE_SUCCEEDED
        if self.calls in (1, 4):
            yield job_pb2.WatchJobResponse(job=job_pb2.Job(job_id=request.job_id, state=state))
        if self.calls == 1:
            time.sleep(1.7)
        if self.calls < 4:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")


def test_a_server_that_restarts_while_a_silent_job_is_watched_is_asked_again():
    service = Restarted()
    server = grpc.server(ThreadPoolExecutor(2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with AdminClient(f"127.0.0.1:{port}", timeout=1.5) as client:
        assert [job.state for job in client.watch("1")] == ["waiting", "succeeded"]
    server.stop(0).wait()


class Silent(admin_pb2_grpc.AdminServiceServicer):
    """Has a job that never changes."""

    def WatchJob(self, request, context):
        yield job_pb2.WatchJobResponse(job=job_pb2.Job(job_id=request.job_id))
        while context.is_active():
            time.sleep(0.05)


def test_a_process_that_stops_waits_for_no_job_that_is_watched_through_it():
    behind, before = (grpc.server(ThreadPoolExecutor(2)) for _ in range(2))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(Silent(), behind)
    channels = [grpc.insecure_channel(f"127.0.0.1:{one.add_insecure_port('127.0.0.1:0')}") for one in (behind, before)]
    manager = RemoteManager(channels[0])
    admin_pb2_grpc.add_AdminServiceServicer_to_server(Forwarded(manager), before)
    behind.start()
    before.start()
    watching = admin_pb2_grpc.AdminServiceStub(channels[1]).WatchJob(job_pb2.WatchJobRequest(job_id="1"), timeout=20)
    assert next(watching).job.job_id == "1"
    manager.end()
    assert list(watching) == []
    for server in (before, behind):
        server.stop(0).wait()


def test_what_is_passed_on_for_a_caller_who_has_gone_is_cancelled():
    class Call:
        cancelled = False

        def cancel(self):
            self.cancelled = True

        def __iter__(self):
            return iter(() if self.cancelled else (1, 2, 3))

    class Gone:
        def add_callback(self, callback):
            return False

    assert list(RemoteManager(grpc.insecure_channel("unix:none"))._stream(Call(), Gone())) == []


class TestClient:
    """The client for administration, over the same service."""

    @pytest.fixture
    @staticmethod
    def client(admin):
        with AdminClient(admin.address, collection="photos") as client:
            yield client

    def test_a_job_is_started_watched_and_told_in_plain_values(self, client):
        made = client.create_collection("photos")
        assert (made.name, made.state, made.managed, made.index) == ("photos", "empty", True, None)
        started = client.start("build", input="slow.npy", metric="ip", seed=3)
        assert (started.kind, started.collection, started.has_ended) == ("build", "photos", False)
        assert started.options == {"input": "slow.npy", "metric": "ip", "seed": 3}
        states = list(client.watch(started.job_id))
        assert states[-1] == client.job(started.job_id) == client.wait(started.job_id)
        last = states[-1]
        assert (last.state, last.stage, last.done, last.total, last.unit) == ("succeeded", "cluster", 10, 10, "rows")
        assert last.created <= last.started <= last.ended
        assert last.outcome == "build of photos: done"
        assert [job.job_id for job in client.jobs()] == [started.job_id]
        assert list(client.jobs("other")) == []
        client.delete_collection("photos")
        with pytest.raises(NotFoundError):
            client.delete_collection("photos")

    def test_a_job_is_cancelled_and_continued(self, client):
        client.create_collection("photos")
        job = client.start("build", input="slow_forever.npy")
        with pytest.raises(ConflictError, match="is at work"):
            client.start("build", input="rows.npy")
        next(now for now in client.watch(job.job_id) if now.done)
        client.cancel(job.job_id)
        assert client.wait(job.job_id).state == "cancelled"
        again = client.resume(job.job_id)
        assert (again.resumed_job_id, again.options) == (job.job_id, {"input": "slow_forever.npy"})

    def test_what_no_job_has_is_refused_here(self, client):
        for wrong in ({"kind": "guess"}, {"kind": "build", "colour": "red"}, {"kind": "build", "seed": "x"}):
            with pytest.raises(InputError):
                client.start(**wrong)

    def test_a_long_list_is_asked_for_page_by_page(self, client, monkeypatch):
        monkeypatch.setattr("annserve.services.pages_of_lists.PAGE_SIZE_MAX", 2)
        client.create_collection("photos")
        jobs = [client.wait(client.start("build", input="bad.npy").job_id) for _ in range(5)]
        assert [job.job_id for job in client.jobs()] == [job.job_id for job in reversed(jobs)]
        assert {job.outcome for job in jobs} == {"bad.npy holds NaN in row 7; repair it"}


def test_what_was_half_removed_is_removed_at_the_next_start(folder):
    going = folder.path / ".going-0123"
    (going / "deep").mkdir(parents=True)
    jobs = Jobs(folder)
    ManageService(folder, jobs)
    jobs.close()
    assert not going.exists()
    assert folder.collections() == []
