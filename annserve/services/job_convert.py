"""Jobs and messages: the options of a job have the same names in both."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from annserve.errors import InputError
from annserve.jobs import Job, Work
from annserve.rpc import job_pb2

_WORK = {
    "build": job_pb2.BuildWork,
    "append": job_pb2.AppendWork,
    "compact": job_pb2.CompactWork,
    "verify": job_pb2.VerifyWork,
}


def work_of(request: job_pb2.StartJobRequest) -> Work | None:
    """Give the work that a request asks for; None where it asks to continue a job.

    Raises
    ------
    InputError
        If it asks for nothing.
    """
    kind = request.WhichOneof("work")
    if kind is None:
        raise InputError(
            "the request names no work; give build, append, compact, verify or resume_job_id", field="work"
        )
    return None if kind == "resume_job_id" else Work(kind, _given(getattr(request, kind)))


def _given(message: Message) -> dict[str, Any]:
    """Give the fields that were set, by name."""
    return {field.name: value for field, value in message.ListFields()}


def job_of(job: Job) -> job_pb2.Job:
    """Give a job as a message."""
    return job_pb2.Job(
        job_id=job.job_id,
        collection=job.collection,
        state=f"JOB_STATE_{job.state.upper()}",
        create_time=_time(job.created),
        start_time=_time(job.started),
        end_time=_time(job.ended),
        progress=job_pb2.JobProgress(**vars(job.progress)),
        outcome=job.outcome,
        resumed_job_id=job.resumed_job_id,
        **{job.work.kind: _WORK[job.work.kind](**job.work.options)},
    )


def _time(seconds: float) -> Timestamp | None:
    """Give a time as a message; None where it hasn't come."""
    if not seconds:
        return None
    stamp = Timestamp()
    stamp.FromMilliseconds(round(seconds * 1_000))
    return stamp
