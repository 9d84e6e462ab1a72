"""The client for administration: collections and jobs of a server, as plain values."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc

from annserve.client.convert import info_of
from annserve.client.door import SyncDoor
from annserve.errors import InputError
from annserve.rpc import admin_pb2, job_pb2

#: Kind of job → the message of its options.
WORK: dict[str, Any] = {
    "build": job_pb2.BuildWork,
    "append": job_pb2.AppendWork,
    "compact": job_pb2.CompactWork,
    "verify": job_pb2.VerifyWork,
}
_PAUSE_SECONDS = 0.2
#: Each process opens a version and warms it up, which takes a minute where kernels are to be compiled first.
PUBLISH_SECONDS = 600.0
#: Of a connection that failed, within the time-out: a server that is started anew takes its time.
_TRIES = 1_000
#: States of a job that change no more.
ENDED = ("succeeded", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class CollectionStatus:
    """How a collection stands.

    Attributes
    ----------
    name : str
    state : str
        ``empty``, ``opening``, ``ready`` or ``quarantined``.
    reason : str
        Why it isn't ready.
    managed : bool
        Whether the server made it.
    index : dict or None
        Facts of what is served, under the names of ``Collection.info()``.
    audits : tuple of dict
        What the auditor found, one entry a recall target.
    """

    name: str
    state: str
    reason: str
    managed: bool
    index: dict[str, Any] | None
    audits: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes
    ----------
    job_id, collection : str
    kind : str
        ``build``, ``append``, ``compact`` or ``verify``.
    options : dict
        What was asked for.
    state : str
        ``waiting``, ``running``, or one of `ENDED`.
    stage : str
        That runs now.
    done, total : int
        Of the stage, in `unit`; a total of 0 isn't known.
    unit : str
    stages_done : int
    outcome : str
        How it ended, in words.
    created, started, ended : datetime or None
    resumed_job_id : str
        The job that it continues, if any.
    """

    job_id: str
    collection: str
    kind: str
    options: dict[str, Any]
    state: str
    stage: str
    done: int
    total: int
    unit: str
    stages_done: int
    outcome: str
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    resumed_job_id: str

    @property
    def has_ended(self) -> bool:
        """Whether it changes no more."""
        return self.state in ENDED


class AdminClient(SyncDoor):
    """Looks after a server; threads may share it. Parameters and errors are those of ``Door``."""

    def create_collection(self, name: str) -> CollectionStatus:
        """Make a collection without an index; ``start("build", …)`` builds one into it."""
        request = admin_pb2.CreateCollectionRequest(collection=name)
        return _collection(self._call(lambda stubs: stubs.admin.CreateCollection, request, tries=1).collection)

    def collection(self, name: str = "") -> CollectionStatus:
        """Tell how a collection stands; the one of this client, if none is named."""
        request = admin_pb2.GetCollectionRequest(collection=name or self._collection)
        return _collection(self._call(lambda stubs: stubs.admin.GetCollection, request).collection)

    def collections(self) -> Iterator[CollectionStatus]:
        """Tell how all collections stand, by name."""

        def ask(token: str) -> Any:
            request = admin_pb2.ListCollectionsRequest(page_token=token)
            return self._call(lambda stubs: stubs.admin.ListCollections, request)

        return (_collection(one) for page in _pages(ask) for one in page.collections)

    def delete_collection(self, name: str) -> None:
        """Remove a collection and its files for good."""
        request = admin_pb2.DeleteCollectionRequest(collection=name)
        self._call(lambda stubs: stubs.admin.DeleteCollection, request, tries=1)

    def publish_version(self, name: str, snapshot: int = 0) -> CollectionStatus:
        """Have the newest version of an index served, and give the collection as it then stands.

        It may take `PUBLISH_SECONDS`, or the client's time-out where that is longer.

        Raises
        ------
        ConflictError
            If `snapshot` is given, and another version is the newest.
        """
        request = admin_pb2.PublishVersionRequest(collection=name, snapshot=snapshot)
        deadline = time.monotonic() + max(self._timeout, PUBLISH_SECONDS)
        return _collection(self._call(lambda stubs: stubs.admin.PublishVersion, request, deadline).collection)

    def start(self, kind: str, collection: str = "", *, request_id: str = "", **options: Any) -> JobStatus:
        """Start a job.

        Parameters
        ----------
        kind : str
            ``build``, ``append``, ``compact`` or ``verify``.
        collection : str
            The one of this client, if none is named.
        request_id : str
            Starts one job, however often it is sent; one is made by default, so that a repetition does no harm.
        **options
            As of ``BuildWork``, ``AppendWork`` and ``VerifyWork``: `input`, `metric`, `ram`, …

        Raises
        ------
        InputError
            If there is no such kind or option, or the server refuses it.
        NotFoundError
            If there is no such collection or input.
        ConflictError
            If the collection has a job that hasn't ended.
        """
        if kind not in WORK:
            raise InputError(f"{kind!r} is no kind of job; use one of {', '.join(WORK)}", field="kind")
        try:
            work: Any = {kind: WORK[kind](**options)}
        except (TypeError, ValueError) as error:
            raise InputError(f"a {kind} has no such options: {error}") from None
        return self._start(collection=collection or self._collection, request_id=request_id, **work)

    def resume(self, job_id: str, *, request_id: str = "") -> JobStatus:
        """Start a job that goes on where another stopped short."""
        return self._start(resume_job_id=job_id, request_id=request_id)

    def _start(self, *, request_id: str, **asked: Any) -> JobStatus:
        request = job_pb2.StartJobRequest(request_id=request_id or uuid.uuid4().hex, **asked)
        return _job(self._call(lambda stubs: stubs.admin.StartJob, request).job)

    def job(self, job_id: str) -> JobStatus:
        """Tell how a job stands."""
        return _job(self._call(lambda stubs: stubs.admin.GetJob, job_pb2.GetJobRequest(job_id=job_id)).job)

    def jobs(self, collection: str = "") -> Iterator[JobStatus]:
        """Tell how all jobs stand, or those of one collection, newest first."""

        def ask(token: str) -> Any:
            request = job_pb2.ListJobsRequest(collection=collection, page_token=token)
            return self._call(lambda stubs: stubs.admin.ListJobs, request)

        return (_job(one) for page in _pages(ask) for one in page.jobs)

    def watch(self, job_id: str) -> Iterator[JobStatus]:
        """Tell how a job stands now, then whenever that changes, until it has ended.

        However long that takes: the time-out is that of a connection that failed, which is made again.
        """
        request = job_pb2.WatchJobRequest(job_id=job_id)
        last, tries = None, None
        while last is None or not last.has_ended:
            with self._pool.connection() as stubs:
                call = stubs.admin.WatchJob(request, metadata=self._metadata(request))
                try:
                    for answer in call:
                        now, tries = _job(answer.job), None
                        if now != last:
                            yield (last := now)
                    delay = _PAUSE_SECONDS  # the server stops, and leaves the job to the next one
                except grpc.RpcError as error:
                    # Its time begins when it fails: a job that waits may be silent for longer.
                    tries = tries or self._tries(None, _TRIES)
                    delay = self._delay_after(error, tries)
                finally:
                    call.cancel()
            if last is None or not last.has_ended:
                time.sleep(delay)

    def wait(self, job_id: str) -> JobStatus:
        """Give a job once it has ended."""
        *_, last = self.watch(job_id)
        return last

    def cancel(self, job_id: str) -> JobStatus:
        """Stop a job; one that runs takes a moment to end."""
        return _job(self._call(lambda stubs: stubs.admin.CancelJob, job_pb2.CancelJobRequest(job_id=job_id)).job)


def _pages(ask: Callable[[str], Any]) -> Iterator[Any]:
    """Ask for page after page of a list."""
    token = ""
    while True:
        page = ask(token)
        yield page
        token = page.next_page_token
        if not token:
            return


def _collection(told: admin_pb2.Collection) -> CollectionStatus:
    return CollectionStatus(
        name=told.name,
        state=admin_pb2.CollectionState.Name(told.state).removeprefix("COLLECTION_STATE_").lower(),
        reason=told.reason,
        managed=told.managed,
        index=info_of(told.index) if told.HasField("index") else None,
        audits=tuple({field.name: value for field, value in audit.ListFields()} for audit in told.audits),
    )


def _job(told: job_pb2.Job) -> JobStatus:
    kind = told.WhichOneof("work") or ""
    times = {}
    for name in ("create", "start", "end"):
        has = told.HasField(f"{name}_time")
        times[name] = getattr(told, f"{name}_time").ToDatetime(UTC) if has else None
    return JobStatus(
        job_id=told.job_id,
        collection=told.collection,
        kind=kind,
        options={field.name: value for field, value in getattr(told, kind).ListFields()} if kind else {},
        state=job_pb2.JobState.Name(told.state).removeprefix("JOB_STATE_").lower(),
        stage=told.progress.stage,
        done=told.progress.done,
        total=told.progress.total,
        unit=told.progress.unit,
        stages_done=told.progress.stages_done,
        outcome=told.outcome,
        created=times["create"],
        started=times["start"],
        ended=times["end"],
        resumed_job_id=told.resumed_job_id,
    )
