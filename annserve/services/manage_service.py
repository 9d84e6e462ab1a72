"""What changes a server: collections made and removed, and jobs. One process of a server answers this, for all.

It holds no index. What it leaves in the data folder is what the processes that search notice by themselves.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Collection, Iterator

import grpc

from annserve.errors import BusyError, ConflictError, NotFoundError, OutputError
from annserve.jobs import DataFolder, Jobs
from annserve.rpc import admin_pb2, admin_pb2_grpc, job_pb2
from annserve.services.job_convert import job_of, work_of
from annserve.services.pages_of_lists import page_of
from annserve.spec import check_request_id
from annserve.storage.atomic import fsync_folder

#: What is being removed lies under such names, which no collection can have.
_GOING = ".going-"
#: WatchJob calls at once; each takes a thread as long as it lasts.
WATCHERS_MAX = 32


class ManageService(admin_pb2_grpc.AdminServiceServicer):
    """Answers those methods of AdminService that change something, and all about jobs.

    Parameters
    ----------
    folder : DataFolder
    jobs : Jobs
        Of that folder.
    named : collection of str
        Collections that were named when the server was started, whose names are taken.
    """

    def __init__(self, folder: DataFolder, jobs: Jobs, named: Collection[str] = ()) -> None:
        self._folder, self._jobs, self._named = folder, jobs, named
        #: A collection isn't removed while a job begins in it.
        self._changing = threading.Lock()
        self._watchers = threading.BoundedSemaphore(WATCHERS_MAX)
        for leftover in folder.path.glob(f"{_GOING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def CreateCollection(  # noqa: N802 - the names of the methods in the proto
        self, request: admin_pb2.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> admin_pb2.CreateCollectionResponse:
        """Make a folder that an index can be built into."""
        path = self._folder.collection(request.collection)
        if request.collection in self._named:
            raise ConflictError(f"there is a collection {request.collection!r} already; choose another name")
        try:
            path.mkdir(mode=0o750)
        except FileExistsError:
            raise ConflictError(f"there is a collection {request.collection!r} already; choose another name") from None
        except OSError as error:
            raise OutputError(f"collection {request.collection!r} can't be made: {error.strerror}") from error
        fsync_folder(self._folder.path)
        return admin_pb2.CreateCollectionResponse(
            collection=admin_pb2.Collection(
                name=request.collection, state=admin_pb2.COLLECTION_STATE_EMPTY, managed=True
            )
        )

    def DeleteCollection(  # noqa: N802
        self, request: admin_pb2.DeleteCollectionRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DeleteCollectionResponse:
        """Take a collection's name away, then its files; whoever has them open reads them to the end."""
        path = self._folder.collection(request.collection)
        going = self._folder.path / f"{_GOING}{secrets.token_hex(8)}"
        with self._changing:
            job = self._jobs.busy_with(request.collection)
            if job is not None:
                raise ConflictError(f"job {job.job_id} is at work on {request.collection!r}; cancel it first")
            try:
                path.rename(going)
            except FileNotFoundError:
                raise NotFoundError(f"there is no collection {request.collection!r} that could be deleted") from None
            except OSError as error:
                raise OutputError(f"{request.collection!r} can't be deleted: {error.strerror}") from error
        fsync_folder(self._folder.path)
        shutil.rmtree(going, ignore_errors=True)
        return admin_pb2.DeleteCollectionResponse()

    def StartJob(  # noqa: N802
        self, request: job_pb2.StartJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.StartJobResponse:
        """Start a job, or continue one."""
        request_id = check_request_id(request.request_id)
        work = work_of(request)
        with self._changing:
            if work is None:
                job = self._jobs.resume(request.resume_job_id, request_id=request_id)
            else:
                job = self._jobs.start(request.collection, work, request_id=request_id)
        return job_pb2.StartJobResponse(job=job_of(job))

    def GetJob(  # noqa: N802
        self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.GetJobResponse:
        """Tell how a job stands."""
        return job_pb2.GetJobResponse(job=job_of(self._jobs.get(request.job_id)))

    def WatchJob(  # noqa: N802
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobResponse]:
        """Tell how a job stands, again and again."""
        if not self._watchers.acquire(blocking=False):
            raise BusyError(f"{WATCHERS_MAX} callers watch jobs already; ask by GetJob", retry_after_ms=5_000)
        try:
            for job in self._jobs.watch(request.job_id, context.is_active):
                yield job_pb2.WatchJobResponse(job=job_of(job))
        finally:
            self._watchers.release()

    def ListJobs(  # noqa: N802
        self, request: job_pb2.ListJobsRequest, context: grpc.ServicerContext
    ) -> job_pb2.ListJobsResponse:
        """Tell how jobs stand, newest first."""
        jobs = {job.job_id: job for job in self._jobs.list(request.collection)}
        page, token = page_of(list(jobs), request.page_size, request.page_token)
        return job_pb2.ListJobsResponse(jobs=[job_of(jobs[job_id]) for job_id in page], next_page_token=token)

    def CancelJob(  # noqa: N802
        self, request: job_pb2.CancelJobRequest, context: grpc.ServicerContext
    ) -> job_pb2.CancelJobResponse:
        """Stop a job."""
        return job_pb2.CancelJobResponse(job=job_of(self._jobs.cancel(request.job_id)))
